"""How far the moments of λ_F can be trusted: what they say of its 90% quantile against draws.

    python tests/benchmarks/bench_moments.py
    python tests/benchmarks/bench_moments.py --run runs/racl-demo     # the distributions of a search

A network of eight cells of four nodes, eight operations an edge. σ of every α and β is uniform in a range. ``drawn`` is
the quantile of 60,000 draws, ``sampled`` that of the 10,000 with which ``quantile=sampled`` holds a search.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from evo_robust.files import read_tensors
from evo_robust.lipschitz.chance_constraint import log_quantile
from evo_robust.lipschitz.linear import SpectralNorms
from evo_robust.lipschitz.moments import Cells, network_moments
from evo_robust.lipschitz.network import network_constants
from evo_robust.lipschitz.sampled import network_draws
from evo_robust.objectives.lipschitz import PARAMETERS
from evo_robust.record.reading import load_run

EDGES, OPERATIONS, CELLS = 14, 8, [0, 0, 1, 0, 0, 1, 0, 0]
RANGES = ((0.15, 0.45), (0.3, 0.9), (0.5, 1.5), (0.75, 2.25))
ETA = 0.9


class Told(NamedTuple):
    """What is said of ln λ_F: variance by moments and drawn, quantile by moments, drawn and by the search's draws."""

    var: float
    drawn_var: float
    quantile: float
    drawn: float
    sampled: float


def network(low: float, high: float) -> list[Tensor]:
    """µ and σ of α, of β, and the constants of eight cells."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    found = [draw(2, EDGES, OPERATIONS) * 2 - 3, low + (high - low) * draw(2, EDGES, OPERATIONS)]
    found += [draw(2, EDGES) - 1.5, low + (high - low) * draw(2, EDGES)]
    constants = 3 * draw(len(CELLS), EDGES, OPERATIONS)
    constants[..., 0] = 0
    return [*found, constants]


def told(low: float, high: float, cells: Cells, draws: int = 60_000) -> Told:
    """Moments against draws for one range of σ."""
    mu_alpha, sigma_alpha, mu_beta, sigma_beta, constants = given = network(low, high)
    mu, var = network_moments(
        mu_alpha, sigma_alpha**2, mu_beta, sigma_beta**2, constants, CELLS, cells=cells
    )  # fmt: skip
    many = network_draws(*given, CELLS, cells=cells, draws=draws)
    few = network_draws(*given, CELLS, cells=cells)
    quantile = log_quantile(mu, var, eta=ETA)
    figures = (var, many.logs.var(), quantile, many.quantile(ETA), few.quantile(ETA))
    return Told(*(figure.item() for figure in figures))


def of_run(folder: Path, draws: int = 60_000) -> None:
    """The distribution at the end of each generation of a search, with the constants of its last weights."""
    problem = load_run(folder).problem
    shape, last = problem.data.in_shape, sorted((folder / "co_training").glob("weights-*.safetensors"))[-1]
    network = problem.space.supernet(problem.data.n_classes, shape).eval()
    weights, _ = read_tensors(last)
    network.load_state_dict({name: t for name, t in weights.items() if not name.startswith("distribution.")})
    found = network_constants(network, shape, "layers", SpectralNorms(steps=20), everything=True)
    print("| generation | σ: mean | largest | 90% quantile: moments | drawn | deviation: moments | drawn |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for number, file in enumerate(sorted((folder / "co_training").glob("generation-*.safetensors")), 1):
        state, _ = read_tensors(file)
        given = [state[f"distribution.{name}"].double() for name in PARAMETERS]
        constants = found.of_operations(problem.space.mixture_operations, given[0].shape[1])
        described, log_c = problem.space.cell_descriptions(network), found.log_outside()
        mu, var = network_moments(
            given[0], given[1] ** 2, given[2], given[3] ** 2, constants, described, log_c=log_c
        )  # fmt: skip
        many = network_draws(*given, constants, described, log_c=log_c, draws=draws)
        sigmas = torch.cat([given[1].flatten(), given[3].flatten()])
        print(
            f"| {number} | {sigmas.mean():.3f} | {sigmas.max():.2f} | {log_quantile(mu, var, eta=ETA):.2f} "
            f"| {many.quantile(ETA):.2f} | {var.sqrt():.2f} | {many.logs.std():.2f} |"
        )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="run folder of a search with a LogNormal distribution")
    if folder := parser.parse_args().run:
        of_run(folder)
        return
    print("| cells | σ | variance: moments | drawn | 90% quantile: moments | drawn | sampled, 10,000 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for cells in get_args(Cells):
        for low, high in RANGES:
            t = told(low, high, cells)
            print(
                f"| {cells} | {low:g}–{high:g} | {t.var:.2f} | {t.drawn_var:.2f} | {t.quantile:.2f} | {t.drawn:.2f} "
                f"| {t.sampled:.2f} |"
            )
    given = [t.requires_grad_() for t in network(*RANGES[0])]
    started = time.process_time()
    for _ in range(5):
        torch.autograd.grad(network_draws(*given, CELLS).quantile(ETA), given[:4])
    print(f"\nvalue and gradient by 10,000 draws, seconds of one core: {(time.process_time() - started) / 5:.3f}")


if __name__ == "__main__":
    main()
