"""Clean and robust error as objectives of a trained candidate."""

from __future__ import annotations

import json

import chz
import pytest
import torch

from evo_robust.attacks.curve import robust_curve
from evo_robust.attacks.gradient import FGSM, MIFGSM, PGD
from evo_robust.data.sets import Digits
from evo_robust.objectives.base import Candidate, Context, Objective
from evo_robust.objectives.errors import CleanError, RobustError
from evo_robust.parts.base import Fraction, UserError
from evo_robust.parts.making import make
from evo_robust.spaces import NSGAPhases
from evo_robust.training.loop import train
from evo_robust.training.recipes import Standard

EPS = (Fraction(0.05), Fraction(0.1), Fraction(0.2))


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    space, data = NSGAPhases(phases=2, nodes=2, channels=8), Digits()
    splits = data.load()
    architecture = space.decode(space.repair(torch.ones(space.n_genes, dtype=torch.int64).numpy()))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = space.build(architecture, data.n_classes, data.in_shape)
    train(model, splits.train, Standard(), 4, seed=0)
    context = Context(space, data, seed=0, device="cpu", workers=1, cache=tmp_path_factory.mktemp("cache"))
    return Candidate(context, architecture, space.to_text(architecture), seed=5, splits=splits, model=model)


def test_clean_error_is_the_share_of_wrong_validation_images(candidate: Candidate) -> None:
    val = candidate.splits.val
    with torch.no_grad():
        wrong = candidate.network()(val.floats()).argmax(1) != val.y
    assert CleanError().measure(candidate) == wrong.double().mean().item()
    assert CleanError(limit=50).measure(candidate) == wrong[:50].double().mean().item()
    assert 0 < wrong.double().mean() < 0.5


def test_robust_error_reduces_the_curve_and_records_it(candidate: Candidate) -> None:
    mean = RobustError(attack=PGD(steps=5), eps=EPS, limit=100)
    worst = chz.replace(mean, reduce="worst", label="worst_case")
    value = mean.measure(candidate)
    figures = candidate.figures["robust_error"]
    assert list(figures) == ["0.05", "0.1", "0.2", "estimated"] and figures["estimated"] == []
    errors = [figures[k] for k in ("0.05", "0.1", "0.2")]
    assert value == pytest.approx(sum(errors) / 3) and errors == sorted(errors)
    assert CleanError(limit=100).measure(candidate) <= errors[0] < errors[2]
    assert worst.measure(candidate) == candidate.figures["worst_case"]["0.2"]
    assert json.loads(json.dumps(candidate.figures)) == candidate.figures


def test_robust_error_is_that_of_the_curve(candidate: Candidate) -> None:
    objective = RobustError(attack=FGSM(), eps=(Fraction(0.5),), norm="l2")
    curve = robust_curve(
        candidate.network(), candidate.splits.val, FGSM(), [0.5], "l2", generator=candidate.generator("any")
    )
    assert objective.measure(candidate) == curve.error[0]


def test_bfloat16_crafts_and_float32_confirms(candidate: Candidate) -> None:
    objective = RobustError(attack=FGSM(), eps=(Fraction(0.1),), limit=100)
    fast = chz.replace(objective, precision="bf16")
    images = candidate.splits.val.take(slice(100))
    generator = candidate.generator("robust_error")
    curve = robust_curve(candidate.network(), images, FGSM(), [0.1], generator=generator, precision="bf16")
    assert fast.measure(candidate) == curve.error[0] == pytest.approx(objective.measure(candidate), abs=0.05)
    with pytest.raises(UserError, match="float32"):  # auto measures: figures could differ between runs
        make(RobustError, {"precision": "auto"}, {}, "test")


def test_same_candidate_same_figures_another_seed_another_start(candidate: Candidate) -> None:
    objective = RobustError(attack=PGD(steps=1, step=Fraction(0.001)), eps=(Fraction(0.3),))
    assert objective.measure(candidate) == objective.measure(candidate)
    draws = [candidate.generator(objective.name).initial_seed() for _ in range(2)]
    other = Candidate(candidate.context, candidate.architecture, candidate.text, 6, candidate.splits, candidate.model)
    assert draws[0] == draws[1] != other.generator(objective.name).initial_seed()


def test_errors_need_weights(candidate: Candidate) -> None:
    bare = Candidate(candidate.context, candidate.architecture, candidate.text, 5, candidate.splits)
    for objective in (CleanError(), RobustError()):
        assert objective.needs_weights
        with pytest.raises(ValueError, match="trained network"):
            objective.measure(bare)


def test_errors_are_written_like_any_part() -> None:
    @chz.chz
    class Holder:
        objective: Objective = chz.field(default_factory=RobustError)

    argv = [
        "objective=RobustError",
        "objective.eps=8/255,0.1",
        "objective.attack=MIFGSM",
        "objective.attack.steps=3",
        "objective.norm=l2",
    ]
    made = chz.Blueprint(Holder).make_from_argv(argv).objective
    expected = RobustError(attack=MIFGSM(steps=3), eps=(Fraction(8 / 255), Fraction(0.1)), norm="l2")
    assert made == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": ()}, "at least one eps"),
        ({"eps": (Fraction(0),)}, r"in \(0, 1\]"),
        ({"eps": (Fraction(0.2), Fraction(0.1))}, "ascending"),
        ({"eps": (Fraction(0.1), Fraction(0.1))}, "distinct"),
        ({"limit": 0}, "limit >= 1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RobustError(**settings)  # type: ignore[arg-type]


def test_bad_limit_of_the_clean_error_is_refused() -> None:
    with pytest.raises(ValueError, match="limit >= 1"):
        CleanError(limit=0)
