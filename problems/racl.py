"""RACL (Dong et al., 2020): DARTS cells found by gradients, whose Lipschitz constant is small with confidence.

From the paper:

- The weights of a supernet's operations and edges are log-normal: α ~ LN(µ_α, σ_α²) and β ~ LN(µ_β, σ_β²).
- Cross-entropy on clean images moves µ and σ in turns. The constraint Pr[λ_F ≤ λ*] ≥ η enters by an augmented
  Lagrangian.
- The supernet's weights learn from the other half of the training images.
- Only the network found in the end is trained against attacks: ``python -m evo_robust.retrain``.

No code was released. What the paper leaves open is chosen here:

- λ* is a tenth of what the first distribution keeps with confidence η, under the weights of each epoch
  (``algorithm.gradient.confidence.factor=0.1``). ``….limit=`` sets it instead.
- θ begins at 0, medians at 1/operations and 1/inputs, σ at 0.3.
- The operation ``none`` has the constant 0. It is left out. Otherwise the cheapest way to meet the constraint would be
  to put it on all edges.
- Moments are those of cells that share their weights, as the search's cells do. The constraint uses σ. The paper adds
  variances as if cells were independent, and prints σ²: ``algorithm.gradient.confidence.cells=independent``,
  ``….form=as_printed``, ``….constants=paper``.
- The moments are good for σ up to 0.9 (``evo_robust/lipschitz/moments.py``). A search warns when it goes beyond.
  ``co_training.csv`` has the figure (``sigma_max``). ``….quantile=sampled`` draws instead.
- ``paper`` trains weights alone for the first 15 of the 50 epochs, on mixtures of the first distribution. PC-DARTS does
  so, on which RACL builds. RACL's paper does not say. Seven generations of five epochs follow.
- There are two objectives: clean error and the Lipschitz bound. The bound is the corrected one, which is a true bound.
  Robust error is recorded.
- Half of the offspring come from the distribution. ``algorithm.share=1`` is the paper's method, 0 is NSGA-II.
- Table 5 by overrides: ``algorithm.gradient.confidence=None`` (no constraint), ``….confidence.learning=False``,
  ``….confidence.eta=0.7``, ``….confidence.rho=0.01``.
- After each step, the medians of an edge's α are scaled to a sum of 1, and so are those of a node's β. The paper does
  not say so. Without it all shrink until the constraint is met (``algorithm.distribution.scale=free``).
- A fifth of the training images validates candidates, and the rest is halved. The paper halves all 50,000.
- ``demo`` also trains the weights on an architecture drawn from the distribution, beside each mixture (``drawn``).

Single architectures may have a λ* of their own:

- ``constraints=LogGate constraints.0.of=LipschitzConfidence`` takes what half of random architectures keep with the
  present weights (``constraints.0.quantile``, ``….sample``).
- ``LogConstraint(of=LipschitzConfidence(), at_most=ln λ*)`` sets it by hand.
- With ``relative=True`` and ``at_most=0`` it is that of the distribution. In the demo this rejects none: the
  distribution sums over all operations, an architecture over two per node (docs/results.md).
"""

from evo_robust import (
    CIFAR10,
    DARTS,
    OPERATIONS,
    PGD,
    CleanError,
    Confidence,
    CoTrained,
    Digits,
    GradientHybrid,
    LipschitzBound,
    LogNormal,
    Params,
    Problem,
    RobustError,
    Standard,
    SupernetLoss,
    SupernetTraining,
)

_OPERATIONS = tuple(name for name in OPERATIONS if name != "none")

paper = Problem(
    space=DARTS(channels=16, layers=8, operations=_OPERATIONS),
    data=CIFAR10(),
    objectives=(CleanError(), LipschitzBound()),
    recorded=(RobustError(attack=PGD(steps=20, step=2 / 255), eps=(8 / 255,)), Params()),
    evaluator=CoTrained(
        supernet=SupernetTraining(epochs=50, recipe=Standard(lr=0.1, weight_decay=3e-4, batch_size=128)),
        warmup=15,
        epochs=5,
        recalibration="clean",
    ),
    algorithm=GradientHybrid(
        pop_size=20,
        n_gen=7,
        distribution=LogNormal(),
        gradient=SupernetLoss(
            lr=6e-4,
            weight_decay=1e-3,
            batch_size=128,
            warmup="mixtures",
            confidence=Confidence(eta=0.9, rho=1e-3, factor=0.1),
        ),
    ),
)

demo = Problem(
    space=DARTS(channels=4, layers=3, nodes=3, operations=_OPERATIONS),
    data=Digits(),
    objectives=(CleanError(), LipschitzBound()),
    recorded=(RobustError(attack=PGD(steps=10), eps=(0.05, 0.1, 0.15)), Params()),
    evaluator=CoTrained(
        # the distribution makes nine steps an epoch, so rates are higher than on CIFAR-10
        supernet=SupernetTraining(epochs=24, recipe=Standard(lr=0.1, batch_size=64), threads=1),
        epochs=4,
        recalibration="clean",
    ),
    algorithm=GradientHybrid(
        pop_size=10,
        n_gen=6,
        distribution=LogNormal(),
        gradient=SupernetLoss(
            lr=0.02,
            weight_decay=1e-3,
            batch_size=64,
            drawn=True,
            confidence=Confidence(eta=0.9, rho=1e-2, factor=0.1),
        ),
    ),
)
