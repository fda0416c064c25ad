"""A-ANE: noises attend to each other through vectors of a bidirectional recurrent network (Wsr-NAS, AAAI 2023)."""

from __future__ import annotations

import chz
import torch
from torch import Tensor

from evo_robust.estimators.base import Estimator, Neighbours, NoiseEstimator, Shape, rescaled, rms
from evo_robust.estimators.layers import PLACES, Cell, PooledVector, convolutions, dense, lengths, through
from evo_robust.parts import refuse_unless


@chz.chz
class A(Estimator):
    """Attention over the known noises by recurrent vectors (A-ANE, Cheng et al., AAAI 2023: Wsr-NAS): the search's own.

    76,763 parameters for 3 channels, whatever the image's size (the paper: 76.8 thousand). Differences from the public
    code: the corrected average (see :class:`WA`), each direction has the query and key layers that the code makes for
    it but leaves out, maps are pooled to 3×3 for any size, noises have root mean square 1 instead of length 1 (else
    biases drown them), and the layer that refines them starts at zero.
    """

    width: int = chz.field(default=100, doc="channels between the two convolutions that refine the noises, >= 1")
    channels: int = chz.field(default=10, doc="channels of the pooled maps, >= 1; hidden vectors are 9 times as long")
    code: int = chz.field(default=20, doc="length of a strength's code, >= 1")

    @chz.validate
    def _sensible(self) -> None:
        names = ("width", "channels", "code")
        refuse_unless(self, *((name, getattr(self, name) >= 1, ">= 1") for name in names))

    def build(self, in_shape: Shape) -> AttentionRNN:
        """See :meth:`Estimator.build`."""
        return AttentionRNN(in_shape, self.width, self.channels, self.code)


class AttentionRNN(NoiseEstimator):
    """The network of :class:`A`."""

    def __init__(self, in_shape: Shape, width: int = 100, channels: int = 10, code: int = 20) -> None:
        super().__init__(in_shape)
        hidden = PLACES**2 * channels
        self.refine = convolutions(in_shape[0], width, in_shape[0], start_at_zero=True)
        self.image, self.up_input, self.down_input = (PooledVector(in_shape[0], channels) for _ in range(3))
        self.code = dense(1, code)
        self.up, self.down = (Cell(dense(2 * hidden + code, hidden)) for _ in range(2))
        self.up_query, self.down_query = (dense(hidden, hidden) for _ in range(2))
        self.up_key, self.down_key = (dense(hidden, hidden) for _ in range(2))
        self.scale = (2 * hidden) ** -0.5

    def forward(self, x: Tensor, noises: Tensor, strengths: Tensor, targets: Tensor) -> Tensor:
        """See :meth:`NoiseEstimator.forward`."""
        neighbours, sizes = Neighbours.of(strengths, targets), rms(noises)
        wanted = neighbours.average(sizes)
        unit = rescaled(noises, torch.ones_like(sizes))
        values = unit + through(self.refine, unit)
        codes, start = through(self.code, lengths(sizes, noises)), self.image(x)
        up = self.up.run(torch.cat((through(self.up_input, values), codes), 2), start)
        down = self.down.run(torch.cat((through(self.down_input, values), codes), 2), start, backwards=True)
        query = self._query(neighbours, up, down, through(self.code, lengths(wanted, noises)))
        keys = torch.cat((through(self.up_key, up), through(self.down_key, down)), 2)
        attention = torch.einsum("knd,tnd->tkn", keys, query) * self.scale
        learned = torch.einsum("tkn,knchw->tnchw", attention, values)
        return rescaled(neighbours.unit_average(noises, wanted) + learned, wanted)

    def _query(self, neighbours: Neighbours, up: Tensor, down: Tensor, codes: Tensor) -> Tensor:
        """One more step of both cells, with the interpolated hidden vector in the place of a noise, ``(t, n, d)``."""
        before, after = neighbours.below(up), neighbours.above(down)
        given = torch.cat((neighbours.between(before, after), codes), 2)
        rising = self.up_query(self.up(given.flatten(0, 1), before.flatten(0, 1)))
        falling = self.down_query(self.down(given.flatten(0, 1), after.flatten(0, 1)))
        return torch.cat((rising, falling), 1).view(*before.shape[:2], -1)
