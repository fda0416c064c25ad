"""E-ANE: noises attend to each other through maps of a recurrent convolutional network (Wsr-NAS, AAAI 2023)."""

from __future__ import annotations

import chz
import torch
from torch import Tensor, nn

from evo_robust.estimators.base import Estimator, Neighbours, NoiseEstimator, rescaled, rms
from evo_robust.estimators.layers import RecurrentCell, convolutions, lengths, through
from evo_robust.parts.base import Shape, refuse_unless


@chz.chz
class MapAttentionANE(Estimator):
    """Attention over hidden maps (E-ANE, Cheng et al., AAAI 2023: Wsr-NAS).

    133,281 parameters for 3×32×32 (the paper: 133.3 thousand). Differences from the public code: the average is the
    corrected one (see :class:`AverageANE`); no ReLU follows the last convolutions of queries, keys and values, since
    noise could then only brighten; attention is divided by the root of its keys' length; maps are pooled over the whole
    image; noises have root mean square 1; the layer that adds to the average starts at zero; and a learned map, which
    the code has but never uses, takes the place of a missing neighbour. ``depthwise=True width=300`` is about what
    Wsr-NAS Plus uses.
    """

    width: int = chz.field(default=100, doc="channels between the two convolutions of each step, >= 1")
    keys: int = chz.field(default=50, doc="length of keys and queries, >= 1")
    depthwise: bool = chz.field(default=False, doc="take the second convolutions apart: 1×1, depthwise 3×3, 1×1")

    @chz.validate
    def _sensible(self) -> None:
        refuse_unless(self, *((name, getattr(self, name) >= 1, ">= 1") for name in ("width", "keys")))

    def build(self, in_shape: Shape) -> MapAttention:
        """See :meth:`Estimator.build`."""
        return MapAttention(in_shape, self.width, self.keys, depthwise=self.depthwise)


@chz.chz
class MapANE(Estimator):
    """Hidden maps without attention (E-ANE⁻, Cheng et al., AAAI 2023: Wsr-NAS).

    Both cells take one more step at the target, and convolutions follow: 29,481 parameters for 3×32×32. In the public
    code these make all of the noise, through a ReLU that forbids negative values. Here they add to the weighted
    average, with the differences of :class:`MapAttentionANE`.
    """

    width: int = chz.field(default=100, doc="channels between the two convolutions of each step, >= 1")
    depthwise: bool = chz.field(default=False, doc="take the second convolutions apart: 1×1, depthwise 3×3, 1×1")

    @chz.validate
    def _sensible(self) -> None:
        refuse_unless(self, ("width", self.width >= 1, ">= 1"))

    def build(self, in_shape: Shape) -> MapRNN:
        """See :meth:`Estimator.build`."""
        return MapRNN(in_shape, self.width, depthwise=self.depthwise)


class _Maps(NoiseEstimator):
    """What both have in common: codes of strengths as maps, and hidden maps of the noises in both directions."""

    def __init__(self, in_shape: Shape, width: int, depthwise: bool) -> None:
        super().__init__(in_shape)
        channels, height, columns = in_shape
        self.code = nn.Sequential(nn.Linear(1, height * columns), nn.ReLU(), nn.Unflatten(1, (1, height, columns)))
        self.up, self.down = (
            RecurrentCell(
                nn.Sequential(convolutions(2 * channels + 1, width, channels, depthwise=depthwise), nn.ReLU())
            )
            for _ in range(2)
        )
        self.missing = nn.Parameter(torch.rand(1, height, columns))

    def _hidden(self, x: Tensor, unit: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden maps ``(k, n, c, h, w)`` of both directions; the image is the first hidden map."""
        given = torch.cat((codes, unit), 2)
        return self.up.run(given, x), self.down.run(given, x, backwards=True)


class MapAttention(_Maps):
    """The network of :class:`MapAttentionANE`."""

    def __init__(self, in_shape: Shape, width: int = 100, keys: int = 50, *, depthwise: bool = False) -> None:
        super().__init__(in_shape, width, depthwise)
        channels = in_shape[0]
        self.query = convolutions(3 * channels, width, keys, depthwise=depthwise)
        self.key = convolutions(2 * channels, width, keys, depthwise=depthwise)
        self.value = convolutions(2 * channels, width, channels, depthwise=depthwise, start_at_zero=True)
        self.scale = keys**-0.5

    def forward(self, x: Tensor, noises: Tensor, strengths: Tensor, targets: Tensor) -> Tensor:
        """See :meth:`NoiseEstimator.forward`."""
        neighbours, sizes = Neighbours.of(strengths, targets), rms(noises)
        wanted = neighbours.average(sizes)
        unit = rescaled(noises, torch.ones_like(sizes))
        hidden = torch.cat(self._hidden(x, unit, through(self.code, lengths(sizes, noises))), 2)
        average = neighbours.unit_average(noises, wanted)
        query = _pooled(self.query, torch.cat((*self._neighbours(neighbours, unit), average), 2))
        attention = torch.einsum("knd,tnd->tkn", _pooled(self.key, hidden), query) * self.scale
        learned = torch.einsum("tkn,knchw->tnchw", attention.softmax(1), through(self.value, hidden))
        return rescaled(average + learned, wanted)

    def _neighbours(self, neighbours: Neighbours, unit: Tensor) -> tuple[Tensor, Tensor]:
        """The noises at ε⁻ and ε⁺, the learned map where there is none, ``(t, n, c, h, w)`` each."""
        missing = self.missing.expand(unit.shape[2:])
        lower = torch.where(neighbours.has_lower[..., None, None, None], neighbours.below(unit), missing)
        return lower, torch.where(neighbours.has_upper[..., None, None, None], neighbours.above(unit), missing)


class MapRNN(_Maps):
    """The network of :class:`MapANE`."""

    def __init__(self, in_shape: Shape, width: int = 100, *, depthwise: bool = False) -> None:
        super().__init__(in_shape, width, depthwise)
        self.head = convolutions(2 * in_shape[0], width, in_shape[0], depthwise=depthwise, start_at_zero=True)

    def forward(self, x: Tensor, noises: Tensor, strengths: Tensor, targets: Tensor) -> Tensor:
        """See :meth:`NoiseEstimator.forward`."""
        neighbours, sizes = Neighbours.of(strengths, targets), rms(noises)
        wanted = neighbours.average(sizes)
        unit = rescaled(noises, torch.ones_like(sizes))
        up, down = self._hidden(x, unit, through(self.code, lengths(sizes, noises)))
        average = neighbours.unit_average(noises, wanted)
        code, missing = through(self.code, lengths(wanted, noises)), self.missing.expand_as(average)
        rising = self._step(self.up, (code, missing), neighbours.below(up))
        falling = self._step(self.down, (code, average), neighbours.above(down))
        return rescaled(average + through(self.head, torch.cat((rising, falling), 2)), wanted)

    @staticmethod
    def _step(cell: RecurrentCell, given: tuple[Tensor, Tensor], hidden: Tensor) -> Tensor:
        """One more step of a cell, ``(t, n, c, h, w)``."""
        after: Tensor = cell(torch.cat(given, 2).flatten(0, 1), hidden.flatten(0, 1))
        return after.view_as(hidden)


def _pooled(module: nn.Module, values: Tensor) -> Tensor:
    """Largest value of every channel that a module makes of ``(k, n, c, h, w)``, ``(k, n, d)``."""
    return through(module, values).amax((-2, -1))
