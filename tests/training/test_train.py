"""Recipes and the training loop, on real digits."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import chz
import pytest
import torch
from torch import Tensor, nn

from evo_robust.attacks.base import Threat
from evo_robust.attacks.gradient import PGD
from evo_robust.data.images import Augment, Images
from evo_robust.data.sets import Digits
from evo_robust.inference.predictions import clean_error, correct_mask
from evo_robust.parts.base import Fraction, UserError, subclass_named
from evo_robust.spaces.ops import Normalize
from evo_robust.spaces.robnet.codec import RobNetArchitecture
from evo_robust.spaces.robnet.space import RobNet
from evo_robust.spaces.supernet import inherit
from evo_robust.training.epochs import read_logs
from evo_robust.training.loop import train
from evo_robust.training.recipes import (
    TRADES,
    FastTraining,
    MultiStrengthTraining,
    PGDTraining,
    Recipe,
    Standard,
)
from evo_robust.training.steps import TimeLimit, TrainingDiverged


@pytest.fixture(autouse=True)
def one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            Normalize(1),
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(128, 10),
        )


def digits(limit: int | None = None) -> tuple[Images, Images]:
    splits = Digits(train_limit=limit).load()
    return splits.train, splits.val


def same(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def robust_error(model: nn.Module, images: Images, eps: float) -> float:
    threat = Threat(eps=Fraction(eps))
    adversarial = PGD(steps=10).perturb(model, images.floats(), images.y, threat, torch.Generator().manual_seed(0))
    with torch.no_grad():
        return (model(adversarial).argmax(1) != images.y).double().mean().item()


# --- what training achieves


def test_digits_are_learned_in_seconds() -> None:
    images, val = digits()
    model = network()
    logs = train(model, images, Standard(lr=0.1).for_data(Digits()), 12, seed=0)
    assert clean_error(model, val) < 0.1
    assert not model.training
    assert [log.epoch for log in logs] == list(range(1, 13))
    assert logs[-1].loss < logs[0].loss and logs[-1].train_error < 0.15
    normalize = model[0]
    assert isinstance(normalize, Normalize)
    assert normalize.mean.item() == pytest.approx(images.floats().mean().item(), abs=1e-5)


@pytest.fixture(scope="module")
def robust_errors() -> dict[str, float]:
    torch.set_num_threads(1)
    splits = Digits().load()
    threat = Threat(eps=Fraction(0.15))
    recipes: dict[str, Recipe] = {
        "standard": Standard(lr=0.1),
        "pgd": PGDTraining(lr=0.1, threat=threat, attack=PGD(steps=4)),
        "trades": TRADES(lr=0.1, threat=threat, attack=PGD(steps=4, loss="kl")),
        "fast": FastTraining(lr=0.1, threat=threat),
    }
    errors = {}
    for name, recipe in recipes.items():
        model = network()
        train(model, splits.train, recipe, 8, seed=0)
        assert clean_error(model, splits.val) < 0.15, name
        errors[name] = robust_error(model, splits.val, 0.15)
    return errors


@pytest.mark.parametrize("name", ["pgd", "trades", "fast"])
def test_adversarial_training_makes_robust(name: str, robust_errors: dict[str, float]) -> None:
    assert robust_errors[name] < robust_errors["standard"] - 0.1, robust_errors


def test_many_strengths_are_one_batch() -> None:
    x, y = digits(40)[0].floats(), digits(40)[0].y
    attack = PGD(steps=2)
    recipe = MultiStrengthTraining(attack=attack, eps=(Fraction(0.05), Fraction(0.15)))
    model = network().train()
    loss, logits = recipe.loss(model, x, y, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    found = [attack.perturb(model, x, y, Threat(eps=Fraction(e)), generator) for e in (0.05, 0.15)]
    expected = model(torch.cat(found))
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(expected, torch.cat((y, y))))
    torch.testing.assert_close(logits, (expected[: len(y)] + expected[len(y) :]) / 2)
    assert [(f - x).abs().max() <= e + 1e-6 for f, e in zip(found, (0.05, 0.15), strict=True)] == [True, True]
    with pytest.raises(ValueError, match="ascending"):
        MultiStrengthTraining(eps=(Fraction(0.2), Fraction(0.1)))
    with pytest.raises(
        ValueError, match=r"expected recipe.eps in \(0, 1\] with norm=linf .*, got 8: did you mean 8/255"
    ):
        MultiStrengthTraining(eps=(Fraction(8), Fraction(16)))
    MultiStrengthTraining(eps=(Fraction(0.5), Fraction(2)), norm="l2")


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("standard", Standard), ("pgd", PGDTraining), ("trades", TRADES), ("fast", FastTraining),
        ("multi", MultiStrengthTraining),
    ],
)  # fmt: skip
def test_recipes_by_name(name: str, cls: type[Recipe]) -> None:
    assert subclass_named(Recipe, name) is cls


def test_pgd_training_is_pgd_7_at_8_255() -> None:
    pgd = PGDTraining()
    assert pgd.attack.budget(pgd.threat.eps).steps == 7
    assert (pgd.threat.eps, pgd.attack.budget(pgd.threat.eps).step) == pytest.approx((8 / 255, 2 / 255))


def test_parts_of_a_recipe_are_overridden_by_dotted_names() -> None:
    recipe = chz.Blueprint(PGDTraining).make_from_argv(
        ["attack.steps=3", "threat.eps=4/255", "augment=Augment", "augment.flip=False", "lr=0.1"]
    )
    assert recipe == PGDTraining(
        attack=PGD(steps=3), threat=Threat(eps=Fraction(4 / 255)), augment=Augment(flip=False), lr=0.1
    )


# --- losses


def test_losses_are_those_of_the_papers() -> None:
    images, _ = digits(40)
    x, y = images.floats(), images.y
    model = network().train()
    model[2].momentum = model[5].momentum = 0.0  # type: ignore[assignment]
    threat, attack = Threat(eps=Fraction(0.1)), PGD(steps=2, loss="kl")

    def draw() -> torch.Generator:
        return torch.Generator().manual_seed(4)

    adversarial = attack.perturb(model, x, y, threat, draw())
    p, q = model(x).log_softmax(1), model(adversarial).log_softmax(1)
    truth = torch.arange(len(y)), y
    loss, logits = TRADES(beta=3.0, threat=threat, attack=attack).loss(model, x, y, draw())
    expected = -p[truth].mean() + 3.0 * (p.exp() * (p - q)).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logits.log_softmax(1), q)

    loss, _ = PGDTraining(threat=threat, attack=attack).loss(model, x, y, draw())
    torch.testing.assert_close(loss, -q[truth].mean())
    loss, _ = Standard().loss(model, x, y, draw())
    torch.testing.assert_close(loss, -p[truth].mean())


def test_learning_rates() -> None:
    cosine = Standard(lr=0.4)
    assert [cosine.lr_at(e, 4) for e in range(4)] == pytest.approx([0.4, 0.2 + math.sqrt(0.02), 0.2, 0.2 - 0.02**0.5])
    warm = Standard(lr=0.3, lr_end=0.1, warmup=2)
    assert [warm.lr_at(e, 4) for e in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.2])
    held = Standard(lr=0.3, lr_end=0.1, warmup=2, warmup_from=0.3)
    assert [held.lr_at(e, 4) for e in range(4)] == pytest.approx([0.3, 0.3, 0.3, 0.2])
    robnet = Standard(lr=1.2, warmup=20, warmup_from=0.02)
    assert (robnet.lr_at(0, 170), robnet.lr_at(10, 170), robnet.lr_at(20, 170)) == pytest.approx((0.02, 0.61, 1.2))
    step = Standard(lr=1.0, schedule="step", milestones=(2, 3))
    assert [step.lr_at(e, 5) for e in range(5)] == pytest.approx([1.0, 1.0, 0.1, 0.01, 0.01])
    assert Standard(lr=0.2, schedule="constant").lr_at(7, 9) == 0.2
    images, _ = digits(60)
    logs = train(network(), images, Standard(lr=0.4, clip=None), 4, seed=0)
    assert [log.lr for log in logs] == [cosine.lr_at(e, 4) for e in range(4)]


def test_weight_decay_spares_batch_norm_where_asked() -> None:
    images, _ = digits(60)

    def length_of_bn(decay_bn: bool) -> float:
        model = network()
        train(model, images, Standard(weight_decay=0.5, decay_bn=decay_bn, lr=0.1), 6, seed=0)
        return float(model[2].weight.detach().norm())

    assert length_of_bn(True) < 0.8 * length_of_bn(False)


def test_gradient_is_clipped() -> None:
    images, _ = digits(60)
    model = network()
    start = [p.detach().clone() for p in model.parameters()]
    # one step without momentum or decay moves by lr · clip at most
    recipe = Standard(lr=1.0, schedule="constant", momentum=0.0, weight_decay=0.0, clip=0.01, batch_size=48)
    train(model, images, recipe, 1, seed=0)
    moved = torch.cat([(p.detach() - q).flatten() for p, q in zip(model.parameters(), start, strict=True)]).norm()
    assert float(moved) == pytest.approx(0.01, rel=1e-3)


def test_bfloat16_learns_too() -> None:
    images, val = digits()
    model = network()
    train(model, images, Standard(lr=0.1, precision="bf16"), 4, seed=0)
    assert clean_error(model, val) < 0.1
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_single_last_image_is_left_out() -> None:
    images, _ = digits()
    model = nn.Sequential(Normalize(1), nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10))
    logs = train(model, images.take(slice(33)), Standard(batch_size=32), 1, seed=0)
    assert math.isfinite(logs[0].loss)
    with pytest.raises(ValueError, match="at least 2 images"):
        train(model, images.take(slice(1)), Standard(), 1, seed=0)


# --- repeatable and resumable


def test_the_result_depends_on_the_seed_alone() -> None:
    images, _ = digits(200)
    recipe = PGDTraining(attack=PGD(steps=2), augment=Augment(crop_padding=1, cutout=2))

    def trained(seed: int, state: int) -> nn.Module:
        torch.manual_seed(state)
        before = torch.get_rng_state()
        model = network(dropout=0.3)
        train(model, images, recipe, 2, seed=seed)
        assert torch.equal(before, torch.get_rng_state()), "torch's own generator is as it was"
        return model

    assert same(trained(1, state=5), trained(1, state=6))
    assert not same(trained(1, state=5), trained(2, state=5))


class Stop(Exception):
    """Ends a training from outside."""


@pytest.mark.parametrize("recipe", [Standard(decay_bn=False, warmup=1), PGDTraining(attack=PGD(steps=2))])
@pytest.mark.parametrize("stop_after", [1, 3])
def test_interrupted_equals_uninterrupted(recipe: Recipe, stop_after: int, tmp_path: Path) -> None:
    images, _ = digits(200)
    recipe = recipe.for_data(Digits())
    whole = network(dropout=0.3)
    logs = train(whole, images, recipe, 4, seed=3)

    def stop(log: object) -> None:
        if getattr(log, "epoch", 0) == stop_after:
            raise Stop

    file = tmp_path / "deep" / "checkpoint.safetensors"
    with pytest.raises(Stop):
        train(network(dropout=0.3), images, recipe, 4, seed=3, checkpoint=file, on_epoch=stop)
    later: list[int] = []
    resumed = network(seed=99, dropout=0.3)  # its weights come from the file
    again = train(resumed, images, recipe, 4, seed=3, checkpoint=file, on_epoch=lambda log: later.append(log.epoch))
    assert later == list(range(stop_after + 1, 5))
    assert same(whole, resumed)
    assert [(g.loss, g.train_error, g.lr) for g in again] == [(g.loss, g.train_error, g.lr) for g in logs]
    done = network(seed=7, dropout=0.3)
    assert len(train(done, images, recipe, 4, seed=3, checkpoint=file)) == 4 and same(whole, done)
    assert [p.name for p in file.parent.iterdir()] == [file.name], "no temporary files stay"


KILLED = """
import sys, torch
from pathlib import Path
from evo_robust.data.sets import Digits
from evo_robust.training.recipes import Standard
from evo_robust.training.loop import train
from test_train import network

torch.set_num_threads(1)
model = network(dropout=0.3)
train(model, Digits().load().train, Standard(), 500, seed=3, checkpoint=Path(sys.argv[1]),
      on_epoch=lambda log: print(log.epoch, flush=True))
"""


def test_killed_at_any_moment_the_file_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(file)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    )
    assert process.stdout is not None
    seen = [int(process.stdout.readline()) for _ in range(3)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert seen == [1, 2, 3] and process.returncode == -signal.SIGKILL
    images, recipe = Digits().load().train, Standard()

    epochs = 0

    def stop(log: object) -> None:
        nonlocal epochs
        epochs = getattr(log, "epoch", 0)
        raise Stop

    resumed, whole = network(dropout=0.3), network(dropout=0.3)
    with pytest.raises(Stop):
        train(resumed, images, recipe, 500, seed=3, checkpoint=file, on_epoch=stop)
    assert epochs >= 4

    def stop_there(log: object) -> None:
        if getattr(log, "epoch", 0) == epochs:
            raise Stop

    with pytest.raises(Stop):
        train(whole, images, recipe, 500, seed=3, on_epoch=stop_there)
    assert same(whole, resumed)


def test_a_damaged_or_foreign_checkpoint_is_named(tmp_path: Path) -> None:
    images, _ = digits(60)
    file = tmp_path / "checkpoint.safetensors"
    train(network(), images, Standard(), 1, seed=0, checkpoint=file)
    with pytest.raises(UserError, match=r"checkpoint\.safetensors belongs to another training"):
        train(network(), images, Standard(lr=0.01), 1, seed=0, checkpoint=file)
    with pytest.raises(UserError, match="belongs to another training"):
        train(network(), images, Standard(), 2, seed=0, checkpoint=file)
    with pytest.raises(UserError, match="belongs to another training"):
        train(network(), digits(80)[0], Standard(), 1, seed=0, checkpoint=file)
    content = file.read_bytes()
    for wrong in (content[: len(content) // 2], content[:-9] + b"123456789", b"", b"no such thing"):
        file.write_bytes(wrong)
        with pytest.raises(UserError, match=r"checkpoint\.safetensors is damaged"):
            train(network(), images, Standard(), 1, seed=0, checkpoint=file)


# --- paths of a supernet

SPACE = RobNet(channels=4, layers=3, nodes=2)
FIRST, SECOND = SPACE.from_text("01 01 00 10 01"), SPACE.from_text("11 00 10 00 11")
ONE_STEP = Standard(lr=0.1, schedule="constant", momentum=0.0, weight_decay=0.0, clip=None, batch_size=48)


def supernet() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SPACE.supernet(10, (1, 8, 8))


def trained_on(*epochs: tuple[RobNetArchitecture, ...], images: Images, recipe: Recipe) -> list[dict[str, Tensor]]:
    """Weights of a supernet before training and after each epoch, whose steps all go along the given paths."""

    def paths(epoch: int) -> Iterator[tuple[RobNetArchitecture, ...]]:
        while True:
            yield epochs[epoch]

    model, states = supernet(), []

    def keep(_: object = None) -> None:
        states.append({name: value.clone() for name, value in model.state_dict().items()})

    keep()
    train(model, images, recipe, len(epochs), seed=0, on_epoch=keep, paths=paths)
    return states


@pytest.mark.parametrize(
    "recipe", [PGDTraining(attack=PGD(steps=3)), TRADES(attack=PGD(steps=2, loss="kl")), FastTraining(momentum=0.0)]
)
def test_a_path_is_trained_as_the_network_that_it_is(recipe: Recipe) -> None:
    # the same adversarial images, made for the path with the batch's statistics, the same clipped steps
    images, _ = digits(200)
    start, _, end = trained_on((FIRST,), (FIRST,), images=images, recipe=recipe)
    alone = SPACE.build(FIRST, 10, (1, 8, 8))
    inherit(alone, start)
    train(alone, images, recipe, 2, seed=0)
    own = alone.state_dict()
    assert 0 < len(own) < len(start)
    for name, value in own.items():
        torch.testing.assert_close(end[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert all(torch.equal(end[name], start[name]) for name in start.keys() - own.keys())


def test_neither_momentum_nor_decay_moves_weights_that_no_path_uses() -> None:
    images, _ = digits(200)
    recipe = PGDTraining(momentum=0.9, weight_decay=0.1, attack=PGD(steps=2))
    # the second path's weights get their first gradients when the first one's have momentum already
    start, first, both, last = trained_on((FIRST,), (FIRST, SECOND), (SECOND,), images=images, recipe=recipe)
    one, two = (set(SPACE.build(path, 10, (1, 8, 8)).state_dict()) for path in (FIRST, SECOND))
    used = one | two
    assert one - two and two - one and used < set(start)

    def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
        return {name for name in before if not torch.equal(before[name], after[name])}

    constant = {"normalize.mean", "normalize.std"}
    assert moved(start, first) == one  # the normalisation is fitted in the beginning
    assert moved(first, both) == used - constant
    assert moved(both, last) == two - constant


def test_a_step_goes_along_the_mean_gradient_of_its_paths() -> None:
    images, _ = digits(60)

    def moved(*paths: RobNetArchitecture) -> dict[str, Tensor]:
        start, end = trained_on(paths, images=images, recipe=ONE_STEP)
        return {name: end[name] - start[name] for name, _ in supernet().named_parameters()}

    first, second, both, twice = moved(FIRST), moved(SECOND), moved(FIRST, SECOND), moved(FIRST, FIRST)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    for name, step in both.items():
        torch.testing.assert_close(step, (first[name] + second[name]) / 2, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(twice[name], first[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_interrupted_supernet_equals_an_uninterrupted_one(momentum: float, tmp_path: Path) -> None:
    images, _ = digits(120)
    recipe = PGDTraining(attack=PGD(steps=2), momentum=momentum)

    def paths(epoch: int) -> Iterator[tuple[RobNetArchitecture, ...]]:
        while True:  # until the last epoch some weights have no gradient
            yield (SECOND,) if epoch == 2 else (FIRST,)

    def stop(log: object) -> None:
        raise Stop

    whole, resumed = supernet(), supernet()
    train(whole, images, recipe, 3, seed=1, paths=paths)
    file = tmp_path / "checkpoint.safetensors"
    for _ in range(2):
        with pytest.raises(Stop):
            train(supernet(), images, recipe, 3, seed=1, checkpoint=file, on_epoch=stop, paths=paths)
    assert len(read_logs(file)) == 2
    train(resumed, images, recipe, 3, seed=1, checkpoint=file, paths=paths)
    assert same(whole, resumed)


class Counter:
    """A companion that counts the steps it was asked for a path."""

    def __init__(self) -> None:
        self.steps, self.restored = torch.zeros(1, dtype=torch.int64), []

    def paths(self, epoch: int) -> Iterator[tuple[RobNetArchitecture, ...]]:
        while True:
            self.steps += 1
            yield (FIRST if self.steps.item() % 2 else SECOND,)

    def state(self) -> dict[str, torch.Tensor]:
        return {"steps": self.steps}

    def restore(self, state: dict[str, torch.Tensor], epochs: int) -> None:
        self.steps = state["steps"].clone()
        self.restored.append((epochs, int(self.steps)))


def test_training_in_parts_equals_training_in_one_go(tmp_path: Path) -> None:
    images, _ = digits(120)
    recipe = Standard(batch_size=40)  # three steps an epoch: paths alternate across epochs
    whole, one = supernet(), Counter()
    logs = train(whole, images, recipe, 4, seed=1, paths=one.paths)
    file, seen = tmp_path / "checkpoint.safetensors", []
    for until in (1, 1, 3, 9):
        part, counter = supernet(), Counter()
        arguments = {"checkpoint": file, "paths": counter.paths, "until": until, "companion": counter}
        seen.append([log.epoch for log in train(part, images, recipe, 4, seed=1, **arguments)])
    assert seen == [[1], [1], [1, 2, 3], [1, 2, 3, 4]]
    assert counter.restored == [(3, 9)] and counter.steps == one.steps == 12
    assert same(whole, part)
    assert logs[-1].lr < logs[0].lr, "the schedule is that of the whole"


def test_a_part_of_training_needs_a_checkpoint() -> None:
    images, _ = digits(60)
    with pytest.raises(ValueError, match="expected a checkpoint where training stops early"):
        train(supernet(), images, Standard(), 2, seed=0, until=1)


def test_paths_need_a_supernet() -> None:
    images, _ = digits(60)
    with pytest.raises(ValueError, match="expected a supernet where paths are given, got Sequential"):
        train(network(), images, Standard(), 1, seed=0, paths=lambda epoch: iter([(FIRST,)]))


# --- what goes wrong


def test_divergence_is_reported() -> None:
    images, _ = digits()
    model = network()
    with pytest.raises(TrainingDiverged, match="NaN or infinite in epoch"):
        train(model, images, Standard(lr=1e9, clip=None, weight_decay=1.0), 10, seed=0)
    assert not model.training


class Broken(nn.Module):
    """A network whose gradient, not its loss, becomes NaN at once."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)) + (self.linear.weight.sum() * 0).sqrt()


def test_a_last_step_to_nan_is_reported_too() -> None:
    images, _ = digits(60)
    with pytest.raises(TrainingDiverged):
        train(Broken(), images, Standard(batch_size=64), 1, seed=0)


def test_the_deadline_is_kept() -> None:
    images, _ = digits()
    model = network()
    started = time.monotonic()
    with pytest.raises(TimeLimit, match="time limit reached in epoch"):
        train(model, images, Standard(), 10_000, seed=0, deadline=started + 0.3)
    assert time.monotonic() - started < 3
    assert not model.training


def test_no_epochs_leave_the_weights() -> None:
    images, _ = digits(60)
    model = network()
    assert train(model, images, Standard(), 0, seed=0) == []
    assert torch.equal(model[1].weight, network()[1].weight) and not model.training


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0.0}, {"lr_end": 1.0}, {"warmup": -1}, {"warmup_from": 1.0}, {"momentum": 1.0}, {"weight_decay": -1.0},
        {"batch_size": 1},
        {"clip": 0.0}, {"milestones": (3, 2)}, {"milestones": (2,)}, {"momentum": 0.0, "nesterov": True},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"expected {next(iter(wrong))}"):
        Standard(**wrong)  # type: ignore[arg-type]


def test_impossible_settings_of_adversarial_recipes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected step_ratio > 0"):
        FastTraining(step_ratio=0.0)
    with pytest.raises(ValueError, match="expected beta >= 0"):
        TRADES(beta=-1.0)
    with pytest.raises(ValueError, match=r"expected eps in \(0, 1\]"):
        PGDTraining(threat=Threat(eps=Fraction(0)))


def test_what_is_judged_is_the_network_in_eval_mode() -> None:
    images, val = digits(200)
    model = network(dropout=0.5)
    train(model, images, Standard(lr=0.1), 3, seed=0)
    model.train()
    error = clean_error(model, val)
    assert model.training and error == 1 - correct_mask(model.eval(), val).double().mean().item()
