"""Signs of masked gradients: planted maskings are told, sound networks are not, and the judge survives both."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from attackable import seeded, small_cnn
from torch import Tensor, nn

from evo_robust import judge as door
from evo_robust import zoo
from evo_robust.attacks.base import Threat
from evo_robust.attacks.gradient import FGSM, PGD
from evo_robust.attacks.square import Square
from evo_robust.data.base import Splits
from evo_robust.data.sets import Digits
from evo_robust.judging import probes
from evo_robust.judging.judgement import Figure, Verdict
from evo_robust.judging.levels import Judged, has_gradient, levels, possible
from evo_robust.judging.probes import Ball, Probes
from evo_robust.judging.signs import sentences, signs_of, with_transferred
from evo_robust.judging.store import Store
from evo_robust.judging.trials import Trial, trials
from evo_robust.judging.weights import identity
from evo_robust.parts.base import Fraction

EPS = 0.1


@pytest.fixture(scope="session")
def splits() -> Splits:
    return Digits().load()


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def dropped() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))


def pooled() -> nn.Module:
    first = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*first, nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


def lenet() -> nn.Module:
    return zoo.build("lenet", 10, (1, 8, 8))


def made(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


def fitted(make: Callable[[], nn.Module], splits: Splits, *, eps: float = 0.0, seed: int = 0) -> nn.Module:
    """A network trained for a moment, on images attacked in a ball of ``eps`` where that is not zero."""
    model, generator = made(make, seed), seeded(seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(3):
            for part in torch.randperm(len(splits.train), generator=generator).split(64):
                x, y = splits.train.floats(part), splits.train.y[part]
                if eps:
                    x = PGD(steps=2).perturb(model.eval(), x, y, Threat(eps=Fraction(eps)), generator)
                loss = F.cross_entropy(model.train()(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def trained(splits: Splits) -> nn.Module:
    return fitted(small_cnn, splits)


class Around(nn.Module):
    """A network with something before and something after it."""

    def __init__(
        self,
        network: nn.Module,
        before: Callable[[Tensor], Tensor] = torch.clone,
        after: Callable[[Tensor], Tensor] = torch.clone,
    ) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.network(self.before(x)))


def resized(x: Tensor) -> Tensor:
    side = int(torch.randint(6, 12, ()))
    return F.interpolate(F.interpolate(x, size=(side, side), mode="bilinear"), size=(8, 8), mode="bilinear")


def signs(
    model: nn.Module,
    splits: Splits,
    folder: Path,
    attacks: str = "pgd-20",
    norm: str = "linf",
    eps: tuple[float, ...] = (EPS,),
) -> tuple[str, ...]:
    """What the judge says of a network beside its figures under ``attacks``."""
    images = splits.test.take(slice(probes.SAMPLE))
    judged = Judged(model, identity(model), images, images.content(), 0, "float32", Store(folder), {})
    gradient = has_gradient(model, images)
    asked = [possible(trial, gradient=gradient) for trial in trials(attacks, eps, (), None, norm)]  # type: ignore[arg-type]
    found = [(trial, levels(judged, trial, lambda done, kept: None).level) for trial in asked if trial.attacks]
    return signs_of(judged, found, gradient=gradient)


MASKED: dict[str, tuple[dict[str, Callable[[Tensor], Tensor]], tuple[str, ...]]] = {
    "saturated logits": (
        {"after": lambda logits: 1e3 * logits},
        ("exactly zero", "so large that the loss saturates", "Square-100 breaks"),
    ),
    "quantised input": (
        {"before": lambda x: (3 * x).round() / 3},
        ("exactly zero", "is flat", "to the last bit", "With eps=1", "does not rise"),
    ),
    "random resizing": ({"before": resized}, ("the network draws random numbers",)),
    "a rounding without gradient": (
        {"before": lambda x: (15 * x.detach()).round() / 15},
        ("No gradient flows", "to the last bit"),
    ),
    "a sharp softmax": (
        {"after": lambda logits: (1e3 * logits).softmax(1)},
        ("exactly zero", "With eps=1", "does not rise"),
    ),
    "a softmax that float64 sees through": (
        {"after": lambda logits: (50 * logits).softmax(1)},
        ("exactly zero", "In float64 it is zero at 0"),
    ),
}


@pytest.mark.parametrize("name", MASKED)
def test_planted_masking_is_told(name: str, trained: nn.Module, splits: Splits, tmp_path: Path) -> None:
    around, said = MASKED[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = "\n".join(signs(Around(trained, **around).eval(), splits, tmp_path))
    assert [text for text in said if text not in found] == []


HONEST: dict[str, Callable[[Splits], nn.Module]] = {
    "linear": lambda splits: fitted(linear, splits),
    "linear, attacked": lambda splits: fitted(linear, splits, eps=EPS),
    "dropout": lambda splits: fitted(dropped, splits, seed=1),
    "dropout, attacked": lambda splits: fitted(dropped, splits, eps=EPS, seed=2),
    "max pooling": lambda splits: fitted(pooled, splits, seed=3),
    "max pooling, attacked": lambda splits: fitted(pooled, splits, eps=EPS, seed=4),
    "batch norm, attacked": lambda splits: fitted(small_cnn, splits, eps=EPS, seed=5),
    "batch norm, attacked far": lambda splits: fitted(small_cnn, splits, eps=0.3, seed=6),
    "LeNet, attacked": lambda splits: fitted(lenet, splits, eps=EPS),
    "untrained LeNet": lambda splits: made(lenet),
    "untrained max pooling": lambda splits: made(pooled, seed=7),
    "a probability of its own": lambda splits: Around(fitted(linear, splits), after=lambda logits: logits.softmax(1)),
}


@pytest.mark.parametrize("name", HONEST)
def test_a_sound_network_shows_no_sign(name: str, splits: Splits, tmp_path: Path) -> None:
    attacks = "fgsm,pgd-5,pgd-20,square-20"
    assert signs(HONEST[name](splits).eval(), splits, tmp_path, attacks, eps=(0.05, EPS, 0.3)) == ()


def test_signs_in_an_l2_ball(trained: nn.Module, splits: Splits, tmp_path: Path) -> None:
    assert signs(trained, splits, tmp_path, norm="l2", eps=(0.5,)) == ()
    found = signs(Around(trained, after=lambda z: (1e3 * z).softmax(1)), splits, tmp_path, norm="l2", eps=(1.0,))
    assert any("With the images' diagonal as eps" in sign for sign in found)


def test_a_network_is_looked_at_once(
    trained: nn.Module, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = Around(trained, after=lambda logits: 1e3 * logits).eval()
    first = signs(masked, splits, tmp_path)

    def never(*given: object, **named: object) -> None:
        raise AssertionError("looked again")

    monkeypatch.setattr(probes, "robust_curve", never)
    monkeypatch.setattr("evo_robust.judging.levels.robust_curve", never)
    assert first
    assert signs(masked, splits, tmp_path) == first


def seen(**masks: Tensor) -> Probes:
    """A sound look at 100 images, all of which are classified correctly, but for what is given."""
    none, every = torch.zeros(100, dtype=torch.bool), torch.ones(100, dtype=torch.bool)
    usual = {name: none for name in ("random", "moved", "constant", "zero", "flat", "deep", "odd")} | {"risen": every}
    return Probes(Ball("linf", EPS), every, usual | masks, True, (), torch.zeros(100, dtype=torch.long))


def broken(first: int, end: int) -> Tensor:
    """Levels of 100 images of which those in a stretch are broken at the only strength."""
    level = torch.ones(100, dtype=torch.long)
    level[first:end] = 0
    return level


def trial(attack: PGD | FGSM | Square) -> Trial:
    return Trial(attack.words, (attack,), "linf", (EPS,))


@pytest.mark.parametrize(
    ("weak", "strong", "said"),
    [
        (PGD(steps=50), FGSM(), "One step is stronger than many: FGSM breaks 20 of 100"),
        (PGD(steps=50), PGD(steps=10), "Accuracy rises with the number of steps: PGD-10 breaks 20 of 100"),
        (PGD(steps=50), Square(queries=9), "Without any gradient, Square-9 breaks 20 of 100"),
    ],
)
def test_attacks_are_compared_image_by_image(weak: PGD, strong: PGD, said: str) -> None:
    def told(only: int, others: int) -> list[str]:
        found = [(trial(weak), broken(40, 60 + others)), (trial(strong), broken(40 - only, 60))]
        return list(sentences(seen(), found, gradient=True))

    assert told(20, 0)[0].startswith(said)
    assert told(9, 0) == [], "nine images may be chance"
    assert told(20, 10) == [], "so may twenty against ten"


def test_an_attack_that_cannot_cross_the_ball_says_nothing() -> None:
    short = PGD(steps=10, step=Fraction(EPS / 20))
    found = [(trial(short), broken(0, 10)), (trial(FGSM()), broken(0, 60))]
    assert list(sentences(seen(), found, gradient=True)) == []


def test_which_attacks_need_a_gradient() -> None:
    asked = trials(
        "fgsm,compact,deepfool,fmn,cw-l2,autoattack,square,level-l0,de-linf,sigma-zero", (EPS,), (), None, "linf"
    )
    without = [trial.name for trial in asked if possible(trial, gradient=False).attacks]
    assert without == ["Square-5000", "CMA-ES L0", "DE L∞"]
    (mixed,) = trials("pgd+square-9", (EPS,), (), None, "linf")
    assert possible(mixed, gradient=False).attacks == (Square(queries=9),)
    assert (possible(mixed, gradient=False).name, possible(mixed, gradient=True).name) == ("Square-9", mixed.name)


def test_one_odd_image_is_no_sign() -> None:
    few, many = torch.arange(100) < 2, torch.arange(100) < 9
    for name in ("zero", "odd", "constant", "random"):
        assert list(sentences(seen(**{name: few}), (), gradient=True)) == []
        assert len(list(sentences(seen(**{name: many}), (), gradient=True))) == 1


def test_images_of_another_network_are_compared_too() -> None:
    def verdict(own: int, transferred: int) -> Verdict:
        figures = [
            Figure(f"{kind}PGD-10", f"{kind}PGD-10 0.1", "linf", EPS, right, 500, 0.0)
            for kind, right in (("", own), ("transfer ", transferred))
        ]
        return Verdict("net", "here", "", None, None, 1, None, tuple(figures), {}, {}, signs=())

    made = trials("pgd-10", (EPS,), (), None, "linf")
    (sign,) = with_transferred(verdict(400, 300), made).signs or ()
    assert sign.startswith("Images made on another network (PGD-10 0.1) leave 60.0 % right")
    assert "fewer than its own gradients do (PGD-10 0.1: 80.0 %)" in sign
    assert with_transferred(verdict(400, 390), made).signs == ()
    assert with_transferred(verdict(100, 400), made).signs == ()


@pytest.mark.parametrize(
    ("text", "own", "whose"),
    [
        ("pgd-10,square", {"PGD-10": 450, "Square-5000": 400, "worst case": 390}, "its own gradients do (PGD-10 0.1:"),
        ("pgd-10,fgsm", {"PGD-10": 450, "FGSM": 400, "worst case": 390}, "its own gradients do (worst case 0.1:"),
        ("pgd-10,square", {"PGD-10": 450, "Square-5000": 100, "worst case": 90}, "its own gradients do (PGD-10 0.1:"),
        ("square", {"Square-5000": 400}, None),
        ("square,pgd-10:eps=.2", {"Square-5000": 400}, None),
        (
            "pgd-10+square",
            {"PGD-10+Square-5000": 400},
            "its own gradients and black-box attacks on it together do (PGD-10+Square-5000 0.1:",
        ),
    ],
)
def test_black_boxes_are_not_called_gradients(text: str, own: dict[str, int], whose: str | None) -> None:
    rights = {**own, "transfer PGD-10": 300}
    figures = tuple(Figure(name, f"{name} 0.1", "linf", EPS, right, 500, 0.0) for name, right in rights.items())
    verdict = Verdict("net", "here", "", None, None, 1, None, figures, {}, {}, signs=())
    signs = with_transferred(verdict, trials(text, (EPS,), (), None, "linf")).signs or ()
    assert [whose in sign for sign in signs] == ([] if whose is None else [True])


class Cut(nn.Module):
    """A network behind a rounding that no gradient passes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer((15 * x.detach()).round().flatten(1) / 15)


def test_the_judge_gives_black_box_figures_where_there_is_no_gradient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    torch.save(made(Cut).state_dict(), tmp_path / "w.pt")
    networks = f"networks=test_signs:Cut@{tmp_path / 'w.pt'}"
    given = (
        "data=digits",
        "data.test_limit=60",
        "attacks=pgd-5,square-20,pgd+square-20,fgsm+square-9,wsr",
        "eps=.1",
        "device=cpu",
    )
    assert door.main([networks, *given, f"out={tmp_path / 'one'}"]) == 0
    (network,) = json.loads((tmp_path / "one" / "judgement.json").read_text())["networks"]
    assert [figure["trial"] for figure in network["figures"]] == ["clean", "Square-20", "Square-9", "worst case"]
    # what is left of an attack that + joins goes by its own name, and once
    assert network["without"][:3] == ["PGD-5 0.1", "PGD-20+Square-20 0.1", "FGSM+Square-9 0.1"]
    assert network["signs"][0].startswith("No gradient flows")
    with (tmp_path / "one" / "judgement.csv").open(encoding="utf-8") as file:
        assert {row["trial"] for row in csv.DictReader(file)} == {"clean", "Square-20", "Square-9", "worst case"}
    text = (tmp_path / "one" / "judgement.md").read_text()
    assert "| – |" in text
    assert "Cut shows signs of masked gradients" in text
    assert "No gradient flows" in capsys.readouterr().out
    assert door.main([networks, *given, "signs=no", f"out={tmp_path / 'none'}"]) == 0
    assert json.loads((tmp_path / "none" / "judgement.json").read_text())["networks"][0]["signs"] is None
