"""What files of strangers say is shown as it stands: it moves no cursor, is no markup, and makes no line of its own."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evo_robust import NSGAPhases, export, retrain
from evo_robust.files import DamagedFile, read_tensors, write_tensors
from evo_robust.networks.genotype import Genotype, save_genotype
from evo_robust.parts.plain import LONGEST_MESSAGE, message, one_line, visible

SPACE = NSGAPhases(phases=2, nodes=3, channels=2)
HOSTILE = [
    "\x1b[2J",
    "\0",
    "\x07",
    "\x9b31m",
    "safe\u202egnp.exe",
    "[bold]x[/nope]",
    ":smile:",
    '"""\nraise SystemExit\n"""',
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished retraining of a tiny network."""
    folder = tmp_path_factory.mktemp("shown")
    found = Genotype(SPACE, SPACE.from_text("[1][11][0] / [0][00][0]"), "digits", 10, (1, 8, 8))
    save_genotype(found, folder / "genotype.json")
    assert retrain.main(given(folder / "genotype.json", folder / "trained")) == 0
    return folder / "trained"


def given(genotype: Path, out: Path) -> list[str]:
    small = ["epochs=1", "recipe=standard", "eps=0.1", "attack.steps=1", "data.train_limit=40", "data.test_limit=20"]
    return [f"genotype={genotype}", f"out={out}", "decoder=search", *small]


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "trained")
    return tmp_path / "trained"


def put(file: Path, *keys: str, to: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    file.write_text(json.dumps(content), encoding="utf-8")


def unseen(text: str) -> list[str]:
    return [c for c in text if not c.isprintable() and c not in "\n\t"]


@pytest.mark.parametrize("text", HOSTILE)
def test_words_of_a_result_are_shown_as_they_stand(
    finished: Path, copy: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(copy / "result.json", "norm", to=text)
    assert retrain.main(given(finished.with_name("genotype.json"), copy)) == 0
    out, err = capsys.readouterr()
    assert unseen(out + err) == []
    assert visible(text).split("\n")[0] in out


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("keys", [("data", "name"), ("provenance", "problem"), ("units", "x")])
def test_a_model_card_is_python_whatever_the_genotype_says(copy: Path, keys: tuple[str, ...], text: str) -> None:
    put(copy / "genotype.json", "objectives", to={"x": 1.0})
    put(copy / "genotype.json", *keys, to=text)
    out = copy.with_name("exported")
    assert export.main([f"run={copy}", f"out={out}", "onnx=no"]) == 0
    card = ast.parse((out / "model.py").read_text(encoding="utf-8"))
    assert isinstance(card.body[0], ast.Expr)
    assert isinstance(card.body[1], ast.ImportFrom), "the description ends where it should"


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nerror: b", "x" * 100_000, "\u202e"])
@pytest.mark.parametrize("keys", [("schema",), ("space", "class"), ("space", "phases"), ("data", "name"), ("data",)])
def test_an_error_is_one_short_line(
    finished: Path, tmp_path: Path, keys: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = shutil.copy(finished.with_name("genotype.json"), tmp_path / "genotype.json")
    put(file, *keys, to=text)
    assert retrain.main(given(file, tmp_path / "out")) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert unseen(err) == []
    assert len(err) < LONGEST_MESSAGE + 100
    assert not (tmp_path / "out").exists()


def test_what_anybody_writes_stays_as_it_is() -> None:
    text = "Läufe/日本 8/255 ε ≤ π\nnext\tline [a]"
    assert message(text) == visible(text) == text
    assert one_line("a\nb\tc") == r"a\nb\tc"


def _nan(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor


SPOILT = {
    "NaN": (_nan, "holds NaN or infinity"),
    "whole numbers": (lambda t: t.to(torch.int8), "does not fit"),
    "complex": (lambda t: t.to(torch.complex64), "does not fit"),
    "doubles": (lambda t: t.double(), "does not fit"),
    "other shapes": (lambda t: t.reshape(-1)[:1].clone(), "does not fit"),
    "variances below zero": (lambda t: -t.abs() - 1 if t.ndim == 1 and t.is_floating_point() else t, "finite logits"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_weights_that_are_none_are_not_exported(copy: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, said = SPOILT[kind]
    tensors, _ = read_tensors(copy / "model.safetensors")
    write_tensors(copy / "model.safetensors", {name: spoil(tensor) for name, tensor in tensors.items()})
    out = copy.with_name("exported")
    assert export.main([f"run={copy}", f"out={out}", "onnx=no"]) == 2
    assert said in capsys.readouterr().err
    assert sorted(p.name for p in copy.parent.iterdir()) == ["trained"]


@pytest.mark.parametrize(
    ("key", "value"), [("clean_error", 7.0), ("error", [-0.5]), ("adversarial", {"error": 1.5, "n": 3})]
)
def test_errors_that_are_no_shares_are_refused(
    copy: Path, key: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    put(copy / "result.json", key, to=value)
    assert export.main([f"run={copy}", f"out={copy.with_name('exported')}", "onnx=no"]) == 2
    assert f"as '{key}'" in capsys.readouterr().err


def test_a_damaged_file_is_told_of_in_one_line(tmp_path: Path) -> None:
    assert "\n" not in str(DamagedFile(tmp_path, "Error(s):\n\tsize mismatch"))
