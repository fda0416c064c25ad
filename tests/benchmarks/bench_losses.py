"""Does Wsr-NAS's loss estimator rank architectures that it has not seen? Over the generations of recorded searches.

``python tests/benchmarks/bench_losses.py [RUN …] [--passes 200] [--threads 1] [--out DIR]``

Each run is gone through once more, generation by generation: the estimator predicts the losses of architectures that
are new, then it learns from all that were measured in that generation, as in a search. Kendall's τ between predicted
and measured loss (eq. 10), and of the number of parameters beside it, which costs nothing. Runs need the objective
``robust_loss``; with ``algorithm=RandomSearch`` the new architectures are drawn from the whole space, in other
searches from where the search is. Without runs it makes one: ``problem=wsr scale=shared algorithm=RandomSearch``, kept
in the cache folder (about ten minutes of a core).

Exit status 1 when the mean τ of the last third of the generations is not more than two of its standard errors above 0.
Whether the number of parameters ranks better there is said beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evo_robust import load, search
from evo_robust.correlations import kendall
from evo_robust.estimators import LossLearner, LossTraining
from evo_robust.files import cache_folder, write_csv
from evo_robust.objectives.robust_loss import RobustLoss
from evo_robust.record.reading import Run, load_run
from evo_robust.style import INK, RUNS, note, picture

FEWEST = 4
"""New architectures that a generation must have to be ranked."""


def searched() -> Path:
    """A random search of the problem's ``shared`` scale, in the cache folder; goes on where it was interrupted."""
    folder = cache_folder() / "benchmarks" / "losses-random"
    problem = load("wsr", "shared", {"algorithm": "RandomSearch"})
    return search(problem, folder, workers=1, device="cpu").folder


def objective_of(run: Run) -> RobustLoss:
    """The loss that the run measured."""
    found = next((o for o in run.problem.objectives if isinstance(o, RobustLoss)), None)
    if found is None:
        raise SystemExit(f"{run.folder}: expected the objective robust_loss, got {', '.join(run.objectives)}")
    return found


def encoded(run: Run, row: dict[str, Any]) -> Tensor:
    """The architecture as the estimator reads it, ``(rows, operations)``."""
    space = run.problem.space
    return torch.as_tensor(space.weights_of(space.from_text(row["architecture"])), dtype=torch.float32).flatten(0, 1)


def replayed(run: Run, passes: int) -> list[tuple[int, int, float, float]]:
    """Of each generation: its number, architectures learned from before, τ of the estimator, τ of the parameters."""
    objective = objective_of(run)
    generations: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in run.ok():
        generations[row["generation"]].append(row)
    learner: LossLearner | None = None
    seen: set[str] = set()
    found = []
    for generation, rows in sorted(generations.items()):
        encodings = torch.stack([encoded(run, row) for row in rows])
        losses = torch.tensor([[row["figures"]["robust_loss"][key] for key in objective.keys] for row in rows])
        new = torch.tensor([row["architecture"] not in seen for row in rows])
        if learner is None:
            training = LossTraining(passes=passes)
            learner = LossLearner(encodings.shape[2], losses.shape[1], training, seed=run.problem.seed)
        elif int(new.sum()) >= FEWEST:
            truth = objective.loss.of(losses[new]).numpy()
            with torch.no_grad():
                predicted = objective.loss.of(learner.estimator.eval()(encodings[new])).numpy()
            size = np.array([row["figures"]["params"] for row in rows], dtype=float)[new.numpy()]
            found.append((generation, len(seen), kendall(predicted, truth).tau, kendall(-size, truth).tau))
        for encoding, loss in zip(encodings, losses, strict=True):
            learner.push(encoding, loss)
        learner.learn()
        seen |= {row["architecture"] for row in rows}
    return found


def draw(path: Path, table: dict[int, np.ndarray], learned: dict[int, float], n_runs: int) -> None:
    """τ over generations: every run a dot, means as lines."""
    with picture(path, width=8, height=4.6) as figure:
        axes = figure.add_subplot()
        generations = sorted(table)
        x = [learned[g] for g in generations]
        for column, (label, colour) in enumerate((("loss estimator", RUNS[0]), ("number of parameters", RUNS[1]))):
            values = [table[g][:, column] for g in generations]
            for place, some in zip(x, values, strict=True):
                axes.scatter([place] * len(some), some, s=14, color=colour, alpha=0.35, lw=0)
            axes.plot(x, [np.nanmean(some) for some in values], color=colour, lw=2.2, label=f"{label}, mean of runs")
        axes.axhline(0, color=INK, lw=0.8)
        axes.set_ylim(-1.05, 1.05)
        axes.set_xlabel("architectures that the estimator has learned from (mean of runs)")
        axes.set_ylabel("Kendall's τ with the measured loss")
        axes.legend(loc="lower right")
        axes.set_title("How well are losses of unseen architectures ranked?", fontsize=12)
        note(figure, f"{n_runs} searches; a dot is a generation's new architectures; 1: same order, 0: chance.")


def main() -> int:
    """Replay, tell, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders")
    parser.add_argument("--passes", type=int, default=200, help="passes over the memory per generation (default 200)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--out", type=Path, default=None, help="folder for losses.csv and losses.png")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: dict[int, list[tuple[int, float, float]]] = defaultdict(list)
    for folder in args.runs or [searched()]:
        for generation, seen, own, size in replayed(load_run(folder), args.passes):
            rows[generation].append((seen, own, size))
    if not rows:
        raise SystemExit(f"expected runs with {FEWEST} new architectures in a generation after the first, got none")
    table = {generation: np.array(values)[:, 1:] for generation, values in sorted(rows.items())}
    learned = {generation: float(np.mean([seen for seen, _, _ in rows[generation]])) for generation in table}
    print(f"{'generation':>10}{'learned':>9}{'runs':>6}{'τ estimator':>13}{'τ parameters':>14}")
    for generation, values in table.items():
        own, size = np.nanmean(values, axis=0)
        print(f"{generation:10}{learned[generation]:9.0f}{len(values):6}{own:13.2f}{size:14.2f}")
    last = sorted(table)[-max(1, len(table) // 3) :]
    values = np.concatenate([table[generation] for generation in last])
    own, size = np.nanmean(values, axis=0)
    error = np.nanstd(values[:, 0], ddof=1) / np.sqrt(np.isfinite(values[:, 0]).sum())
    good = bool(own > 2 * error)  # false for a single value, whose error is NaN: it shows nothing
    print(f"last third: τ {own:+.2f} ± {error:.2f} (standard error), parameters {size:+.2f}")
    print(
        f"τ of the loss estimator is {'more' if good else 'not more'} than two standard errors above 0: "
        f"{'ok' if good else 'MISSED'}; the number of parameters ranks {'better' if size > own else 'no better'}"
    )
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        header = ["generation", "learned_from", "tau_estimator", "tau_parameters"]
        write_csv(args.out / "losses.csv", header, [[g, *row] for g in table for row in rows[g]])
        draw(args.out / "losses.png", table, learned, len(args.runs or [None]))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
