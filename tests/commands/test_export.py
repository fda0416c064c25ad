"""Genotype files, model cards that need torch alone, ONNX, and the export command on real runs."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import chz
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_robust import export
from evo_robust.adversarial_set.making import AdversarialSet
from evo_robust.algorithms.random import RandomSearch
from evo_robust.attacks.base import Threat
from evo_robust.data.sets import Digits
from evo_robust.evaluators.from_scratch import FromScratch
from evo_robust.files import read_tensors
from evo_robust.inference.predictions import clean_error
from evo_robust.networks.genotype import Genotype, load_genotype, save_genotype
from evo_robust.networks.model_card import probe
from evo_robust.networks.standalone import standalone_source
from evo_robust.objectives.combined import WeightedSum
from evo_robust.objectives.cost import Flops, Params
from evo_robust.objectives.errors import CleanError
from evo_robust.objectives.transfer import TransferError
from evo_robust.parts.base import UserError, dotted
from evo_robust.problem.value import Problem
from evo_robust.record.reading import Run
from evo_robust.search import search
from evo_robust.spaces import NSGAPhases
from evo_robust.spaces.ops import Normalize, fit_normalization

SPACE = NSGAPhases(phases=2, nodes=4, channels=6, dense_channels=8)


def genotype(seed: int = 0, space: NSGAPhases = SPACE) -> Genotype:
    return Genotype(
        space=space,
        architecture=space.decode(space.sample(np.random.default_rng(seed))),
        data="digits",
        n_classes=10,
        in_shape=(1, 8, 8),
        objectives={"clean_error": 0.125, "flops": 123456.0},
        units={"flops": "MACs"},
        figures={"params": 4321, "robust_error": {"eps": [0.03, 0.1]}},
        provenance={"problem": "roco", "run": 'a "quoted\\" run """', "evaluation": 7, "versions": {"torch": "2.6"}},
    )


def weights(g: Genotype) -> torch.nn.Module:
    """The genotype's network as after training: normalisation fitted, running statistics of its own."""
    torch.manual_seed(0)
    model = g.build()
    images = Digits().load().train
    fit_normalization(model, images.x)
    with torch.no_grad():
        model.train()(images.floats(slice(64)))
    return model.eval()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), nodes=st.integers(2, 6), decoder=st.sampled_from(["residual", "dense"]))
def test_a_genotype_file_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, seed: int, nodes: int, decoder: str
) -> None:
    path = tmp_path_factory.mktemp("genotype") / "genotype.json"
    original = genotype(seed, NSGAPhases(phases=3, nodes=nodes, channels=5, decoder=decoder))
    save_genotype(original, path)
    assert load_genotype(path) == load_genotype(path.parent) == original


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 7}, ["schema 7", "expected 1"]),
        ({"space": {"class": "NSGAPhase"}}, ["NSGAPhase'", "did you mean 'NSGAPhases'"]),
        ({"space": {"class": "NSGAPhases", "phase": 2}}, ["'phase'", "Did you mean 'phases'"]),
        ({"space": {"class": "NSGAPhases", "phases": 0}}, ["expected phases in 1..10, got 0"]),
        ({"space": 3}, ["expected a space such as"]),
        ({"architecture": "[1][01]"}, ["'[1][01]' cannot be read", "expected 2 phases"]),
        ({"architecture": 5}, ["expected the architecture's notation as text, got 5"]),
        ({"data": {"name": "digits"}}, ["expected data such as"]),
        ({"objectives": [1]}, ["expected an object under 'objectives'"]),
    ],
)
def test_a_wrong_genotype_file_is_one_clear_message(tmp_path: Path, change: dict[str, object], said: list[str]) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**genotype().to_json(), **change}))
    with pytest.raises(UserError) as caught:
        load_genotype(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    assert all(text in message for text in said), message


def test_no_genotype_file_names_the_nearest_right_thing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="evo_robust.export run=DIR writes one"):
        load_genotype(tmp_path / "genotype.json")
    save_genotype(genotype(), tmp_path / "genotype.json")
    with pytest.raises(UserError, match="did you mean .*genotype.json"):
        load_genotype(tmp_path / "genotyp.json")
    (tmp_path / "problem.json").write_text('{"schema": 1}')
    with pytest.raises(UserError, match=r"is no genotype file: it has no .*did you mean .*genotype\.json"):
        load_genotype(tmp_path / "problem.json")
    (tmp_path / "problem.json").write_text('{"schema"')
    with pytest.raises(UserError, match="is not JSON"):
        load_genotype(tmp_path / "problem.json")


def test_source_with_other_dependencies_is_refused_and_what_is_not_needed_is_left_out() -> None:
    with pytest.raises(ValueError, match="'chz'"):
        standalone_source(Threat)
    imports, text = standalone_source(Normalize)
    assert "class Normalize" in text and "def fit_normalization" not in text
    assert imports == ["from torch import Tensor", "from torch import nn", "import torch"]


STRANGER = """
import importlib.util, runpy, sys
for name in ("evo_robust", "safetensors", "chz", "pymoo", "torchvision"):
    sys.modules[name] = None  # importing any of these raises
import torch
spec = importlib.util.spec_from_file_location("model", sys.argv[1])
model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(model)
with torch.no_grad():
    torch.save(model.load()(torch.load(sys.argv[2], weights_only=True)), sys.argv[3])
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def strangers_logits(card: Path, x: torch.Tensor) -> tuple[torch.Tensor, str]:
    """Logits that a process without this package gets from a model card, and what the card says when it is run."""
    images, logits = card.with_name("images.pt"), card.with_name("logits.pt")
    torch.save(x, images)
    arguments = [str(p) for p in (card, images, logits)]
    command = [sys.executable, "-I", "-c", STRANGER, *arguments]
    said = subprocess.run(command, check=True, cwd=card.parent, stdout=subprocess.PIPE, text=True).stdout
    result = torch.load(logits, weights_only=True)
    images.unlink(), logits.unlink()
    return result, said


@pytest.mark.parametrize("decoder", ["residual", "dense"])
def test_the_model_card_rebuilds_the_network_with_torch_alone(tmp_path: Path, decoder: str) -> None:
    g = genotype(3, NSGAPhases(phases=2, nodes=4, channels=6, dense_channels=8, decoder=decoder))
    model, folder = weights(g), tmp_path / "out"
    export.write(export.Exported(g, folder, model, ("trained by hand: 5 epochs",)), onnx=False)
    x = Digits().load().test.floats()
    with torch.no_grad():
        logits, told = strangers_logits(folder / "model.py", x.contiguous())
        assert torch.equal(logits, model(x.contiguous()))
    assert "logits as at export" in told
    text = (folder / "model.py").read_text()
    for said in (
        g.text,
        "trained by hand: 5 epochs",
        "clean_error  0.125",
        "123,456 MACs",
        "pixel values in [0, 1]",
        "0.3",
    ):
        assert said in text


def test_onnx_gives_the_same_logits_for_any_number_of_images(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    g = genotype(1)
    model = weights(g)
    names = export.write(export.Exported(g, tmp_path / "out", model), onnx=True)
    assert names == ["genotype.json", "model.onnx", "model.py", "model.safetensors"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    x = Digits().load().test.floats().contiguous()
    for n in (1, 7, len(x)):
        (logits,) = session.run(["logits"], {"images": x[:n].numpy()})
        with torch.no_grad():
            assert np.abs(logits - model(x[:n]).numpy()).max() < 1e-4


def test_asking_for_onnx_without_its_packages_says_what_to_install(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else find(name, *a))
    out = tmp_path / "out"
    assert export.main([f"run={run.folder}", "onnx=true", f"out={out}"]) == 2
    assert "pip install 'evo_robust[export]'" in capsys.readouterr().err
    assert export.main([f"run={run.folder}", f"out={out}"]) == 0
    assert "ONNX was left out" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["genotype.json", "model.py", "model.safetensors"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small search on real digits."""
    problem = Problem(
        space=SPACE,
        data=Digits(train_limit=400),
        objectives=(CleanError(), Flops()),
        recorded=(Params(label="weights"),),
        evaluator=FromScratch(epochs=2),
        algorithm=RandomSearch(pop_size=4, n_gen=1),
    )
    return search(problem, tmp_path_factory.mktemp("search") / "run", device="cpu", workers=1, info={"problem": "mine"})


def test_exported_weights_are_those_of_the_search(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([f"run={run.folder}", "pick=knee,best:flops,0", "onnx=false"]) == 0
    said = capsys.readouterr().out
    assert "the search recorded" not in said  # the figures of weights trained again are those of the ledger
    lines = [line for line in said.splitlines() if line.startswith("next:")]
    assert len(lines) == 3 and all(line.endswith(" recipe=standard decoder=search epochs=24") for line in lines)
    for label in ("knee", "best-flops", "front-0"):
        folder = run.folder / "export" / label
        g = load_genotype(folder)
        row = next(r for r in run.evaluations if r["id"] == g.provenance["evaluation"])
        assert g.text == row["architecture"] and g.objectives == row["objectives"]
        assert g.provenance["problem"] == "mine" and g.provenance["pick"].replace(":", "-") == label.replace(
            "front-", ""
        )
        model = g.build()
        model.load_state_dict(read_tensors(folder / "model.safetensors")[0])
        assert clean_error(model.eval(), run.problem.data.load().val) == row["objectives"]["clean_error"]
    cheapest = min(row["objectives"]["flops"] for row in run.front)
    assert load_genotype(run.folder / "export" / "best-flops").objectives["flops"] == cheapest


def test_what_was_recorded_beside_the_objectives_is_in_genotype_and_model_card(run: Run, tmp_path: Path) -> None:
    row = run.front[0]
    g = export.genotype_of(run, row)
    assert g.figures == {**row["figures"], "recorded": row["recorded"]} and row["recorded"]["weights"] > 0
    export.write(export.Exported(g, tmp_path / "out", weights(g)), onnx=False)
    assert load_genotype(tmp_path / "out") == g
    assert "recorded.weights" in (tmp_path / "out" / "model.py").read_text()


@pytest.mark.parametrize("place", ["objectives", "recorded", "summed"])
def test_the_adversarial_set_is_found_wherever_the_search_used_it(run: Run, place: str) -> None:
    used = TransferError(adversarial_set=AdversarialSet(sources=7))
    changes = {
        "objectives": {"objectives": (CleanError(), used)},
        "recorded": {"recorded": (used,)},
        "summed": {"objectives": (WeightedSum(of=(CleanError(), used)), Flops())},
    }
    searched = dataclasses.replace(run, problem=chz.replace(run.problem, **changes[place]))
    g = export.genotype_of(searched, run.front[0])
    assert g.provenance["adversarial_set"] == dotted(used.adversarial_set)
    assert "adversarial_set" not in export.genotype_of(run, run.front[0]).provenance


@pytest.mark.parametrize(
    ("inside", "pick", "said"),
    [("file", "knee", "got a file"), ("file/deep", "0", "cannot be made"), ("file", "knee,0", "cannot be made")],
)
def test_an_out_that_cannot_be_a_folder_is_one_message(
    run: Run, tmp_path: Path, inside: str, pick: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert export.main([f"run={run.folder}", f"out={tmp_path / inside}", f"pick={pick}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: out=") and said in error and error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_without_weights_a_genotype_alone_is_written_and_an_export_may_be_replaced(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    for pick in ("knee", "best:clean_error"):
        assert export.main([f"run={run.folder}", f"pick={pick}", "weights=false", f"out={out}"]) == 0
        assert [p.name for p in out.iterdir()] == ["genotype.json"]
    assert load_genotype(out).provenance["pick"] == "best:clean_error"
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pick=knees"], "pick=knee"),
        (["pick=best:flop"], "did you mean 'flops'"),
        (["pick=99"], "the front has"),
        (["pick=knee,knee"], "expected different picks"),
        (["picks=knee"], "unknown key 'picks'"),
        (["weights=false", "onnx=true"], "expected weights=true"),
        (["device=tpu"], "expected auto, cpu, cuda"),
        (["device=tpu", "weights=false"], "expected auto, cpu, cuda"),
    ],
)
def test_bad_input_is_one_message_and_nothing_is_written(
    run: Run, tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert export.main([f"run={run.folder}", f"out={out}", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_other_folders_are_left_alone(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([f"run={tmp_path}"]) == 2
    assert "is no run folder" in capsys.readouterr().err
    (tmp_path / "thesis.tex").write_text("mine")
    assert export.main([f"run={run.folder}", f"out={tmp_path}", "weights=false"]) == 2
    assert "thesis.tex" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_failing_export_leaves_the_earlier_one_and_nothing_half_written(tmp_path: Path) -> None:
    g, out = genotype(), tmp_path / "out"
    export.write(export.Exported(g, out), onnx=False)
    with pytest.raises(RuntimeError):  # weights of a network that the genotype does not describe
        export.write(export.Exported(g, out, torch.nn.Linear(3, 3)), onnx=False)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in out.iterdir()] == ["genotype.json"]


def test_the_probe_lies_in_the_unit_interval_and_its_images_differ() -> None:
    x = probe((3, 32, 32))
    assert x.shape == (2, 3, 32, 32) and x.min() == 0 and x.max() <= 1
    assert not torch.equal(x[0], x[1])
