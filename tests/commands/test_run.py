"""The run command: what it prints, what it writes, and every mistake as one clear message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evo_robust.run import main

SMALL = [
    "problem=roco_baseline",
    "algorithm.pop_size=4",
    "algorithm.n_gen=2",
    "evaluator.epochs=1",
    "data.train_limit=300",
    # the set is not what these tests are about
    "recorded.0.adversarial_set.victims=lenet",
    "recorded.0.adversarial_set.epochs=20",
    "recorded.0.adversarial_set.norms=linf",
    "recorded.0.adversarial_set.linf_levels=64",
    "recorded.0.adversarial_set.sources=30",
    "workers=1",
    "device=cpu",
]


def test_without_arguments_lists_the_problems(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert "usage: python -m evo_robust.run problem=NAME" in text
    assert "roco " in text and "roco_baseline " in text and "RoCo-NAS" in text


def test_help_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["problem=roco", "--help"]) == 0
    text = capsys.readouterr().out
    for key in ("workers", "algorithm.pop_size", "evaluator.epochs", "objectives.1.adversarial_set", "data.root"):
        assert key in text
    text = " ".join(text.split())
    assert "training epochs per candidate" in text and "scales of roco: demo" in text


@pytest.mark.parametrize("arguments", [["problem=roco", "--help"], []], ids=["help", "usage"])
def test_a_reader_that_has_read_enough_hears_no_complaint(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "evo_robust.run", *arguments]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_searches_draws_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "out=run"]) == 0
    printed = capsys.readouterr().out
    assert "generation   2/2" in printed and "Front of" in printed and "wrote run/front.png" in printed
    info = json.loads(Path("run/problem.json").read_text())
    assert info["problem"] == "roco_baseline" and info["values"]["algorithm.pop_size"] == 4
    assert info["command"].startswith("python -m evo_robust.run problem=roco_baseline")
    before = Path("run/evaluations.jsonl").read_bytes()
    assert main([*SMALL, "out=run", "plot=false"]) == 0
    assert Path("run/evaluations.jsonl").read_bytes() == before
    assert "resuming: 8 evaluations" in capsys.readouterr().out
    # a run inside a run would be found by no command that looks for runs
    assert main([*SMALL, "out=run/below/new"]) == 2
    assert "out=run/below/new lies inside the run folder" in capsys.readouterr().err
    assert not Path("run/below").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["problem=rocco"], "unknown problem 'rocco': did you mean 'roco'?"),
        (["problem=roco", "scale=tiny"], "unknown scale 'tiny'"),
        (["problem=roco", "algorithm.popsize=4"], "did you mean 'algorithm.pop_size'?"),
        (["problem=roco", "worker=4"], "did you mean 'workers'?"),
        (["problem=roco", "recorked="], "unknown key 'recorked': did you mean 'recorded'?"),
        (["problem=roco", f"evaluator.recipe.batch_size={'9' * 23}"], "a whole number of at most 9,223,372,036,854"),
        (["problem=roco", "algorithm=NSGA4"], "did you mean 'NSGA"),
        (["problem=roco", "algorithm.pop_size=many"], "expected a whole number"),
        (["problem=roco", "algorithm.pop_size=0"], "expected algorithm.pop_size >= 1, got 0"),
        (["problem=roco", "objectives="], "expected at least one objective"),
        (["problem=roco", "objectives=RobustError,Flops", "objectives.0.eps=0"], "eps"),
        (["problem=roco", "objectives=RobustError,Flops", "objectives.0.eps=-8/255"], "eps"),
        (["problem=roco", "seed"], "expected key=value, got 'seed'"),
        (["problem=roco", "seed=1", "seed=2"], "seed is given twice"),
        (["scale=demo"], "missing: problem=NAME"),
        (["problem=roco", "device=tpu"], "expected auto, cpu, cuda"),
        (["problem=roco", "workers=0"], "expected workers >= 1"),
        (["problem=roco", "data=CIFAR10", "data.root=nowhere", "data.download=false"], "nowhere"),
    ],
)
def test_mistakes_exit_2_and_write_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVO_ROBUST_CACHE", str(tmp_path / "cache"))
    assert main([*arguments, "out=run"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="needs a machine without a CUDA device")
def test_cuda_asked_for_and_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL[:-1], "device=cuda", "out=run"]) == 2
    assert "no CUDA device is at hand; use device=cpu" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_ctrl_c_exits_130_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evo_robust.run.search", interrupted)
    assert main([*SMALL, "out=run"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted; the same command goes on where it stopped"
