"""The shipped problems: every one and scale loads, and RobNet's run end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evo_robust import analyze, export, run
from evo_robust.genotype import load_genotype
from evo_robust.problem import load, problem_files, problem_from_dict, problem_to_dict, scales
from evo_robust.record import Run, load_run

SCALES = [(name, scale) for name in sorted(problem_files()) for scale in scales(name)]
# what both RobNets are cut down to: hundreds of images, one attack step, two tiny cells
CHEAP = {
    "data.train_limit": "200",
    "space.channels": "2",
    "space.layers": "3",
    "objectives.0.attack.steps": "2",
    "objectives.0.limit": "100",
    "evaluator.supernet.epochs": "1",
    "evaluator.supernet.recipe": "FastTraining",
    "evaluator.recipe": "FastTraining",
    "evaluator.recalibration_batches": "2",
}


def ran(folder: Path, problem: str, **given: str) -> Run:
    """The run of a shipped problem's demo, cut down."""
    settings = {**CHEAP, **{key.replace("__", "."): value for key, value in given.items()}}
    arguments = [f"problem={problem}", f"out={folder}", "device=cpu", "workers=1", "plot=false"]
    assert run.main([*arguments, *(f"{key}={value}" for key, value in settings.items())]) == 0
    return load_run(folder)


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_every_scale_loads_and_survives_its_json(name: str, scale: str) -> None:
    problem = load(name, scale)
    assert problem_from_dict({"problem": name, **json.loads(json.dumps(problem_to_dict(problem)))}) == problem


def test_every_problem_has_a_demo_and_the_paper_s_scale() -> None:
    assert {"roco", "roco_baseline", "robnet", "robnet_free"} <= {name for name, _ in SCALES}
    for name in {name for name, _ in SCALES}:
        assert {(name, "demo"), (name, "paper")} <= set(SCALES)


def test_robnet_from_search_to_study_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ran(tmp_path / "run", "robnet", algorithm__pop_size="3", algorithm__n_gen="1")
    assert [row["status"] for row in found.evaluations] == ["ok"] * 3
    names = {"robust_error", "clean_error", *(f"robust_error.{eps}" for eps in ("0.05", "0.1", "0.15"))}
    assert all(set(row["figures"]["inherited"]) == names for row in found.evaluations)

    capsys.readouterr()
    assert analyze.main([f"run={found.folder}", "objective=robust_error.0.05"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "robust accuracy at ε = 0.05:" in said and "after finetuning (mean of 3 networks)" in said
    assert {path.stem for path in found.folder.glob("*.png")} >= {"finetuning", "density", "convolutions"}

    worst = max(row["figures"]["robust_error"]["0.05"] for row in found.evaluations)
    budget = f"robust_error.0.05<={worst},params<1e9"
    out = tmp_path / "out"
    arguments = [f"run={found.folder}", "pick=best:params", f"budget={budget}", "onnx=false", f"out={out}"]
    assert export.main(arguments) == 0
    said = capsys.readouterr().out
    assert "3 of 3 networks" in said and "the search recorded" not in said
    chosen = load_genotype(out)
    assert chosen.objectives["params"] == min(row["objectives"]["params"] for row in found.evaluations)
    assert chosen.provenance["budget"] == budget and chosen.provenance["supernet"]


def test_robnet_free_rejects_before_finetuning(tmp_path: Path) -> None:
    gate = {"constraints__0__sample": "4", "constraints__0__of__limit": "50", "constraints__0__of__attack__steps": "1"}
    found = ran(
        tmp_path / "run", "robnet_free", algorithm="NSGA2", algorithm__pop_size="4", algorithm__n_gen="2", **gate
    )
    kept = json.loads((found.folder / "gates.json").read_text())["fsp_distance_gate"]
    assert len(kept["found"]) == 4 and kept["limit"] > 0
    statuses = {row["status"] for row in found.evaluations}
    assert statuses == {"ok", "rejected"}
    for row in found.evaluations:
        assert (row["status"] == "rejected") == (row["constraints"]["fsp_distance_gate"] > 0)
        assert ("train_error" in row["figures"]) == (row["status"] == "ok")
        assert len(row["figures"]["fsp_distance"]["cells"]) == 3
