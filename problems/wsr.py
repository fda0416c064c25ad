"""Wsr-NAS (Cheng et al., AAAI 2023): DARTS cells that are robust at many strengths of attack.

From the paper:

- A Gumbel-softmax distribution (τ = 0.1). Its sampled path trains the supernet by PGD-7 for an epoch.
- Losses without attack and at N1 + N2 strengths. N1 are attacked, N2 are estimated (AN-Estimator).
- A validation-loss estimator learns from these losses and moves the distribution.
- α = 0.8, β = 0.2, weights 1, 2, 3, 5, 7, 10.
- Algorithm 1 has 400 epochs. 100 are warm-up on random paths. In the next 100, the first 100 architectures are
  measured, and the distribution stays as it is (``algorithm.gradient.fill``). The search has 200, with one step each.
- Networks are retrained with 45 channels, as the published one.

What differs:

- ``demo`` draws a path for every step, trains drawn architectures beside it, and attacks with a single step. There are
  few digits.
- There are two objectives: the weighted loss, and parameters. Half of the offspring come from the distribution.
  ``algorithm.share=1`` is the paper's method, 0 is NSGA-II.
- A generation is 10 epochs and 10 new architectures. The loss estimator learns once per generation, not once per
  epoch. It learns before the new architectures are measured. So those of the last generation teach it nothing.
- The rate of the distribution's steps is 0.3. After 200 steps, the entropy of its draws is about .76 of a uniform
  one's. This was measured on digits with ``shared`` (docs/results.md).
- The public code's rate is 3e-5 (``scale=published``). There 200 steps move A by 0.006 at most. Draws stay as good as
  uniform, and only the mode carries what was learned.
- An architecture has two inputs per node, as the network found in the end. The warm-up trains such architectures. The
  paper trains and measures all 14 edges while it searches.
- The step of the attack is 2.5·ε/7, as in the paper's code. The paper prints 2.5·ε/20.
- The paper halves the training set: weights learn from D_t, losses are measured on D_v. Here D_v is the validation
  split (``data.val_share=0.5``). All the rest trains weights, except a twentieth where a noise estimator learns
  (``evaluator.share``).
- The noise estimator is WA, corrected. It needs no training and is as strong as those that do (docs/results.md). The
  paper's own is ``objectives.0.estimator=A``.
- Basic is 3 + 3 strengths. ``objectives.0.strengths=plus`` is 3 + 8. ``naive-1``, ``naive-3``, ``naive-6`` and
  ``naive-11`` attack every strength.
- ``shared`` is the demo on a supernet trained beforehand (by PGD-5), on uniform paths. All searches are then measured
  with the same weights. So ``algorithm.share=0``, ``0.5``, ``1`` and ``algorithm=RandomSearch`` compare.
"""

import chz

from evo_robust import (
    CIFAR10,
    DARTS,
    OPERATIONS,
    PGD,
    CoTrained,
    Digits,
    EstimatedLoss,
    FastTraining,
    GradientHybrid,
    GumbelSoftmax,
    LossTraining,
    OneShot,
    Params,
    PGDTraining,
    Problem,
    RobustLoss,
    Strengths,
    SupernetTraining,
    Threat,
)

_CIFAR = PGDTraining(
    attack=PGD(steps=7),
    threat=Threat(eps=0.03),
    lr=0.1,
    lr_end=0.001,
    warmup=200,  # the rate is constant until the distribution moves, then falls along a cosine
    warmup_from=0.1,
    weight_decay=3e-4,
    batch_size=64,
)

paper = Problem(
    space=DARTS(channels=16, layers=8, final_channels=45),
    data=CIFAR10(val_share=0.5),
    objectives=(RobustLoss(attack=PGD(steps=7), strengths=Strengths(n_real=3)), Params()),
    evaluator=CoTrained(
        supernet=SupernetTraining(epochs=400, recipe=_CIFAR),
        warmup=100,
        epochs=10,
        share=None,
        recipe=_CIFAR,
    ),
    algorithm=GradientHybrid(
        pop_size=10,
        n_gen=30,
        distribution=GumbelSoftmax(),
        gradient=EstimatedLoss(lr=0.3, redraw="epoch", fill=100),
    ),
)

# the public code's rate: the distribution stays uniform to within a hundredth, so every draw is chance
published = chz.replace(
    paper,
    algorithm=chz.replace(
        paper.algorithm,
        gradient=chz.replace(paper.algorithm.gradient, lr=3e-5),  # type: ignore[attr-defined]
    ),
)

_DIGITS = PGDTraining(attack=PGD(steps=5, step=0.02), threat=Threat(eps=0.05), lr=0.1, weight_decay=1e-4, batch_size=64)
# learns as much of digits per epoch, in a third of the time
_FAST = FastTraining(threat=Threat(eps=0.05), lr=0.1, weight_decay=1e-4, batch_size=64)

demo = Problem(
    # with `none` on every eighth edge, uniform paths learn nothing from 1,000 digits
    space=DARTS(channels=8, layers=3, nodes=3, operations=tuple(name for name in OPERATIONS if name != "none")),
    data=Digits(),
    # a grey step of digits is 1/16, so strengths are twice those of CIFAR-10
    objectives=(RobustLoss(attack=PGD(steps=7), strengths=Strengths(n_real=3).scaled(2), limit=150), Params()),
    evaluator=CoTrained(
        supernet=SupernetTraining(epochs=120, recipe=_FAST, threads=1),
        warmup=60,
        epochs=10,
        share=None,
        recalibration="clean",
    ),
    algorithm=GradientHybrid(
        pop_size=10,
        n_gen=6,
        distribution=GumbelSoftmax(),
        gradient=EstimatedLoss(lr=0.05, steps=4, drawn=True, losses=LossTraining(passes=200)),
    ),
)

shared = chz.replace(
    demo,
    evaluator=OneShot(supernet=SupernetTraining(epochs=120, recipe=_DIGITS, threads=1), recalibration="clean"),
    algorithm=GradientHybrid(
        pop_size=10,
        n_gen=12,
        distribution=GumbelSoftmax(),
        # as many steps per generation as in the demo's ten epochs
        gradient=chz.replace(demo.algorithm.gradient, steps=40),  # type: ignore[attr-defined]
    ),
)
