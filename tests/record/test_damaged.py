"""Damaged and missing files of trainings are named and refused, and what the message advises works."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small import small_supernet

from evo_robust import (
    DARTS,
    CleanError,
    Digits,
    GradientHybrid,
    OneShot,
    Params,
    Problem,
    RandomSearch,
    SupernetTraining,
    search,
)
from evo_robust.distributions import LogNormal
from evo_robust.evaluators.co_trained import kept_weights
from evo_robust.files import DamagedFile, read_tensors, write_tensors
from evo_robust.gradients import SupernetLoss
from evo_robust.parts.base import UserError
from evo_robust.record.reading import load_run
from evo_robust.training.epochs import read_logs
from evo_robust.training.loop import train
from evo_robust.training.recipes import Standard

SPACE = DARTS(channels=4, layers=2, nodes=2)
DATA = Digits(train_limit=200, test_limit=50)
RECIPE = Standard(lr=0.1, batch_size=50)


def problem(n_gen: int = 3) -> Problem:
    gradient = SupernetLoss(lr=0.05, batch_size=50)
    algorithm = GradientHybrid(pop_size=3, n_gen=n_gen, distribution=LogNormal(), gradient=gradient)
    evaluator = small_supernet(4, warmup=1)
    return Problem(
        space=SPACE, data=DATA, objectives=(CleanError(), Params()), evaluator=evaluator, algorithm=algorithm
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def go_on(folder: Path, n_gen: int = 3) -> None:
    search(problem(n_gen), folder, device="cpu", workers=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    go_on(folder)
    return folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search after two of its three generations."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    go_on(folder, 2)
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def other(path: Path) -> None:
    """A sound file of something else."""
    write_tensors(path, {"w": torch.zeros(3)}, {**read_tensors(path)[1], "logs": "none"})


def foreign(path: Path) -> None:
    save_file({"w": torch.zeros(3)}, path)


def altered(path: Path) -> None:
    """A digit of the description beside the tensors."""
    content = path.read_bytes()
    for old, new in ((rb"\"epoch\": 1,", rb"\"epoch\": 7,"), (rb"\"whole\": true", rb"\"whole\": null")):
        content = content.replace(old, new)
    assert content != path.read_bytes()
    path.write_bytes(content)


def folder_there(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "flipped": flip,
    "another file": other,
    "foreign": foreign,
    "altered": altered,
    "gone": lambda path: path.unlink(),
    "a folder": folder_there,
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("checkpoint", damage) for damage in DAMAGES),
        ("generation-0001", "gone"),
        ("generation-0001", "cut"),
        ("generation-0002", "flipped"),
        ("generation-0002", "another file"),
        ("generation-0002", "altered"),
        ("weights-0002", "flipped"),
        ("weights-0002", "cut"),
        ("weights-0002", "gone"),
    ],
)
def test_files_of_co_training_are_refused_and_the_advice_works(
    name: str, damage: str, whole: Path, begun: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(begun, tmp_path / "run")
    if (name, damage) == ("weights-0002", "gone"):  # while the generation is measured: before that nobody wants it
        lines = (folder / "evaluations.jsonl").read_text().splitlines(keepends=True)
        (folder / "evaluations.jsonl").write_text("".join(lines[:-1]))
    DAMAGES[damage](folder / "co_training" / f"{name}.safetensors")
    before = rows(folder)
    for _ in range(2):  # it is said as long as it is so
        with pytest.raises(UserError) as caught:
            go_on(folder)
        assert name in str(caught.value) or "checkpoint" in str(caught.value)
        assert rows(folder) == before
    advised = re.search(r"delete the folder (\S+) and run the search again", str(caught.value))
    assert advised is not None and Path(advised[1]) == folder / "co_training"
    shutil.rmtree(advised[1])
    go_on(folder)
    assert rows(folder) == rows(whole)
    for table in ("front.json", "co_training.csv", "distribution.csv"):
        assert (folder / table).read_text() == (whole / table).read_text()


def test_what_was_learned_last_is_learned_again_from_the_checkpoint(whole: Path, begun: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(begun, tmp_path / "run")
    (folder / "co_training/generation-0002.safetensors").unlink()
    go_on(folder)
    assert rows(folder) == rows(whole)


def test_export_names_damaged_weights(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    flip(kept_weights(folder, 3))
    with pytest.raises(UserError, match=r"weights-0003.safetensors is damaged .*; delete the folder \S+ and run the"):
        kept_weights(folder, 3)
    assert load_run(folder).front  # figures are still there to read


# ---- one training


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_is_refused_and_the_advice_works(damage: str, tmp_path: Path) -> None:
    images = DATA.load().train

    def trained(epochs: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = SPACE.build(SPACE.decode(SPACE.sample(np.random.default_rng(0))), 10, (1, 8, 8))
        train(model, images, RECIPE, 2, seed=1, checkpoint=tmp_path / "checkpoint", until=epochs)
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    file = tmp_path / "checkpoint"
    trained(1)
    DAMAGES[damage](file)
    if damage != "gone":
        with pytest.raises(UserError, match=r"checkpoint (is damaged|belongs to another training).* delete it"):
            trained(2)
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    again = trained(2)
    file.unlink()
    for name, tensor in trained(2).items():
        assert torch.equal(tensor, again[name])


def _first(tensors: dict[str, torch.Tensor], kind: str) -> str:
    return next(n for n in tensors if n.startswith(kind) and (n.endswith("weight") or kind == "momentum."))


def _weight(tensors: dict[str, torch.Tensor], info: dict[str, Any]) -> None:
    tensors[_first(tensors, "model.")].view(-1)[0] = float("nan")


def _whole_weights(tensors: dict[str, torch.Tensor], info: dict[str, Any]) -> None:
    tensors.update({n: t.int() for n, t in tensors.items() if n.endswith("weight")})


def _momentum(tensors: dict[str, torch.Tensor], info: dict[str, Any]) -> None:
    tensors[_first(tensors, "momentum.")].view(-1)[0] = float("inf")


def _spread_momentum(tensors: dict[str, torch.Tensor], info: dict[str, Any]) -> None:
    tensors[_first(tensors, "momentum.")] = torch.ones(1)


CONTENTS: dict[str, tuple[Callable[[dict[str, torch.Tensor], dict[str, Any]], None], str]] = {
    "no logs": (lambda t, i: i.update(logs=[]), "expected figures of its epochs, got []"),
    "a dictionary": (lambda t, i: i.update(logs={}), "expected figures of its epochs, got {}"),
    "text": (lambda t, i: i.update(logs="abc"), "expected figures of its epochs, got 'abc'"),
    "later": (lambda t, i: i["logs"][0].update(epoch=2), "expected figures of epoch 1, got those of 2"),
    "no number": (lambda t, i: i["logs"][0].update(loss="1"), "loss of epoch 1 is '1'"),
    "more": (lambda t, i: i.update(logs=[{**i["logs"][0], "epoch": e} for e in (1, 2, 3)]), "after 3 epochs"),
    "NaN weight": (_weight, "is not finite"),
    "whole weights": (_whole_weights, "is torch.int32, not torch.float32"),
    "infinite momentum": (_momentum, "momentum.0 is not finite"),
    "momentum of one": (_spread_momentum, "momentum.0 has the shape (1,)"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_checkpoint_whose_content_cannot_be_is_named(kind: str, tmp_path: Path) -> None:
    file, images = tmp_path / "checkpoint", DATA.load().train

    def trained(epochs: int) -> None:
        model = SPACE.build(SPACE.decode(SPACE.sample(np.random.default_rng(0))), 10, (1, 8, 8))
        train(model, images, RECIPE, 2, seed=1, checkpoint=file, until=epochs)

    trained(1)
    tensors, info = read_tensors(file)
    spoil, reason = CONTENTS[kind]
    spoil(tensors, info)
    write_tensors(file, tensors, info)
    with pytest.raises(DamagedFile) as error:
        trained(2)
    assert reason in str(error.value) and "delete it and run the command again" in str(error.value)


def test_a_checkpoint_without_its_parts_is_no_state(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint"
    write_tensors(file, {"w": torch.zeros(1)}, {"logs": [{"epoch": 1}]})
    with pytest.raises(DamagedFile, match=r"checkpoint is damaged \(it is not the state of a training"):
        read_logs(file)


def test_what_workers_say_of_damage_arrives() -> None:
    error = DamagedFile(Path("a"), "cut", "buy a new one")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "a is damaged (cut); buy a new one" and again.path == Path("a")


# ---- supernets


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Searches with one shared supernet; the file of that name in the cache."""
    monkeypatch.setenv("EVO_ROBUST_CACHE", str(tmp_path / "cache"))
    supernet = SupernetTraining(epochs=1, recipe=RECIPE, threads=1)
    one = Problem(
        space=SPACE,
        data=DATA,
        objectives=(CleanError(), Params()),
        evaluator=OneShot(supernet=supernet, recalibration="none"),
        algorithm=RandomSearch(pop_size=2, n_gen=1),
    )

    def go(run: str) -> Path:
        search(one, tmp_path / run, device="cpu", workers=1)
        return supernet.folder(SPACE, DATA, tmp_path / "cache", "cpu")

    return go


def test_a_deleted_learning_curve_is_no_error(shared: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shared("one")
    assert (tmp_path / "one/supernet_learning_curve.csv").is_file()
    (folder / "learning_curve.csv").unlink()
    (folder / "learning_curve.png").unlink()
    shared("two")
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
    assert not (tmp_path / "two/supernet_learning_curve.csv").exists()


def test_a_damaged_supernet_is_trained_again_when_deleted(shared: Callable[[str], Path], tmp_path: Path) -> None:
    file = shared("one") / "supernet.safetensors"
    flip(file)
    with pytest.raises(UserError, match=r"supernet.safetensors is damaged .*; delete it and run the command again"):
        shared("two")
    file.unlink()
    shared("two")
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
