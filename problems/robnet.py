"""RobNet (Guo et al., CVPR 2020): robust networks drawn from one supernet that was trained against attacks.

From the paper:

- The space of densely wired cells. α says what runs on each of 14 edges: identity, separable convolution, both or
  neither.
- A supernet trained with PGD-7, on one random α per batch.
- 1,000 random architectures inherit its weights and are finetuned for three epochs. White-box PGD on validation images
  judges them.

Its search code was never released. What the paper leaves open is chosen here:

- Bits of a random α are 1 with probability 1/2.
- The supernet's size and recipe (C24, 8 cells, SGD .05, batch 64) are those of another public project.
- Batch normalisation is recalibrated before a candidate is judged. A supernet's running statistics mix all paths.
- Parameters are a second objective, so there is a front. ``algorithm=NSGA2`` searches instead of drawing at random.
- ``budgets`` is the paper's study (§3.4): 100 architectures for each of three budgets, drawn within the budget.
- ``scratch`` trains the same architectures from scratch. That is the truth to compare a supernet's ranking with.
  ``evaluator.seed=1`` trains them once more, which shows how far one truth repeats another.
- An attack at 8/255 is half a grey step of these digits. It hardly fools a network. So the demo trains at 0.1, and
  judges at 0.05, 0.1 and 0.15.

``python -m evo_robust.analyze run=DIR`` draws the paper's study from each of these runs.
"""

import chz

from evo_robust import (
    CIFAR10,
    PGD,
    CleanError,
    Digits,
    FromScratch,
    OneShot,
    Params,
    PGDTraining,
    Problem,
    RandomSearch,
    RobNet,
    RobustError,
    SupernetTraining,
    Threat,
)

# PGD-7 at 8/255, steps of 2/255: for the supernet, for finetuning and from scratch
_CIFAR = PGDTraining(lr=0.05, momentum=0.9, weight_decay=1e-4, batch_size=64, clip=5.0, decay_bn=False)

paper = Problem(
    space=RobNet(channels=24, layers=8),
    data=CIFAR10(),
    objectives=(RobustError(attack=PGD(steps=20, step=2 / 255), eps=(8 / 255,)), Params()),
    recorded=(CleanError(),),
    evaluator=OneShot(
        supernet=SupernetTraining(epochs=100, recipe=_CIFAR), finetune=3, recipe=chz.replace(_CIFAR, lr=0.01)
    ),
    algorithm=RandomSearch(pop_size=50, n_gen=20),
)

# 862 digits make 14 steps an epoch, so rates are higher than on CIFAR-10, and attacks shorter
_DIGITS = PGDTraining(
    attack=PGD(steps=5, step=0.04), threat=Threat(eps=0.1), lr=0.1, weight_decay=1e-4, batch_size=64, decay_bn=False
)

demo = Problem(
    # two fifths are kept for validation: 575 images tell networks apart better than 287
    space=RobNet(channels=4, layers=5),
    data=Digits(val_share=0.4),
    objectives=(RobustError(attack=PGD(steps=20), eps=(0.05, 0.1, 0.15)), Params()),
    recorded=(CleanError(),),
    evaluator=OneShot(
        # uniform paths alone learn almost nothing in so few steps (docs/results.md). On 8x8 maps a second thread costs
        # more than it saves
        supernet=SupernetTraining(epochs=120, recipe=_DIGITS, sampling="progressive", threads=1),
        finetune=1,
        recipe=chz.replace(_DIGITS, lr=0.02),
    ),
    algorithm=RandomSearch(pop_size=12, n_gen=3),
)


def _budgets(problem: Problem) -> Problem:
    drawn = RandomSearch(pop_size=60, n_gen=5, budgets=("small", "medium", "large"))
    return chz.replace(problem, algorithm=drawn)


def _from_scratch(problem: Problem, epochs: int, recipe: PGDTraining) -> Problem:
    evaluator = FromScratch(epochs=epochs, recipe=recipe)
    return chz.replace(problem, evaluator=evaluator, algorithm=RandomSearch(pop_size=24, n_gen=1))


budgets = _budgets(demo)
budgets_paper = _budgets(paper)
# a network's robust error is .28 after 24 epochs, and .20 after 48 (docs/results.md)
scratch = _from_scratch(demo, 48, _DIGITS)
scratch_paper = _from_scratch(paper, 110, _CIFAR)
