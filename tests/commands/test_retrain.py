"""Retraining on real digits: settings, results, resume after SIGKILL, and every message."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import chz
import numpy as np
import pytest
import torch

from evo_robust import export
from evo_robust.attacks.gradient import PGD
from evo_robust.data.sets import CIFAR10, Digits
from evo_robust.files import FolderLock, read_tensors
from evo_robust.final_training.settings import load_result
from evo_robust.final_training.work import retrain
from evo_robust.inference.predictions import clean_error
from evo_robust.networks.genotype import Genotype, load_genotype, save_genotype
from evo_robust.parts.base import UserError, dotted
from evo_robust.retrain import Retraining, RetrainOptions, main, settings_from
from evo_robust.spaces import NSGAPhases
from evo_robust.spaces.robnet.space import RobNet
from evo_robust.training.recipes import TRADES, PGDTraining, Standard

SPACE = NSGAPhases(phases=2, nodes=3, channels=4, dense_channels=8)
TINY = {
    "recipe": "standard",
    "space.channels": "4",
    "recipe.lr": "0.1",
    "recipe.batch_size": "32",
    "epochs": "3",
    "data.train_limit": "300",
    "data.test_limit": "80",
    "attack.steps": "3",
    "eps": "8/255,0.1,0.25",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A genotype file."""
    architecture = SPACE.decode(SPACE.sample(np.random.default_rng(2)))
    path = tmp_path / "found" / "genotype.json"
    path.parent.mkdir()
    save_genotype(Genotype(SPACE, architecture, "digits", 10, (1, 8, 8), provenance={"problem": "roco"}), path)
    return path


def arguments(file: Path, out: Path, **other: str) -> list[str]:
    return [f"genotype={file}", f"out={out}", "device=cpu", *(f"{k}={v}" for k, v in {**TINY, **other}.items())]


def settings(file: Path, **given: str) -> Retraining:
    return settings_from(RetrainOptions(genotype=str(file)), given)[0]


def figures(folder: Path) -> tuple[object, ...]:
    """What must not depend on interruption or clock."""
    result = dataclasses.replace(load_result(folder), seconds={})
    weights = {name: t.tolist() for name, t in read_tensors(folder / "model.safetensors")[0].items()}
    with (folder / "training.csv").open(newline="") as rows:
        logs = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(rows)]
    return result, weights, logs, (folder / "curve.csv").read_text()


def test_the_command_line_goes_over_preset_genotype_and_defaults(file: Path) -> None:
    plain = settings(file)
    assert isinstance(plain.data, Digits) and plain.epochs == 120
    # RoCo-NAS, section IV: 32 initial channels, batch 128, 120 epochs, no adversarial training
    assert plain.space == chz.replace(SPACE, channels=32) and plain.space.decoder == "residual"
    assert plain.recipe == Standard(lr=0.025, momentum=0.9, weight_decay=3e-4, batch_size=128, clip=5.0)
    assert isinstance(settings(file, recipe="pgd").recipe, PGDTraining)
    dense, _ = settings_from(RetrainOptions(genotype=str(file), decoder="dense"), {"space.dense_channels": "16"})
    assert dense.space == chz.replace(SPACE, decoder="dense", dense_channels=16) and dense.recipe == plain.recipe
    searched, _ = settings_from(RetrainOptions(genotype=str(file), decoder="search"), {"space.channels": "32"})
    assert searched.space == chz.replace(SPACE, channels=32)
    other = settings(file, **{"recipe": "TRADES", "recipe.beta": "1", "data": "cifar10", "data.train_limit": "1000"})
    assert isinstance(other.recipe, TRADES) and other.recipe.beta == 1
    assert other.data == CIFAR10(train_limit=1000)
    assert isinstance(settings(file, recipe="standard", **{"recipe.lr": "0.5"}).recipe, Standard)
    assert settings(file, eps="8/255,0.5").eps == (8 / 255, 0.5)
    assert settings_from(RetrainOptions(network="lenet"), {"data": "digits"})[0].build()(
        torch.zeros(2, 1, 8, 8)
    ).shape == (
        2,
        10,
    )


def test_a_retraining_leaves_weights_tables_pictures_and_figures_that_agree(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(arguments(file, out)) == 0
    said = capsys.readouterr().out
    assert "epoch   3/3" in said and "accuracy on 80 test images" in said
    visible = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
    assert visible == [
        "curve.csv",
        "curve.png",
        "genotype.json",
        "model.safetensors",
        "result.json",
        "retrain.json",
        "training.csv",
        "training.png",
    ]
    result = load_result(out)
    assert result.n_train == 300 and result.n_test == 80 and result.error[0] >= result.clean_error
    assert list(result.error) == sorted(result.error)
    found = load_genotype(out)
    assert found.space == SPACE and found.provenance["problem"] == "roco"
    model = found.build()
    model.load_state_dict(read_tensors(out / "model.safetensors")[0])
    assert clean_error(model, Digits(train_limit=300, test_limit=80).load().test) == result.clean_error
    assert sum(p.numel() for p in model.parameters()) == result.params
    with (out / "curve.csv").open(newline="") as rows:
        table = [(float(r["eps"]), float(r["accuracy"])) for r in csv.DictReader(rows)]
    assert table[0] == pytest.approx((0, 1 - result.clean_error)) and len(table) == 4

    before = figures(out)
    assert main(arguments(file, out)) == 0
    assert "finished already" in capsys.readouterr().out
    assert figures(out) == before

    assert main(arguments(file, out, epochs="4")) == 2
    assert "epochs: 3 → 4" in capsys.readouterr().err
    assert figures(out) == before

    assert export.main([f"run={out}", "onnx=false"]) == 0
    card = (out / "export" / "model.py").read_text()
    assert "trained from scratch: Standard, 3 epochs on 300 images of digits" in card
    check = subprocess.run([sys.executable, "-I", str(out / "export" / "model.py")], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr


def test_killed_in_the_middle_the_same_command_ends_with_the_same_figures(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    longer = {"epochs": "12", "recipe": "pgd", "recipe.attack.steps": "2"}
    command = [sys.executable, "-m", "evo_robust.retrain", *arguments(file, torn, **longer)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch   2/12"):
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    assert (torn / "checkpoint.safetensors").exists() and not (torn / "result.json").exists()
    with pytest.raises(UserError, match="is not finished"):
        load_result(torn)
    assert main(arguments(file, torn, **longer)) == 0  # one thread as well: see conftest.py
    resumed = capsys.readouterr().out
    assert "going on from" in resumed and "epoch   2/12" not in resumed and "epoch  12/12" in resumed
    assert main(arguments(file, whole, **longer)) == 0
    assert figures(torn) == figures(whole)
    assert not (torn / "checkpoint.safetensors").exists()


def test_a_damaged_checkpoint_is_named_and_refused(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    given = settings(file, **TINY)
    identity = {**dotted(given, identity=True), "device": "cpu"}
    (out / "retrain.json").write_text(json.dumps({"schema": 1, "identity": identity}))
    (out / "checkpoint.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    assert main(arguments(file, out)) == 2
    assert f"{out / 'checkpoint.safetensors'} is damaged" in capsys.readouterr().err
    (out / "retrain.json").write_text("{")
    assert main(arguments(file, out)) == 2
    assert f"{out / 'retrain.json'} is damaged" in capsys.readouterr().err


def test_a_folder_in_use_or_of_something_else_is_left_alone(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with FolderLock(out):
        assert main(arguments(file, out)) == 2
    assert "is in use" in capsys.readouterr().err
    (out / "thesis.tex").write_text("mine")
    assert main(arguments(file, out)) == 2
    assert "holds other files" in capsys.readouterr().err
    assert [p.name for p in out.iterdir() if not p.name.startswith(".")] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"recipe": "pgdd"}, "did you mean 'pgd'"),
        ({"recipe.lrr": "1"}, "unknown key 'recipe.lrr'"),
        ({"recipe.lr": "-1"}, "expected lr > 0"),
        ({"recipe.lr": "1e30", "recipe.clip": "None"}, "NaN or infinite"),
        ({"data": "cifar"}, "did you mean 'CIFAR10'"),
        ({"data": "mnist", "data.root": "/nowhere", "data.download": "false"}, "/nowhere"),
        ({"epochs": "0"}, "expected epochs >= 1"),
        ({"eps": "0"}, "expected eps in (0, 1]"),
        ({"eps": "0.2,0.1"}, "ascending order"),
        ({"space": "NSGAPhases"}, "space comes from the genotype"),
        ({"space.final_channels": "8"}, "space.final_channels belongs to a search: expected space.channels=8"),
        ({"adversarial_set": "search"}, "the genotype names none"),
        ({"decoder": "big"}, "decoder=big"),
        (
            {"space.dense_channels": "16"},
            "has no effect: expected decoder=dense with the width of the dense decoder, or space.channels",
        ),
        ({"decoder": "dense", "space.channels": "16"}, "no effect: expected space.dense_channels,"),
        ({"precision": "bf8"}, "precision=bf8"),
        ({"device": "tpu"}, "expected auto, cpu"),
        ({"network": "lenet"}, "got both"),
    ],
)
def test_bad_input_is_one_message(
    file: Path, tmp_path: Path, given: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = [a for a in arguments(file, out) if a.partition("=")[0] not in given]
    if "data" in given:
        line = [a for a in line if not a.startswith("data.")]
    assert main([*line, *(f"{k}={v}" for k, v in given.items())]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (out / "result.json").exists()
    if "clip" not in str(given):  # a diverging training is known only once it has begun
        assert not out.exists()


def test_other_spaces_are_trained_as_their_papers_do(tmp_path: Path) -> None:
    space = RobNet(channels=4, layers=3, final_channels=6, final_layers=4)
    architecture = space.decode(space.sample(np.random.default_rng(0)))
    save_genotype(Genotype(space, architecture, "digits", 10, (1, 8, 8)), tmp_path / "genotype.json")
    plain = settings(tmp_path / "genotype.json")
    assert isinstance(plain.recipe, PGDTraining) and plain.space == space.for_final_training()
    with pytest.raises(UserError, match="decoder=dense: RobNet has no such decoder: expected one of: final, search"):
        settings_from(RetrainOptions(genotype=str(tmp_path / "genotype.json"), decoder="dense"), {})


def test_the_folder_is_named_by_the_recipe_that_was_taken(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [f"{key}={value}" for key, value in {**TINY, "epochs": "1"}.items() if key != "recipe"]
    assert main([f"genotype={file}", "device=cpu", *given]) == 0
    assert "Standard, 1 epochs" in capsys.readouterr().out
    assert [path.name.rpartition("-")[0] for path in (tmp_path / "runs").iterdir()] == ["retrain-standard-digits"]


def test_a_reference_network_needs_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["network=lenet", f"out={tmp_path / 'out'}"]) == 2
    assert "missing: data=NAME, one of " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("decoder", ["search", "final", "nonsense"])
def test_a_reference_network_takes_no_decoder(decoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["network=lenet", "data=digits", f"decoder={decoder}", f"out={out}"]) == 2
    said = f"decoder={decoder} belongs to genotype=FILE or run=DIR: expected no decoder with network=\n"
    assert capsys.readouterr().err.endswith(said) and not out.exists()


@pytest.mark.parametrize(
    "content",
    [bytes(range(255, 0, -1)), b"\xff\xfe{\x00", b"\x00" * 40, b"\x10\x00\x00\x00\x00\x00\x00\x00{}"],
    ids=["random", "UTF-16", "zeros", "safetensors"],
)
def test_a_genotype_that_is_no_text_is_one_plain_message(
    content: bytes, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = file.with_name("weights.bin")
    odd.write_bytes(content)
    assert main([f"genotype={odd}", f"out={tmp_path / 'out'}"]) == 2
    said = f"error: {odd} is no text file: expected a genotype file; did you mean {file}?"
    assert "".join(capsys.readouterr().err.split()) == "".join(said.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("inside", "said"), [("mine", "got a file"), ("mine/deep", "the folder cannot be made")])
def test_an_out_that_cannot_be_a_folder_is_one_message(
    file: Path, tmp_path: Path, inside: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("")
    assert main(arguments(file, tmp_path / inside)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: out=") and said in error and error.count("\n") == 1


def test_without_arguments_usage_and_with_help_every_key(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "genotype=FILE" in capsys.readouterr().out
    assert main(["--help"]) == main(["recipe=trades", "--help"]) == 0
    alone, _, trades = capsys.readouterr().out.rpartition("usage:")
    for key in ("genotype", "decoder", "device", "data", "recipe.lr", "epochs", "attack.steps", "precision", "seed"):
        assert f"  {key} " in alone, key
    assert "genotype file, or a folder" in alone and "passes over the training images" in alone
    assert "recipe.beta" in trades and "recipe.beta" not in alone
    assert main([f"genotype={file}", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(key in text for key in ("decoder", "recipe.lr", "data.train_limit", "space.dense_channels", "eps"))


def test_a_retraining_is_judged_on_the_adversarial_set_of_its_search(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVO_ROBUST_CACHE", str(tmp_path / "cache"))
    made = settings(
        file,
        **{
            "adversarial_set": "AdversarialSet",
            "adversarial_set.victims": "lenet",
            "adversarial_set.epochs": "1",
            "adversarial_set.norms": "l0",
            "adversarial_set.l0_levels": "5",
            "adversarial_set.sources": "20",
            "adversarial_set.optimiser.max_iter": "3",
        },
    ).adversarial_set
    assert made is not None
    genotype = dataclasses.replace(load_genotype(file), provenance={"adversarial_set": dotted(made)})
    save_genotype(genotype, file)
    given = settings(file, **{**TINY, "epochs": "1", "adversarial_set": "search"})
    assert given.adversarial_set == made and given.attack == PGD(steps=3)
    given = chz.replace(given, precision="bf16")  # reaches the curve, whose last word is the network's own
    result = retrain(given, tmp_path / "out", genotype=genotype, device="cpu")
    assert result.adversarial is not None and result.adversarial["n"] > 0
    assert 0 <= result.adversarial["error"] <= 1
    assert load_result(tmp_path / "out") == result
