"""Architectures drawn from a distribution: in the exact order of their weights, and by a version that is named."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
import torch
from scipy import stats
from small import small_supernet
from torch import Tensor

from evo_robust import DARTS, CleanError, Digits, FromScratch, Params, Problem, RandomSearch, search
from evo_robust.algorithms.hybrid import GradientHybrid
from evo_robust.distributions import Distribution, GumbelSoftmax, LogNormal
from evo_robust.gradients import EstimatedLoss, SupernetLoss
from evo_robust.objectives.robust_loss import RobustLoss
from evo_robust.parts.base import UserError
from evo_robust.plot import draw_run
from evo_robust.spaces.darts.codec import OPERATIONS
from evo_robust.training.recipes import Standard

SPACE = DARTS(operations=tuple(name for name in OPERATIONS if name != "none"))
UNIFORM = GumbelSoftmax(temperature=0.1, init=0.0)
DATA = Digits(train_limit=300)


def exact(logs: Tensor) -> list[list[tuple[int, ...]]]:
    """The two best predecessors of every node of both cells: those whose best operation leaves least to the others."""
    shares = torch.softmax(logs.detach().double(), -1).numpy()
    found = []
    for cell in shares:
        rest = [float(np.delete(edge, edge.argmax()).sum()) for edge in cell]  # without the 1 that would swallow it
        nodes, first = [], 0
        for count in range(2, SPACE.nodes + 2):
            order = np.argsort(rest[first : first + count])
            nodes.append(tuple(sorted(order[:2].tolist())))
            first += count
        found.append(nodes)
    return found


def inputs(architecture: Any) -> list[list[tuple[int, ...]]]:
    return [
        [tuple(source for _, source in pairs) for pairs in cell]
        for cell in (architecture.normal, architecture.reduction)
    ]


def p_of_equal_pairs(strengths: Tensor) -> float:
    """Whether all pairs of predecessors come equally often, given edges' strengths ``(n, edges)``: p of χ²."""
    chi, freedom, first = 0.0, 0, 0
    for count in range(2, SPACE.nodes + 2):
        # of equal ones the first wins, as in ``derive``
        best = torch.argsort(-strengths[:, first : first + count], stable=True, dim=1)[:, :2].sort(1).values
        first, pairs = first + count, math.comb(count, 2)
        seen = torch.unique(best, dim=0, return_counts=True)[1].numpy()
        assert len(seen) == pairs
        chi += float(((seen - len(best) / pairs) ** 2).sum() / (len(best) / pairs))
        freedom += pairs - 1
    return float(stats.chi2.sf(chi, freedom))


def test_draws_follow_the_exact_order() -> None:
    sampler = UNIFORM.start(SPACE, seed=0)
    state = sampler.generator.get_state()
    drawn = [inputs(sampler.draw()) for _ in range(400)]
    sampler.generator.set_state(state)
    logs = [sampler.sample_logs().detach() for _ in drawn]
    assert drawn == [exact(own) for own in logs]
    # float32 weights lose the order: a tenth of the same samples would be another architecture
    coarse = [inputs(SPACE.derive(sampler.weigh(own).numpy())) for own in logs]
    assert 0.05 < np.mean([one != other for one, other in zip(drawn, coarse, strict=True)]) < 0.2


@pytest.mark.parametrize("seed", range(3))
def test_no_predecessor_is_favoured(seed: int) -> None:
    sampler = UNIFORM.start(SPACE, seed)
    logs = torch.stack([sampler.sample_logs().detach() for _ in range(6000)])
    assert p_of_equal_pairs(sampler.ranks(logs.double()).amax(-1).flatten(0, 1)) > 0.01
    assert p_of_equal_pairs(sampler.weigh(logs).amax(-1).flatten(0, 1)) < 1e-6, "ties go to the first predecessor"


def test_operations_come_equally_often() -> None:
    sampler = UNIFORM.start(SPACE, seed=1)
    drawn = [sampler.draw() for _ in range(600)]
    counts = Counter(name for a in drawn for cell in (a.normal, a.reduction) for pairs in cell for name, _ in pairs)  # type: ignore[attr-defined]
    assert stats.chisquare([counts[name] for name in SPACE.operations]).pvalue > 0.01


@pytest.mark.parametrize("distribution", [GumbelSoftmax(), LogNormal()])
def test_weights_beyond_a_float_are_ranked_all_the_same(distribution: Distribution) -> None:
    """All but one edge's weights are 0, or 1, in float32."""
    space = DARTS(nodes=2)
    sampler = distribution.start(space, seed=0)
    logs = torch.zeros(2, 5, 8)
    logs[..., 0] = 200.0 if isinstance(distribution, GumbelSoftmax) else 0.0  # none, which no architecture has
    logs[..., 1:] = -150.0 + torch.arange(7) + 10.0 * torch.arange(5)[:, None]
    if isinstance(distribution, GumbelSoftmax):
        assert bool((sampler.weigh(logs)[..., 1:] == 0).all())
    architecture: Any = sampler.derive(logs)
    assert architecture.normal == (
        (("dil_conv_5x5", 0), ("dil_conv_5x5", 1)),
        (("dil_conv_5x5", 1), ("dil_conv_5x5", 2)),
    )


def test_the_mode_of_a_settled_distribution_follows_its_logits() -> None:
    sampler = UNIFORM.start(SPACE, seed=0)
    with torch.no_grad():
        sampler.parameters["A"][..., 2] = 30.0 + torch.arange(14.0)
    assert bool((sampler.center()[..., 2] == 1).all())
    assert inputs(sampler.mode()) == [[(0, 1), (1, 2), (2, 3), (3, 4)]] * 2


def test_what_is_predicted_is_of_the_architecture_that_would_be_drawn() -> None:
    sampler = UNIFORM.start(SPACE, seed=0)
    learner = EstimatedLoss().start(sampler, 0, (RobustLoss(),), (1, 8, 8))
    given: list[Tensor] = []
    learner.losses.estimator.register_forward_pre_hook(lambda _, args: given.append(args[0].detach()))
    for _ in range(60):
        state = sampler.generator.get_state()
        learner._predicted()
        sampler.generator.set_state(state)
        rows = SPACE.weights_of(sampler.draw()).any(-1).reshape(-1)
        assert given[-1].any(-1).tolist() == rows.tolist()


# --- what a reader is told


def test_figures_say_how_far_draws_are_from_uniform() -> None:
    sampler = UNIFORM.start(SPACE, seed=0)
    told = sampler.figures()
    assert told == pytest.approx({"entropy": math.log(7), "largest": 1 / 7, "from_uniform": 0.0}, abs=1e-6)
    with torch.no_grad():
        sampler.parameters["A"][..., 3] = math.log(6.0)  # as likely as the six others together
    told = sampler.figures()
    assert told["largest"] == pytest.approx(0.5) and told["from_uniform"] == pytest.approx(0.5 - 1 / 7)
    chosen = [int(sampler.sample_logs()[0, 0].argmax()) for _ in range(2000)]
    shares = np.bincount(chosen, minlength=7) / 2000
    assert np.abs(shares - 1 / 7).sum() / 2 == pytest.approx(told["from_uniform"], abs=0.03)


def problem(distribution: Distribution, **fields: Any) -> Problem:
    gradient = SupernetLoss(lr=0.05, batch_size=50) if isinstance(distribution, LogNormal) else EstimatedLoss(lr=0.05)
    weights = (
        small_supernet(4, warmup=1)
        if isinstance(distribution, LogNormal)
        else FromScratch(epochs=1, recipe=Standard(lr=0.1, batch_size=50))
    )
    objectives = (CleanError(), Params()) if isinstance(distribution, LogNormal) else (RobustLoss(limit=40), Params())
    algorithm = GradientHybrid(pop_size=4, n_gen=1, distribution=distribution, gradient=gradient)
    given = {"evaluator": weights, "algorithm": algorithm, **fields}
    space = DARTS(channels=4, layers=2, nodes=2)
    return Problem(space=space, data=DATA, objectives=objectives, **given)


def aged(folder: Path) -> None:
    """The run as an earlier version of this package left it, which named no version of its draws."""
    path = folder / "problem.json"
    info = json.loads(path.read_text())
    del info["draws"]
    path.write_text(json.dumps(info))


def test_a_search_that_drew_otherwise_is_read_and_not_continued(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    search(problem(GumbelSoftmax()), folder, workers=1)
    assert json.loads((folder / "problem.json").read_text())["draws"] == {"GumbelSoftmax": 2}
    with (folder / "distribution.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["entropy"]) == pytest.approx(math.log(8), abs=1e-4) and float(row["from_uniform"]) < 1e-2
    longer = problem(GumbelSoftmax(), algorithm=chz.replace(problem(GumbelSoftmax()).algorithm, n_gen=2))
    aged(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(UserError, match="with version 1 of GumbelSoftmax. This is version 2"):
        search(longer, folder, workers=1)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert draw_run(folder)


@pytest.mark.parametrize("kind", ["LogNormal", "RandomSearch"])
def test_searches_that_draw_as_before_go_on(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    short = problem(LogNormal())
    if kind == "RandomSearch":
        short = problem(GumbelSoftmax(), algorithm=RandomSearch(pop_size=4, n_gen=1))
    search(short, folder, workers=1)
    aged(folder)
    longer = chz.replace(short, algorithm=chz.replace(short.algorithm, n_gen=2))
    assert len(search(longer, folder, workers=1).evaluations) > 4


def test_a_figure_that_came_later_stands_in_its_own_column(tmp_path: Path) -> None:
    """Generations that an earlier version trained know fewer figures."""
    from evo_robust.files import read_tensors, write_tensors

    folder, short = tmp_path / "run", problem(LogNormal())
    search(short, folder, workers=1)
    file = folder / "co_training" / "generation-0001.safetensors"
    state, info = read_tensors(file)
    del info["figures"]["entropy"]
    write_tensors(file, dict(state), info)
    search(chz.replace(short, algorithm=chz.replace(short.algorithm, n_gen=2)), folder, workers=1)
    with (folder / "co_training.csv").open() as table:
        told = list(csv.DictReader(table))
    assert told[0]["entropy"] == "" and float(told[0]["largest"]) < 1
    assert 0 < float(told[1]["entropy"]) < math.log(8) + 1e-6
