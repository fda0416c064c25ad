"""Noise between two strengths as a weighted average: Wsr-NAS's WA-ANE, which has nothing to learn."""

from __future__ import annotations

from typing import ClassVar

import chz
from torch import Tensor

from evo_robust.estimators.base import Estimator, Neighbours, NoiseEstimator, rescaled, rms
from evo_robust.parts.base import Shape


@chz.chz
class AverageANE(Estimator):
    """Linear interpolation between the neighbouring strengths (WA-ANE, Cheng et al., AAAI 2023: Wsr-NAS, eq. 6).

    δ̂ = [(ε⁺ − ε̂) δ⁻ + (ε̂ − ε⁻) δ⁺] / (ε⁺ − ε⁻). Eq. 6 and the public code exchange the two weights, so a target
    close to ε⁻ gets nearly all of δ⁺. Beyond the known strengths the exchanged weight goes to a neighbour that does not
    exist, and no noise is left. The code also averages noises of Euclidean length 1 and does not scale the result back.
    ``swapped`` and ``unit`` repeat these mistakes, to explain the paper's Table 5: it reports 67.4% accuracy under
    WA-ANE, and 73.0% without attack.
    """

    learned: ClassVar[bool] = False

    swapped: bool = chz.field(default=False, doc="exchange the two weights, as eq. 6 prints them")
    unit: bool = chz.field(
        default=False, doc="average noises of Euclidean length 1 and leave the result as it is, as the public code does"
    )

    def build(self, in_shape: Shape) -> WeightedAverage:
        """See :meth:`Estimator.build`."""
        return WeightedAverage(in_shape, swapped=self.swapped, unit=self.unit)


class WeightedAverage(NoiseEstimator):
    """Interpolates inside the known strengths, scales outside; see :class:`AverageANE`."""

    def __init__(self, in_shape: Shape, *, swapped: bool = False, unit: bool = False) -> None:
        super().__init__(in_shape)
        self.swapped, self.unit = swapped, unit

    def forward(self, x: Tensor, noises: Tensor, strengths: Tensor, targets: Tensor) -> Tensor:
        """See :meth:`NoiseEstimator.forward`."""
        neighbours = Neighbours.of(strengths, targets)
        if self.unit:
            values = x[0].numel()
            noises = rescaled(noises, rms(noises).new_tensor(values**-0.5))
        return (neighbours.swapped() if self.swapped else neighbours).average(noises)
