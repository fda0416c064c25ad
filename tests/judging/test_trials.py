"""Names of attacks, as users type them."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binomtest

from evo_robust.attacks.auto import APGD
from evo_robust.attacks.gradient import FGSM, MIFGSM, PGD
from evo_robust.attacks.level.attack import CMAES
from evo_robust.attacks.minimum.deepfool import DeepFool
from evo_robust.attacks.square import Square
from evo_robust.judging.intervals import wilson
from evo_robust.judging.named import KINDS, SETS
from evo_robust.judging.trials import Trial, trials
from evo_robust.parts.base import Fraction, UserError

EIGHT = 8 / 255


def named(text: str, **given: object) -> list[Trial]:
    usual = {"eps": (EIGHT,), "steps": (), "step": None, "norm": "linf", "n_classes": 10}
    return trials(text, **{**usual, **given})  # type: ignore[arg-type]


def test_every_name_is_an_attack() -> None:
    for name in KINDS:
        (trial,) = named(name)
        assert len(trial.attacks) == 1
        assert trial.eps == ((1.0, 3.0, 5.0, 10.0) if trial.levels else (EIGHT,))


def test_settings_follow_a_name() -> None:
    (trial,) = named("pgd-40:step=2/255:eps=.03:.1:restarts=3")
    assert trial.attacks == (PGD(steps=40, step=Fraction(2 / 255), restarts=3),)
    assert trial.eps == (0.03, 0.1)
    (trial,) = named("pgd:norm=l2:eps=.5")
    assert (trial.norm, trial.name) == ("l2", "PGD-20 l2")


@pytest.mark.parametrize(("text", "share"), [("eps/10", 0.1), ("2.5*eps/20", 0.125), ("eps", 1.0), (".5*eps", 0.5)])
def test_a_step_may_be_a_multiple_of_eps(text: str, share: float) -> None:
    (trial,) = named("pgd-10", step=text)
    (attack,) = trial.attacks
    assert isinstance(attack, PGD)
    assert attack.budget(0.04).step == pytest.approx(share * 0.04)
    assert attack.budget(0.2).step == pytest.approx(share * 0.2)


def test_several_numbers_of_steps_are_several_trials() -> None:
    found = named("pgd,mim-7,fgsm", steps=(10, 50))
    assert [trial.name for trial in found] == ["PGD-10", "PGD-50", "MIM-7", "FGSM"]


def test_plus_joins_attacks_to_one_worst_case() -> None:
    (trial,) = named("apgd-50+square-10")
    assert trial.attacks == (APGD(steps=50), Square(queries=10))
    assert named("compact")[0].name == "compact"


def test_sets_take_settings_and_join() -> None:
    alone, (joined,) = named("compact")[0].attacks, named("compact+square-9")
    assert joined.attacks == (*alone, Square(queries=9))
    assert joined.name == "compact+square-9"
    (wider,) = named("compact:eps=.1:.2")
    for (round_,) in (named("compact:norm=l2"), named("compact", norm="l2")):
        assert (round_.attacks, round_.norm, round_.name) == (alone, "l2", "compact l2")
    assert (wider.attacks, wider.eps, wider.name) == (alone, (0.1, 0.2), "compact")
    assert {trial.eps for trial in named("robnet:eps=.1")} == {(0.1,)}
    assert [trial.eps for trial in named("roco:eps=.2")] == [(), *[(0.2,)] * 5]


def test_sets_are_those_of_the_papers() -> None:
    two = Fraction(2 / 255)
    robnet = {trial.name: trial for trial in named("robnet", eps=(0.3,))}
    assert {name: trial.attacks[0] for name, trial in robnet.items()} == {
        "FGSM": FGSM(),
        "PGD-20": PGD(steps=20, step=two),
        "PGD-100": PGD(steps=100, step=two),
        "DeepFool": DeepFool(),
        "MIM-20": MIFGSM(steps=20, step=two),
    }
    assert all(trial.eps == (EIGHT,) for trial in robnet.values())
    wsr = named("wsr")[0]
    assert (wsr.eps, wsr.mean) == ((0.03, 0.1, 0.17, 0.25), True)
    assert named("racl", data="mnist") == named("racl-mnist")
    assert {trial.eps for trial in named("racl-mnist")} == {(0.3,)}
    assert named("wsr", data="imagenet")[0].eps == (0.015, 0.03, 0.045, 0.06, 0.075, 0.09)
    assert named("wsr", data="imagenet")[0].mean
    assert sorted(SETS) == ["compact", "racl", "racl-mnist", "robnet", "roco", "wsr", "wsr-imagenet"]


def test_what_two_sets_share_is_done_once() -> None:
    names = [trial.name for trial in named("robnet,racl")]
    assert names == ["FGSM", "PGD-20", "PGD-100", "DeepFool", "MIM-20", "PGD-10"]


@pytest.mark.parametrize(
    "text",
    [
        "pgd:step=2.5*eps/20:eps=.03:.1:.17:.25,wsr",
        "wsr,pgd:step=2.5*eps/20:eps=.03:.1:.17:.25",
        "pgd:eps=.03:.1,pgd:eps=.03:.1:mean=yes",
        "pgd:eps=.03:.1:mean=yes,pgd-20:eps=.03:.1",
        "pgd:eps=.2,pgd:eps=.03:.1:mean=yes",
    ],
)
def test_a_mean_that_is_asked_for_once_is_shown(text: str) -> None:
    found = [trial for trial in named(text) if trial.name == "PGD-20"]
    assert [trial.mean for trial in found].count(True) == 1
    columns = [trial.column(eps) for trial in found for eps in trial.eps]
    assert len(set(columns)) == len(columns)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("pgd-20,pgd-20:restarts=5", ["PGD-20", "PGD-20 (restarts=5)"]),
        ("pgd:step=2/255,pgd:step=eps/10:eps=.1", ["PGD-20 (step=2/255)", "PGD-20 (step=eps/10)"]),
        ("pgd+square,pgd:step=2/255+square", ["PGD-20+Square-5000", "PGD-20+Square-5000 (step=2/255)"]),
        ("pgd:eps=.1,pgd:eps=.2", ["PGD-20", "PGD-20"]),
        ("wsr,robnet", ["PGD-20 (step=2.5*eps/20)", "FGSM", "FGSM", "PGD-20 (step=2/255)"]),
    ],
)
def test_different_attacks_never_share_a_column(text: str, names: list[str]) -> None:
    found = named(text)
    assert [trial.name for trial in found][: len(names)] == names
    columns = [trial.column(eps) for trial in found for eps in trial.eps]
    assert len(set(columns)) == len(columns)


def test_radii_of_l2_are_no_radii_of_linf() -> None:
    found = named("pgd,cw-l2,pgd-7:norm=l2,pgd-7:norm=l2:eps=1", eps_l2=(0.5,))
    assert [trial.eps for trial in found] == [(EIGHT,), (0.5,), (0.5,), (1.0,)]
    assert found[1].column(0.5) == "C&W l2 0.5"


def test_no_attack_aims_at_more_classes_than_there_are() -> None:
    assert named("compact", n_classes=5)[0].attacks[1] == APGD(steps=50, loss="targeted-dlr", restarts=4)
    assert named("compact", n_classes=2)[0].attacks[1] == APGD(steps=50, loss="margin", restarts=1)


def test_strengths_are_shown_as_people_write_them() -> None:
    (trial,) = named("pgd", eps=(0.03, EIGHT, 0.1))
    assert [trial.column(eps) for eps in trial.eps] == ["PGD-20 0.03", "PGD-20 8/255", "PGD-20 0.1"]
    (trial,) = named("level-l0:eps=1:5")
    assert trial.attacks == (CMAES(norm="l0"),)
    assert [trial.column(eps) for eps in trial.eps] == ["CMA-ES L0 1 px", "CMA-ES L0 5 px"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pgdd", "did you mean 'pgd'"),
        ("robnett", "did you mean 'robnet'"),
        (" , ", "expected names such as"),
        ("fgsm-3", "without a number"),
        ("pgd:lossy=ce", "did you mean 'loss'"),
        ("pgd:8/255", "expected pgd:KEY=VALUE"),
        ("pgd:eps=9", "did you mean 9/255"),
        ("pgd:eps=.1:.03", "ascending"),
        ("square:norm=l2", "expected linf"),
        ("pgd,pgd-20", "PGD-20 twice"),
        ("robnet+square", "robnet is several attacks"),
        ("compact:lossy=ce", "did you mean 'loss'"),
        ("pgd+level-l0", "expected one norm"),
        ("pgd+level-linf", "do not join"),
        ("level-l0:eps=.5", "whole numbers"),
        ("pgd:step=eps/0", "multiple such as eps/10"),
        ("pgd:step=eps*2", "attacks=pgd:step=eps.2: step=.*multiple such as eps/10"),
        ("pgd-0", "attacks=pgd-0: expected steps >= 1"),
        ("square-0", "attacks=square-0"),
        ("pgd-99999999999999999999", "at most 9,223"),
        ("pgd-3:steps=4", "expected pgd-3 or steps=, got both"),
        ("pgd:eps=.1:eps=.2", "eps is given twice"),
        ("pgd:eps=.1,.2", "behind colons, such as fgsm:eps=.1:.2"),
        ("pgd:mean=maybe", "expected mean=yes or mean=no"),
        ("fgsm:epz=.1", "attacks=fgsm:epz=.1: fgsm has no setting 'epz': did you mean 'eps'"),
        ("pgd-3:restarts=0", "attacks=pgd-3:restarts=0: expected"),
        ("fgsm+", r"attacks=fgsm\+: expected a name on each side"),
        ("adversarial-set:eps=1", "without settings"),
        ("fgsm:eps=.1:.2,fgsm:eps=.2", "expected all strengths of FGSM at once"),
        ("fgsm:eps=.1:.2:mean=yes,fgsm:eps=.3:mean=yes", "expected all strengths of FGSM at once, got them in parts"),
        ("fgsm:eps=.1:norm=l2:.2", "norm=l2:.2: expected linf or l2"),
        ("fgsm:eps=.3:0.30000000000000004", "expected distinct eps"),
        ("fgsm:eps=1e-300:.1", "expected eps >= 3e-08"),
        ("level-l0:eps=inf", "whole numbers"),
        ("level-l0:eps=nan", "whole numbers"),
        ("level-l0:eps=3:3", "expected distinct eps"),
        ("pgd+pgd", r"expected different attacks joined by \+, got pgd twice"),
        ("compact+apgd-50", "got apgd-50 twice"),
    ],
)
def test_a_wrong_name_gets_one_clear_message(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        named(text)


@pytest.mark.parametrize(("loss", "least"), [("dlr", 3), ("targeted-dlr", 4)])
def test_a_loss_for_more_classes_than_there_are_is_refused(loss: str, least: int) -> None:
    with pytest.raises(UserError, match=f"expected {least} classes or more for loss={loss}, got 2; loss=margin"):
        named(f"apgd-5:loss={loss}", n_classes=2)


def test_of_few_classes_no_attack_is_done_twice() -> None:
    (trial,) = named("compact", n_classes=2)
    assert trial.attacks == (
        *(APGD(steps=50, loss=loss) for loss in ("ce", "margin")),
        APGD(steps=50, loss="probability-margin", restarts=4),
    )


def test_every_strength_has_a_column_of_its_own() -> None:
    (trial,) = named("fgsm", eps=(1e-6, 0.12341, 0.12342, 1 / 3))
    assert [trial.column(eps) for eps in trial.eps] == ["FGSM 1e-06", "FGSM 0.12341", "FGSM 0.12342", "FGSM 85/255"]


def test_a_step_without_effect_is_refused() -> None:
    with pytest.raises(UserError, match="step=2/255 has no effect on attacks=fgsm,pgd-5:step=1/255"):
        named("fgsm,pgd-5:step=1/255", step="2/255")


def test_steps_without_effect_are_refused() -> None:
    with pytest.raises(UserError, match="steps=3 has no effect on attacks=fgsm,pgd-5"):
        named("fgsm,pgd-5", steps=(3,))


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (90, 100), (456, 1000)])
def test_intervals_are_wilsons(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-9)
    with pytest.raises(ValueError, match="expected 0 <= right <= n"):
        wilson(n + 1, n)
    assert math.isclose(wilson(0, 10)[0], 0.0, abs_tol=1e-12)
