"""``retrain run=DIR``: networks of a search, trained in a folder each, with an index that others read."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from evo_robust.files import read_tensors
from evo_robust.final_training.front import read_front
from evo_robust.final_training.settings import load_result
from evo_robust.networks.genotype import load_genotype
from evo_robust.parts.base import UserError
from evo_robust.record.reading import load_run
from evo_robust.retrain import main

EARLIER = ROOT / "tests" / "data" / "earlier"
TINY = {
    "recipe": "standard",
    "space.channels": "4",
    "recipe.lr": "0.1",
    "recipe.batch_size": "50",
    "epochs": "3",
    "data.train_limit": "200",
    "data.test_limit": "60",
    "attack.steps": "2",
    "eps": "8/255,0.1",
    "device": "cpu",
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EARLIER / "roco", tmp_path / "roco"))


def arguments(run: Path, out: Path, **other: str) -> list[str]:
    return [f"run={run}", f"out={out}", *(f"{key}={value}" for key, value in {**TINY, **other}.items())]


def figures(folder: Path) -> tuple[Any, ...]:
    """What must not depend on interruption, order or clock."""
    weights = {name: t.tolist() for name, t in read_tensors(folder / "model.safetensors")[0].items()}
    return dataclasses.replace(load_result(folder), seconds={}), weights


def test_a_whole_front_is_trained_with_an_index_and_a_table(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, searched = tmp_path / "out", load_run(run)
    n = len(searched.front)
    assert n > 1
    assert main(arguments(run, out)) == 0
    said = capsys.readouterr().out
    assert f"{n} networks of {run}, into {out}" in said and f"{n} of {n} done" in said
    assert "searched" in said and "trained" in said and "front-1 " in said

    index = read_front(out)
    assert (index["run"], index["problem"], index["recipe"]) == ("roco", "roco", "standard")
    assert index["objectives"] == searched.objectives
    assert [entry["folder"] for entry in index["networks"]] == [f"front-{i}" for i in range(n)]
    for entry, row in zip(index["networks"], searched.front, strict=True):
        assert (entry["architecture"], entry["evaluation"]) == (row["architecture"], row["id"])
        assert entry["objectives"] == row["objectives"]
        found = load_genotype(out / entry["folder"])
        assert found.text == row["architecture"] and found.objectives == row["objectives"]
        assert load_result(out / entry["folder"]).n_train == 200
    with (out / "front.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["folder"] for row in rows] == [f"front-{i}" for i in range(n)]
    for row in rows:
        result = load_result(out / row["folder"])
        assert float(row["clean_error"]) == pytest.approx(result.clean_error)
        assert float(row["error.0.1"]) == pytest.approx(result.error[1])
        assert {f"searched.{name}" for name in searched.objectives} <= row.keys()

    # the same command does nothing again
    before = {path: path.stat().st_mtime_ns for path in out.glob("front-*/*")}
    assert main(arguments(run, out)) == 0
    assert f"{n} of {n} networks are finished already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.glob("front-*/*")} == before


def test_a_front_is_trained_network_by_network_as_a_genotype_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(arguments(run, out, pick="0,knee,0")) == 0
    names = [entry["folder"] for entry in read_front(out)["networks"]]
    assert names[0] == "front-0" and len(names) == len(set(names)) <= 2
    alone = [a for a in arguments(run, tmp_path / "alone") if not a.startswith("run=")]
    assert main([f"genotype={out / 'front-0' / 'genotype.json'}", "decoder=search", "data=digits", *alone]) == 0
    assert figures(tmp_path / "alone") == figures(out / "front-0")
    # what another pick adds lies beside what is there
    assert main(arguments(run, out, pick="best:flops")) == 0
    more = [entry["folder"] for entry in read_front(out)["networks"]]
    assert set(names) < set(more) or set(names) == set(more)


def test_several_at_a_time_end_like_one_after_another(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(arguments(run, two, workers="2")) == 0  # one thread each, as here: see conftest.py
    assert "front-1: epoch   3/3" in capfd.readouterr().out
    assert main(arguments(run, one)) == 0
    names = [entry["folder"] for entry in read_front(one)["networks"]]
    assert [figures(one / name) for name in names] == [figures(two / name) for name in names]


def test_a_killed_front_goes_on_where_it_stopped(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    longer = {"epochs": "8"}
    process = subprocess.Popen(
        [sys.executable, "-m", "evo_robust.retrain", *arguments(run, torn, **longer)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("front-1: epoch   2/8"):
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    finished = (torn / "front-0" / "result.json").stat().st_mtime_ns
    assert main(arguments(run, torn, **longer)) == 0
    said = capsys.readouterr().out
    assert "1 of " in said and "networks are finished already" in said
    assert "front-1: going on from" in said and "front-1: epoch   1/8" not in said
    assert (torn / "front-0" / "result.json").stat().st_mtime_ns == finished
    assert main(arguments(run, whole, **longer)) == 0
    for entry in read_front(whole)["networks"]:
        assert figures(torn / entry["folder"]) == figures(whole / entry["folder"])


def test_one_network_that_fails_costs_no_other(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert main(arguments(run, out, pick="0")) == 0
    # of the second network there is half a checkpoint
    (out / "front-1").mkdir()
    assert main(arguments(run, tmp_path / "other", pick="1")) == 0
    shutil.copy(tmp_path / "other" / "front-1" / "retrain.json", out / "front-1" / "retrain.json")
    (out / "front-1" / "checkpoint.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    capsys.readouterr()
    n = len(load_run(run).front)
    assert main(arguments(run, out)) == 2
    captured = capsys.readouterr()
    assert f"1 of {n} networks could not be trained: front-1: " in captured.err and "is damaged" in captured.err
    assert f"{n} of {n} done" in captured.out
    assert [load_result(out / f"front-{i}").epochs for i in range(n) if i != 1] == [3] * (n - 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pick": "front-0"}, "got pick=front-0"),
        ({"pick": "99"}, "the front has"),
        ({"workers": "0"}, "expected workers >= 1"),
        ({"network": "lenet"}, "expected genotype=FILE, network=NAME or run=DIR, got network and run"),
        ({"recipe": "rocco"}, "did you mean 'roco'"),
        ({"epochs": "0"}, "expected epochs >= 1"),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(
    run: Path, tmp_path: Path, given: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(run, tmp_path / "out", **given)) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_keys_of_a_front_belong_to_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["network=lenet", "data=digits", "pick=front"]) == 2
    assert "pick=front belongs to run=DIR" in capsys.readouterr().err
    assert main(["data=digits"]) == 2
    assert "expected genotype=FILE, network=NAME or run=DIR" in capsys.readouterr().err


def test_other_settings_other_runs_and_other_fronts_are_refused_before_anything_is_trained(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(arguments(run, out, pick="0")) == 0
    index = (out / "front.json").read_bytes()
    assert main(arguments(run, out, epochs="4")) == 2
    assert "epochs: 3 → 4" in capsys.readouterr().err
    other = Path(shutil.copytree(run, tmp_path / "again"))
    assert main(arguments(other, out, pick="1")) == 2
    assert "holds networks of roco: expected another out=" in capsys.readouterr().err
    assert main([f"run={out / 'front-0'}", "epochs=1"]) == 2
    assert "holds one retrained network: expected the run folder of a search" in capsys.readouterr().err
    assert (out / "front.json").read_bytes() == index and not (out / "front-1").exists()
    content = json.loads(index)
    content["networks"][0]["folder"] = "../roco"
    (out / "front.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"front\.json is damaged: expected a list of networks"):
        read_front(out)
