"""Parts of a stranger go the whole way: search, pictures, export, training, study; from the wheel, not the checkout."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from places import ROOT

MINE = '''"""A problem in which everything that matters is a stranger's."""

import chz
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from evo_robust import *


# the space begins
class Chain(nn.Sequential):
    def __init__(self, channels, widths, kernel, n_classes):
        layers = []
        for width in widths:
            layers += [nn.Conv2d(channels, width, kernel, padding=kernel // 2), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, n_classes))

@chz.chz
class Chains(GenomeSpace):
    """Chains of convolutions: a width for each, one kernel for all."""
    layers: int = chz.field(default=3, doc="convolutions in a row")
    @property
    def n_choices(self):
        return (*[4] * self.layers, 2)
    def network_arguments(self, genes, n_classes, in_shape):
        widths = [4 + 4 * gene for gene in genes[:-1]]
        return {"channels": in_shape[0], "widths": widths, "kernel": 1 + 2 * genes[-1], "n_classes": n_classes}
    def build(self, genes, n_classes, in_shape):
        return Chain(**self.network_arguments(genes, n_classes, in_shape))
# the space ends


# the attack begins
@chz.chz
class Corners(Attack):
    """Random corners of the ball."""
    tries: int = chz.field(default=4, doc="corners that are tried")
    @torch.no_grad()
    def perturb(self, model, x, y, threat, generator):
        found = x.clone()
        for _ in range(self.tries):
            signs = 2 * torch.randint(0, 2, x.shape, generator=generator, device=x.device) - 1
            tried = (x + threat.eps * signs).clamp(0, 1)
            fooled = model(tried).argmax(1) != y
            found[fooled] = tried[fooled]
        return found
# the attack ends


@chz.chz
class NoisyTraining(Recipe):
    """Cross-entropy on images in random corners of the ball."""

    attack: Attack = chz.field(default_factory=Corners, doc="what moves images")
    eps: float = chz.field(default=0.05, doc="radius in L∞, in units of the pixel range")

    def loss(self, model, x, y, generator):
        logits = model(self.attack.perturb(model, x, y, Threat(eps=self.eps), generator))
        return F.cross_entropy(logits, y), logits


@chz.chz
class Bars(DataSet):
    """Noisy bars, three kinds of them."""

    n_classes = 3
    in_shape = (1, 8, 8)
    default_augment = Augment(crop_padding=0, flip=False)

    def _read(self, root):
        return self._drawn(360, 0), self._drawn(90, 1)

    def _drawn(self, n, seed):
        x, y = np.random.default_rng(seed).integers(0, 120, (n, *self.in_shape)), np.arange(n) % 3
        x[y == 0, :, ::2] += 90
        x[y == 1, :, :, ::2] += 90
        return Images(torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(y.astype(np.int64)))


demo = Problem(
    space=Chains(),
    data=Bars(),
    objectives=(CleanError(), RobustError(attack=Corners(), eps=(0.1, 0.2)), Params()),
    evaluator=FromScratch(epochs=1, recipe=NoisyTraining(lr=0.1, batch_size=32)),
    algorithm=NSGA2(pop_size=12, n_gen=3),
)
'''

# one import of torch, and a copy of that process for each group of commands: what one of them reads of the parts, the
# next one does not know
DRIVER = """
import json, os, pathlib, sys
import evo_robust
from evo_robust.__main__ import main

print(f"evo_robust lies in {pathlib.Path(evo_robust.__file__).resolve()}", evo_robust.__version__, flush=True)
for commands in json.loads(sys.argv[1]):
    if not os.fork():
        for command in commands:
            if status := main(command.split()):
                print(f"{command}: exit status {status}")
                break
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if os.wait()[1]:
        sys.exit("a command failed")
"""

SEARCHED = (
    "run problem=mine out=runs/mine device=cpu workers=1 plot=false",
    "plot run=runs/mine out=pictures",
    "list",
    "export run=runs/mine pick=knee",
)
TRAINED = (
    "retrain genotype=runs/mine/export/knee recipe=NoisyTraining recipe.lr=0.1 recipe.batch_size=32"
    " attack=Corners attack.tries=6 eps=0.1,0.2 epochs=4 device=cpu out=runs/trained",
    "export run=runs/trained",
    "analyze run=runs/mine objective=robust_error out=study",
)


# networks here are tiny: a second thread costs more than it brings
THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def _child(folder: Path, site: Path, *arguments: str) -> str:
    """What a Python process in a folder prints, to which the wheel's files alone are evo_robust."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **THREADS, "PYTHONPATH": str(site), "EVO_ROBUST_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{arguments[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the built wheel holds."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def workplace(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the stranger works, and the whole way went."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "problems").mkdir()
    (folder / "problems/mine.py").write_text(MINE, encoding="utf-8")
    printed = _child(folder, site, "-c", DRIVER, json.dumps((SEARCHED, TRAINED)))
    assert printed.startswith(f"evo_robust lies in {site.resolve()}{os.sep}"), printed.splitlines()[0]
    (folder / "printed.txt").write_text(printed, encoding="utf-8")
    return folder


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", ["space", "attack"])
def test_the_strangers_parts_are_small(part: str) -> None:
    found = re.search(rf"# the {part} begins\n(.*?)# the {part} ends\n", MINE, flags=re.S)
    assert found and len([line for line in found[1].splitlines() if line.strip()]) <= 20


def test_a_search_of_a_strangers_parts_is_recorded_and_drawn(workplace: Path) -> None:
    info = _read(workplace / "runs/mine/problem.json")
    assert info["source"] == str((workplace / "problems/mine.py").resolve())
    parts = {"space": "Chains", "data": "Bars", "objectives.1.attack": "Corners", "evaluator.recipe": "NoisyTraining"}
    assert parts.items() <= info["values"].items()
    rows = [json.loads(line) for line in (workplace / "runs/mine/evaluations.jsonl").read_text().splitlines()]
    assert len(rows) == 36 and all(row["status"] == "ok" for row in rows)
    assert min(row["objectives"]["clean_error"] for row in rows) < 0.5  # a guess is wrong in two of three
    assert {"front.png", "networks.png", "size.png"} <= {path.name for path in (workplace / "pictures").iterdir()}
    listed = (workplace / "printed.txt").read_text(encoding="utf-8")
    assert "Chains of convolutions: a width for each, one kernel for all." in " ".join(listed.split())


EXPORTS = ["runs/mine/export/knee", "runs/trained/export"]


@pytest.mark.parametrize("export", EXPORTS)
def test_what_was_taken_out_stands_alone(workplace: Path, export: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = workplace / export
    assert _read(folder / "genotype.json")["source"] == str((workplace / "problems/mine.py").resolve())
    text = (folder / "model.py").read_text(encoding="utf-8")
    assert "class Chain(nn.Sequential)" in text and not re.search(r"^(import|from) evo_robust", text, flags=re.M)
    network = runpy.run_path(str(folder / "model.py"))["load"]()
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), network(images), rtol=1e-4, atol=1e-5)


def test_model_py_runs_where_evo_robust_is_not(workplace: Path, tmp_path: Path) -> None:
    """A process without the site packages of evo_robust: an empty package of that name would be found first."""
    (tmp_path / "evo_robust.py").write_text("raise ImportError('model.py needs torch alone')\n")
    for export in EXPORTS:
        printed = _child(workplace / export, tmp_path, "model.py")
        assert re.search(r"parameters; logits as at export to within [\d.]+e-\d+", printed)


def test_training_takes_the_strangers_recipe_attack_and_data(workplace: Path) -> None:
    result = _read(workplace / "runs/trained/result.json")
    told = {"recipe": "NoisyTraining", "attack": "Corners", "data": "bars", "n_classes": 3, "n_test": 90, "epochs": 4}
    assert told.items() <= result.items()
    assert result["clean_error"] < 0.5 and result["error"] == sorted(result["error"])
    assert _read(workplace / "runs/trained/retrain.json")["values"]["attack.tries"] == 6


def test_the_study_reads_the_strangers_run(workplace: Path) -> None:
    assert (workplace / "study/separation.png").is_file()
    assert (workplace / "study/study.csv").read_text(encoding="utf-8").count("\n") == 37
