"""The shipped problems: every one and scale loads, and those of shared weights run end to end."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from evo_robust import analyze, export, run
from evo_robust.estimators import STRENGTHS
from evo_robust.networks.genotype import load_genotype
from evo_robust.objectives.cost import Flops
from evo_robust.parts.base import UserError
from evo_robust.problem.files import load, problem_files, problem_from_dict, problem_to_dict, scales
from evo_robust.record.reading import Run, load_run

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
    assert {"roco", "roco_baseline", "robnet", "robnet_free", "racl", "wsr"} <= {name for name, _ in SCALES}
    for name in {name for name, _ in SCALES}:
        assert {(name, "demo"), (name, "paper")} <= set(SCALES)


@pytest.mark.parametrize("name", ["roco", "roco_baseline"])
def test_roco_at_the_paper_s_scale_counts_and_attacks_as_the_paper(name: str) -> None:
    paper, demo = load(name, "paper"), load(name, "demo")
    measured = [{o.name: o for o in (*problem.objectives, *problem.recorded)} for problem in (paper, demo)]
    assert measured[0]["flops"] == Flops(rule="nsga") and measured[1]["flops"] == Flops()
    sets = [m["transfer_error"].adversarial_set for m in measured]  # type: ignore[attr-defined]
    # Table I: 651 successes of one attack on one victim, which gets part of the images right at best
    assert sets[0].sources * 0.55 > 651 and sets[1].sources == 50


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


# a search that trains its weights: two generations of one epoch each
CO_TRAINED = {
    "data.train_limit": "200",
    "space.channels": "4",
    "space.nodes": "2",
    "evaluator.supernet.epochs": "2",
    "evaluator.warmup": "0",
    "evaluator.epochs": "1",
    "evaluator.recalibration_batches": "2",
    "algorithm.pop_size": "4",
    "algorithm.n_gen": "2",
}
# of each ablation, the column of co_training.csv in which it shows already in the first generation
ABLATIONS = {
    "no constraint": ("algorithm.gradient.confidence=None", None),
    "no confidence learning": ("algorithm.gradient.confidence.learning=False", "constraint"),
    "η": ("algorithm.gradient.confidence.eta=0.7", "ln_limit"),
    "ρ": ("algorithm.gradient.confidence.rho=0.0001", "theta"),
}


def co_trained(folder: Path, problem: str, *more: str, **changed: str) -> tuple[Run, list[dict[str, str]]]:
    """The run of a co-trained problem's demo, cut down, and what it learned generation by generation."""
    settings = CO_TRAINED | {key.replace("__", "."): value for key, value in changed.items()}
    given = [f"{key}={value}" for key, value in settings.items()]
    arguments = [f"problem={problem}", f"out={folder}", "device=cpu", "workers=1", *given, *more]
    assert run.main(arguments) == 0
    with (folder / "co_training.csv").open() as file:
        return load_run(folder), list(csv.DictReader(file))


@pytest.fixture(scope="module")
def racl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[dict[str, str]]]:
    return co_trained(tmp_path_factory.mktemp("racl") / "run", "racl")


def test_racl_from_search_to_export(
    racl: tuple[Run, list[dict[str, str]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, told = racl
    assert len(found.evaluations) == 4 + 8, "survivors are measured anew"
    assert all(row["status"] == "ok" for row in found.evaluations)
    assert set(found.front[0]["objectives"]) == {"clean_error", "lipschitz_bound"}
    assert set(found.front[0]["recorded"]) == {"robust_error", "params"}
    assert len(told) == 2 and float(told[1]["ln_limit"]) != float(told[0]["ln_limit"])
    assert {path.stem for path in found.folder.glob("*.png")} >= {"front", "networks", "hypervolume"}
    out = tmp_path / "out"
    with (found.folder / "distribution.csv").open() as file:
        derived = list(csv.DictReader(file))
    assert [row["generation"] for row in derived] == ["1", "2"]
    picks = "pick=best:lipschitz_bound,derived"
    assert export.main([f"run={found.folder}", picks, "onnx=false", f"out={out}"]) == 0
    assert "the search recorded" not in capsys.readouterr().out, "weights are those that were measured"
    least = load_genotype(out / "best-lipschitz_bound").objectives["lipschitz_bound"]
    assert least == min(row["objectives"]["lipschitz_bound"] for row in found.front)
    stands_for = load_genotype(out / "derived")
    assert stands_for.space.to_text(stands_for.architecture) == derived[-1]["architecture"]
    assert stands_for.objectives["clean_error"] == float(derived[-1]["clean_error"])
    assert export.main([f"run={found.folder}", "pick=derived", "budget=params<1e6"]) == 2
    assert "expected no budget" in capsys.readouterr().err


def test_racl_at_the_paper_s_scale_moves_the_distribution_for_35_of_50_epochs() -> None:
    """PC-DARTS's 15 epochs without architecture steps, and a schedule that ends with the last generation."""
    paper = load("racl", "paper")
    epochs = [paper.evaluator.epochs_at(g) for g in range(1, paper.algorithm.n_gen + 1)]  # type: ignore[attr-defined]
    assert paper.evaluator.warmup == 15 and paper.algorithm.gradient.warmup == "mixtures"  # type: ignore[attr-defined]
    assert epochs == [20, 25, 30, 35, 40, 45, 50]


@pytest.mark.parametrize(("override", "column"), ABLATIONS.values(), ids=ABLATIONS)
def test_ablations_of_racl_by_one_override(
    racl: tuple[Run, list[dict[str, str]]], tmp_path: Path, override: str, column: str | None
) -> None:
    """Table 5 of RACL; each is another search than the one it takes something from."""
    # it shows in the first generation, before candidates are drawn
    one = {"algorithm.n_gen": "1", "algorithm.pop_size": "1"}
    found, told = co_trained(tmp_path / "run", "racl", override, "plot=false", **one)
    assert load("racl", "demo", CO_TRAINED | one | dict([override.split("=")])) == found.problem
    whole = racl[1]
    assert float(whole[0]["theta"]) > 0
    if column is None:
        assert "theta" not in told[0] and told[0]["entropy"] != whole[0]["entropy"], "the distribution went elsewhere"
    else:
        assert float(told[0][column]) != pytest.approx(float(whole[0][column]), rel=1e-3)


def test_wsr_from_search_to_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cheap = ["evaluator.supernet.recipe=FastTraining", "evaluator.recipe=FastTraining", "objectives.0.attack.steps=2"]
    learned = ["objectives.0.estimator=A", "algorithm.gradient.losses.passes=5", "objectives.0.limit=60"]
    third = {"algorithm__n_gen": "3", "evaluator__supernet__epochs": "3"}
    found, told = co_trained(tmp_path / "run", "wsr", *cheap, *learned, **third)
    strengths = {"0.06", "0.09", "0.12", "0.15", "0.18", "0.21"}
    for row in found.evaluations:
        assert row["status"] == "ok"
        assert set(row["figures"]["robust_loss"]) == {"0", *strengths, "estimated"}
        assert row["figures"]["robust_loss"]["estimated"] == ["0.09", "0.15", "0.21"]
    assert float(told[1]["noise_estimator_mse"]) > 0 and float(told[1]["loss_estimator_mse"]) > 0
    assert told[2]["tau_unseen"], "the second generation's new architectures are ranked before they are learned from"
    out = tmp_path / "out"
    assert export.main([f"run={found.folder}", "pick=best:robust_loss", "onnx=false", f"out={out}"]) == 0
    assert "the search recorded" not in capsys.readouterr().out


TYPED = {
    "basic": ("0.06,0.09,0.12,0.15,0.18,0.21", "3"),
    "plus": ("0.06,0.075,0.09,0.105,0.12,0.135,0.15,0.165,0.18,0.195,0.21", "3"),
    "naive-1": ("0.06", "None"),
    "naive-3": ("0.06,0.12,0.18", "None"),
    "naive-6": ("0.06,0.09,0.12,0.15,0.18,0.21", "None"),
    "naive-11": ("0.06,0.075,0.09,0.105,0.12,0.135,0.15,0.165,0.18,0.195,0.21", "None"),
}


@pytest.mark.parametrize("name", TYPED)
def test_strengths_of_wsr_by_name_and_typed(name: str) -> None:
    """Names keep the scale of the problem: digits bear twice the paper's strengths."""
    values, n_real = TYPED[name]
    named = load("wsr", "demo", {"objectives.0.strengths": name})
    typed = {"objectives.0.strengths.values": values, "objectives.0.strengths.n_real": n_real}
    assert named == load("wsr", "demo", typed)
    strengths = named.objectives[0].strengths  # type: ignore[attr-defined]
    assert strengths == STRENGTHS[name].scaled(2)
    counts = {
        "basic": (3, 3),
        "plus": (3, 8),
        "naive-1": (1, 0),
        "naive-3": (3, 0),
        "naive-6": (6, 0),
        "naive-11": (11, 0),
    }
    assert (len(strengths.real), len(strengths.estimated)) == counts[name]
    assert load("wsr", "paper", {"objectives.0.strengths": name}).objectives[0].strengths == STRENGTHS[name]  # type: ignore[attr-defined]


def test_strengths_that_wsr_cannot_have_are_named() -> None:
    for given, message in (
        ({"": "pluss"}, r"objectives.0.strengths=pluss: unknown strengths \(.*\): did you mean 'plus'\?"),
        ({"": "0.06,0.09"}, r"unknown strengths \(numbers go to objectives.0.strengths.values=0.03,0.06\)"),
        ({".values": "0.2,0.1"}, "expected distinct strengths.values in ascending order, got 0.1 after 0.2"),
        ({".values": "0.06"}, "expected strengths.n_real .* from 1 to 1, got 3"),
        ({".values": "15,20,30"}, r"expected strengths.values in \(0, 1\] .*, got 15"),
    ):
        with pytest.raises(UserError, match=message):
            load("wsr", "demo", {f"objectives.0.strengths{key}": text for key, text in given.items()})
    more = {"objectives.0.strengths": "plus", "objectives.0.strengths.n_real": "2"}
    assert load("wsr", "demo", more).objectives[0].strengths.n1 == 2  # type: ignore[attr-defined]


def test_wsr_shared_searches_with_one_set_of_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {key: value for key, value in CO_TRAINED.items() if key not in ("evaluator.warmup", "evaluator.epochs")}
    small |= {key: CHEAP[key] for key in CHEAP if key.endswith("recipe")}
    small |= {"objectives.0.attack.steps": "1", "objectives.0.limit": "60"}
    kept, told = {}, {}
    for name, more in {
        "random": ["algorithm=RandomSearch"],
        "genetic": ["algorithm.share=0"],
        "gradient": ["algorithm.share=1", "algorithm.gradient.losses.passes=5"],
    }.items():
        given = [f"{key}={value}" for key, value in small.items()]
        arguments = ["problem=wsr", "scale=shared", f"out={tmp_path / name}", "device=cpu", "workers=1", "plot=false"]
        assert run.main([*arguments, *given, *more]) == 0
        rows = load_run(tmp_path / name).evaluations
        assert len(rows) == 8 and len({row["architecture"] for row in rows}) == 8
        kept[name] = {row["fingerprint"] for row in rows}
        capsys.readouterr()
        assert export.main([f"run={tmp_path / name}", "pick=derived", "weights=false"]) == 2 * (name != "gradient")
        told[name] = " ".join(capsys.readouterr().err.split())
    assert kept["random"] == kept["genetic"] == kept["gradient"], "their figures compare"
    assert "moves a distribution (GradientHybrid), got RandomSearch" in told["random"]
    assert "with algorithm.share=0 nothing is drawn from the distribution" in told["genetic"]
