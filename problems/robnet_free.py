"""RobNet-free (Guo et al., CVPR 2020, §3.5): every cell has its own α, and a high FSP distance is rejected first.

This space is too large for random search alone. The FSP distance says how much an attack changes the flow through a
cell. The paper found that in deep cells it grows with the gap between clean and robust accuracy. So candidates with a
high distance are rejected before finetuning. The paper does not say how high. Here the limit is the median over random
architectures.

- ``study`` is the paper's Fig. 7: 50 networks without finetuning and without the gate. The FSP distances of all cells
  are recorded. ``python -m evo_robust.analyze run=DIR`` draws it.
- The published RobNet-free has 20 cells with C=36. Its α fits no other depth, so ``paper`` has 20 cells too.
- ``algorithm=NSGA2`` searches instead of drawing at random.
"""

import chz

from evo_robust import PGD, FSPDistance, Gate, Problem, RandomSearch, RobNet, load


def _free(problem: Problem, gate: Gate, channels: int, layers: int) -> Problem:
    return chz.replace(
        problem,
        space=RobNet(cells="free", channels=channels, layers=layers),
        constraints=(gate,),
    )


def _study(problem: Problem) -> Problem:
    (gate,) = problem.constraints
    return chz.replace(
        problem,
        constraints=(),
        recorded=(*problem.recorded, chz.replace(gate.of, cells="all")),
        evaluator=chz.replace(problem.evaluator, finetune=0),
        algorithm=RandomSearch(pop_size=25, n_gen=2),
    )


_PAPER_GATE = Gate(of=FSPDistance(cells="deep", eps=8 / 255), quantile=0.5, sample=50)
_DEMO_GATE = Gate(
    of=FSPDistance(cells="deep", attack=PGD(steps=5, step=0.04), eps=0.1),  # as its networks are trained
    quantile=0.5,
    sample=20,
)

paper = _free(load("robnet", "paper"), _PAPER_GATE, channels=36, layers=20)
demo = _free(load("robnet", "demo"), _DEMO_GATE, channels=4, layers=6)
study = _study(demo)
study_paper = _study(paper)
