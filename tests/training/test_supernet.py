"""The supernet: which paths are trained, that it is made once and goes on to the bit, and that it learns."""

from __future__ import annotations

import csv
import itertools
import shutil
import threading
import time
from pathlib import Path

import chz
import numpy as np
import pytest
import torch
from torch import Tensor

from evo_robust.attacks.gradient import PGD
from evo_robust.data.sets import Digits
from evo_robust.files import only_one, read_tensors
from evo_robust.parts.base import Fraction, UserError
from evo_robust.spaces.nsga.space import NSGAPhases
from evo_robust.spaces.robnet.space import RobNet
from evo_robust.spaces.supernet import inherit
from evo_robust.training.recipes import TRADES, FastTraining, PGDTraining, Recipe, Standard
from evo_robust.training.supernet_training import FILE, SupernetTraining

SPACE = RobNet(channels=4, layers=3, nodes=2)
DATA = Digits(train_limit=600)
FEW = Digits(train_limit=120)
QUICK = PGDTraining(lr=0.1, batch_size=32, decay_bn=False, attack=PGD(steps=2))
TINY = SupernetTraining(epochs=3, recipe=QUICK, threads=1)
LEARNT = chz.replace(TINY, epochs=12)


class Lines(list[str]):
    """Takes progress text."""

    __call__ = list.append


class Stop(Exception):
    """Ends a training from outside."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Lines]:
    """A cache, the supernet trained in it, and what was said."""
    cache, lines = tmp_path_factory.mktemp("cache"), Lines()
    return cache, LEARNT.build_or_load(SPACE, DATA, cache, say=lines), lines


@pytest.fixture
def copy(built: tuple[Path, Path, Lines], tmp_path: Path) -> Path:
    """A cache of one's own with the supernet in it."""
    return Path(shutil.copytree(built[0], tmp_path / "cache"))


def weights(file: Path) -> dict[str, Tensor]:
    return read_tensors(file)[0]


def same(one: Path, two: Path) -> bool:
    a, b = weights(one), weights(two)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "learning_curve.csv").open(newline="") as rows:
        return list(csv.DictReader(rows))


# --- what is trained


def test_random_paths_learn_to_resist(built: tuple[Path, Path, Lines]) -> None:
    trained = weights(built[1])
    val = DATA.load().val
    rng, attack = np.random.default_rng(5), QUICK.attack
    errors = []
    for _ in range(5):
        path = SPACE.draw_path(rng)
        network = SPACE.build(path, 10, DATA.in_shape)
        inherit(network, trained)
        network.train()  # the batch's own statistics: running ones mix all paths
        adversarial = attack.perturb(network, val.floats(), val.y, QUICK.threat, torch.Generator().manual_seed(0))
        with torch.no_grad():
            errors.append((network(adversarial).argmax(1) != val.y).double().mean().item())
    assert np.mean(errors) < 0.65 and max(errors) < 0.8, errors  # guessing is wrong 90% of the time


def test_the_curve_is_told_written_and_drawn(built: tuple[Path, Path, Lines]) -> None:
    _, file, lines = built
    rows = curve(file.parent)
    assert list(rows[0]) == ["epoch", "loss", "train_error", "lr", "seconds"]
    assert [row["epoch"] for row in rows] == [str(n) for n in range(1, 13)]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) and float(rows[-1]["train_error"]) < 0.75
    assert [float(row["lr"]) for row in rows] == [QUICK.lr_at(epoch, 12) for epoch in range(12)]
    assert (file.parent / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    told = [line for line in lines if line.startswith("supernet epoch")]
    assert len(told) == 12 and told[-1].startswith(f"supernet epoch 12/12: loss {float(rows[-1]['loss']):.3f}, ")
    assert all(" s left" in line and "training error" in line for line in told)
    names = {path.name for path in file.parent.iterdir()} - {".lock"}
    assert names == {FILE, "learning_curve.csv", "learning_curve.png", "settings.json"}


@pytest.mark.parametrize("recipe", [TRADES(attack=PGD(steps=1, loss="kl")), FastTraining(), Standard()])
def test_any_recipe_trains(recipe: Recipe, tmp_path: Path) -> None:
    file = chz.replace(TINY, epochs=1, recipe=recipe).build_or_load(SPACE, FEW, tmp_path)
    assert all(value.isfinite().all() for value in weights(file).values())
    start = SPACE.supernet(10, FEW.in_shape).state_dict()
    assert {name: value.shape for name, value in weights(file).items()} == {n: v.shape for n, v in start.items()}


def test_settings_come_from_a_command_line() -> None:
    made = chz.Blueprint(SupernetTraining).make_from_argv(["recipe=TRADES", "recipe.beta=3", "sampling=two_ended"])
    assert made == SupernetTraining(recipe=TRADES(beta=3.0), sampling="two_ended")
    recipe = SupernetTraining().recipe
    assert isinstance(recipe, PGDTraining) and recipe.attack == PGD(steps=7, step=Fraction(2 / 255))
    assert recipe.threat.eps == 8 / 255


# --- paths


def steps(settings: SupernetTraining, space: RobNet, epoch: int, n: int = 200) -> list[tuple]:
    return list(itertools.islice(settings.paths(space, epoch), n))


def density(space: RobNet, architecture: object) -> float:
    structure = space.structure(architecture)
    assert structure is not None
    return structure.density


def test_uniform_paths_keep_their_share() -> None:
    space = RobNet(nodes=4)
    for keep in (0.5, 0.8):
        drawn = steps(chz.replace(TINY, keep=keep), space, 0)
        assert {len(step) for step in drawn} == {1} and len(set(drawn)) > 190
        assert np.mean([density(space, step[0]) for step in drawn]) == pytest.approx(keep, abs=0.03)
    assert {step[0] for step in steps(chz.replace(TINY, keep=1.0), space, 0)} == {space.largest()}


def test_paths_depend_on_seed_and_epoch_alone() -> None:
    assert steps(TINY, SPACE, 1) == steps(TINY, SPACE, 1)
    assert steps(TINY, SPACE, 1) != steps(TINY, SPACE, 2)
    assert steps(TINY, SPACE, 1) != steps(chz.replace(TINY, seed=1), SPACE, 1)


def test_progressive_paths_shrink_over_half_of_the_epochs() -> None:
    settings = chz.replace(TINY, epochs=8, sampling="progressive", keep=0.4)
    assert [settings.keep_at(epoch) for epoch in range(8)] == pytest.approx([1, 0.85, 0.7, 0.55, 0.4, 0.4, 0.4, 0.4])
    assert [chz.replace(settings, epochs=1).keep_at(0), chz.replace(settings, epochs=2).keep_at(1)] == [1, 0.4]
    space = RobNet(nodes=4)
    assert {step for step in steps(settings, space, 0)} == {(space.largest(),)}
    found = [np.mean([density(space, step[0]) for step in steps(settings, space, epoch)]) for epoch in (2, 6)]
    assert found == pytest.approx([0.7, 0.4], abs=0.04)


def test_two_ended_paths_are_largest_smallest_and_random() -> None:
    space = RobNet(nodes=4)
    drawn = steps(chz.replace(TINY, sampling="two_ended"), space, 0)
    largest, smallest, random = zip(*drawn, strict=True)
    assert set(largest) == {space.largest()}
    assert max(density(space, path) for path in smallest) <= 4 / 28 and len(set(smallest)) > 50
    assert np.mean([density(space, path) for path in random]) == pytest.approx(0.5, abs=0.04)


# --- made once, to the bit


@pytest.mark.parametrize("sampling", ["progressive", "two_ended"])
def test_interrupted_equals_uninterrupted(sampling: str, tmp_path: Path) -> None:
    settings = chz.replace(TINY, sampling=sampling)
    whole = settings.build_or_load(SPACE, FEW, tmp_path / "whole")

    def stop(line: str) -> None:
        if line.startswith("supernet epoch 1/"):
            raise Stop

    cache = tmp_path / "deep" / "cache"
    with pytest.raises(Stop):
        settings.build_or_load(SPACE, FEW, cache, say=stop)
    folder = settings.folder(SPACE, FEW, cache, "cpu")
    assert not (folder / FILE).exists() and len(curve(folder)) == 1
    (folder / f".{FILE}.123").write_bytes(b"half a file of a killed process")
    lines = Lines()
    resumed = settings.build_or_load(SPACE, FEW, cache, say=lines)
    assert "1 of 3 epochs are done already" in lines
    assert [line.partition(":")[0] for line in lines if "epoch 2" in line or "epoch 1" in line] == [
        "supernet epoch 2/3"
    ]
    assert same(whole, resumed)
    fingerprints = {settings.fingerprint(SPACE, FEW, place, "cpu") for place in (tmp_path / "whole", cache)}
    assert len(fingerprints) == 1
    figures = [[(row["epoch"], row["loss"], row["train_error"]) for row in curve(f.parent)] for f in (whole, resumed)]
    assert figures[0] == figures[1] and len(figures[0]) == 3
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.parent.iterdir()}


def test_seed_and_sampling_change_the_weights(tmp_path: Path) -> None:
    short = chz.replace(TINY, epochs=1)
    one = short.build_or_load(SPACE, FEW, tmp_path)
    for other in (chz.replace(short, seed=1), chz.replace(short, sampling="two_ended")):
        assert not same(one, other.build_or_load(SPACE, FEW, tmp_path))
        assert other.fingerprint(SPACE, FEW, tmp_path, "cpu") != short.fingerprint(SPACE, FEW, tmp_path, "cpu")


def test_the_caller_keeps_threads_and_random_numbers(tmp_path: Path) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    chz.replace(TINY, epochs=1, recipe=Standard(), threads=threads + 1).build_or_load(SPACE, FEW, tmp_path)
    assert torch.equal(before, torch.get_rng_state()) and torch.get_num_threads() == threads


def test_a_finished_supernet_is_taken_from_the_cache(copy: Path, built: tuple[Path, Path, Lines]) -> None:
    folder = LEARNT.folder(SPACE, DATA, copy, "cpu")
    (folder / "checkpoint.safetensors").write_bytes(b"left by a process killed at the very end")
    lines = Lines()
    search = chz.replace(SPACE, no_path="refuse", final_channels=20)
    assert same(LEARNT.build_or_load(search, DATA, copy, say=lines), built[1]) and lines == []
    assert not (folder / "checkpoint.safetensors").exists()


def test_another_process_is_waited_for(built: tuple[Path, Path, Lines], tmp_path: Path) -> None:
    folder, lines = LEARNT.folder(SPACE, DATA, tmp_path, "cpu"), Lines()
    folder.mkdir(parents=True)
    waiting = threading.Thread(target=LEARNT.build_or_load, args=(SPACE, DATA, tmp_path, "cpu", lines))
    with only_one(folder, lambda: None):
        waiting.start()
        while not lines and waiting.is_alive():
            time.sleep(0.01)
        shutil.copy(built[1], folder / FILE)
    waiting.join()
    assert lines == [f"another process trains the supernet in {folder}: waiting for it"]


def test_the_folder_tells_what_the_weights_depend_on(tmp_path: Path) -> None:
    def folder(
        settings: SupernetTraining = TINY, space: RobNet = SPACE, data: Digits = DATA, device: str = "cpu"
    ) -> Path:
        return settings.folder(space, data, tmp_path, device)

    assert folder().parent == tmp_path / "supernets"
    equal = [
        folder(space=chz.replace(SPACE, no_path="refuse", final_channels=8, final_layers=9)),
        folder(data=chz.replace(DATA, root="elsewhere")),
    ]
    assert set(equal) == {folder()} and folder(device="cuda:0") == folder(device="cuda:1")
    changes = (
        {"epochs": 4},
        {"recipe": Standard()},
        {"sampling": "two_ended"},
        {"keep": 0.6},
        {"threads": 2},
        {"seed": 1},
    )
    spaces = ({"cells": "free"}, {"channels": 5}, {"layers": 4}, {"nodes": 3})
    different = [
        folder(device="cuda"),
        folder(data=FEW),
        *(folder(chz.replace(TINY, **change)) for change in changes),
        *(folder(space=chz.replace(SPACE, **change)) for change in spaces),
    ]
    assert len({folder(), *different}) == len(different) + 1


# --- what goes wrong


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_supernet_is_named(damage: str, copy: Path) -> None:
    file = LEARNT.folder(SPACE, DATA, copy, "cpu") / FILE
    content = file.read_bytes()
    file.write_bytes(
        {"cut": content[: len(content) // 2], "changed": content[:-9] + b"123456789", "empty": b""}[damage]
    )
    with pytest.raises(UserError, match=r"supernet\.safetensors is damaged .*; delete it and run"):
        LEARNT.build_or_load(SPACE, DATA, copy)
    if damage != "changed":  # a fingerprint trusts the content that build_or_load has verified
        with pytest.raises(UserError, match=r"supernet\.safetensors is damaged"):
            LEARNT.fingerprint(SPACE, DATA, copy, "cpu")


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("supernet epoch"):
            raise Stop

    with pytest.raises(Stop):
        TINY.build_or_load(SPACE, FEW, tmp_path, say=stop)
    checkpoint = TINY.folder(SPACE, FEW, tmp_path, "cpu") / "checkpoint.safetensors"
    content = checkpoint.read_bytes()
    for wrong in (content[: len(content) // 2], content[:-9] + b"123456789", b""):
        checkpoint.write_bytes(wrong)
        with pytest.raises(UserError, match=r"checkpoint\.safetensors is damaged"):
            TINY.build_or_load(SPACE, FEW, tmp_path)


def test_a_supernet_that_was_never_built_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"supernet\.safetensors"):
        TINY.fingerprint(SPACE, DATA, tmp_path, "cpu")


def test_divergence_says_what_to_change(tmp_path: Path) -> None:
    wild = chz.replace(TINY, recipe=Standard(lr=1e12, clip=None, weight_decay=1.0))
    with pytest.raises(UserError, match=r"cannot be trained with recipe\.lr=1000000000000\.0: .* try a smaller lr"):
        wild.build_or_load(SPACE, FEW, tmp_path)


def test_a_space_without_a_supernet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a space that shares weights, such as RobNet, got NSGAPhases"):
        TINY.build_or_load(NSGAPhases(), DATA, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"sampling": "fair"}, {"keep": 0.0}, {"keep": 1.1}, {"threads": 0}, {"seed": -1}]
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"expected .*{name} .*, got {value!r}$"):
        SupernetTraining(**wrong)  # type: ignore[arg-type]
