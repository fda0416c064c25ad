"""A-ANE: noises attend to each other through vectors of a bidirectional recurrent network (Wsr-NAS, AAAI 2023)."""

from __future__ import annotations

from typing import Literal

import chz
import torch
from torch import Tensor, nn

from evo_robust.estimators.base import Estimator, Neighbours, NoiseEstimator, rescaled, rms
from evo_robust.estimators.layers import PLACES, PooledVector, RecurrentCell, convolutions, dense, lengths, through
from evo_robust.parts.base import LATER, Shape, refuse_unless


@chz.chz
class AttentionANE(Estimator):
    """Attention over the known noises by recurrent vectors (A-ANE, Cheng et al., AAAI 2023): Wsr-NAS's search uses it.

    76,763 parameters for 3 channels and any image size (the paper: 76.8 thousand). Differences from the public code:
    the average is the corrected one (see :class:`AverageANE`); each direction uses the query and key layers that the
    code makes but never calls; maps are pooled to 3×3 for any size; noises have root mean square 1 instead of length 1,
    since biases would drown shorter ones; and the layer that refines them starts at zero.

    The paper's text describes another network than its code builds (``form``). That one has 44,003 parameters, so the
    76.8 thousand of the paper are those of the code.

    ==============================  ===========================================  ==================================
    what                            code                                         text
    ==============================  ===========================================  ==================================
    the recurrent network reads     refined noises, which are the values too     normalised noises, as they are
    the query's step reads, in the  hidden vectors at ε⁻ and ε⁺, interpolated    a vector of zeros
    place of a noise
    keys and query                  a layer on each direction's hidden vectors,  hidden vectors of both directions,
                                    then joined                                  joined
    ==============================  ===========================================  ==================================

    Attention may be a softmax over the noises, as in the work that the text cites (Bahdanau et al., 2015), or plain
    products, as in the code (``softmax``). The text does not say which. docs/results.md compares all four.
    """

    form: Literal["code", "text"] = chz.field(
        default="code", doc="code: the network of the public code; text: that of the paper's text", metadata=LATER
    )
    softmax: bool = chz.field(
        default=False, doc="attention is a softmax over the noises instead of plain products", metadata=LATER
    )

    width: int = chz.field(default=100, doc="channels between the two convolutions that refine the noises, >= 1")
    channels: int = chz.field(default=10, doc="channels of the pooled maps, >= 1; hidden vectors are 9 times as long")
    code: int = chz.field(default=20, doc="length of a strength's code, >= 1")

    @chz.validate
    def _sensible(self) -> None:
        names = ("width", "channels", "code")
        refuse_unless(self, *((name, getattr(self, name) >= 1, ">= 1") for name in names))

    def build(self, in_shape: Shape) -> AttentionRNN:
        """See :meth:`Estimator.build`."""
        return AttentionRNN(
            in_shape, self.width, self.channels, self.code, as_text=self.form == "text", softmax=self.softmax
        )


class AttentionRNN(NoiseEstimator):
    """The network of :class:`AttentionANE`; ``as_text`` is its ``form="text"``."""

    def __init__(
        self,
        in_shape: Shape,
        width: int = 100,
        channels: int = 10,
        code: int = 20,
        *,
        as_text: bool = False,
        softmax: bool = False,
    ) -> None:
        super().__init__(in_shape)
        self.as_text, self.softmax = as_text, softmax
        hidden = PLACES**2 * channels
        self.refine = convolutions(in_shape[0], width, in_shape[0], start_at_zero=True)
        self.image, self.up_input, self.down_input = (PooledVector(in_shape[0], channels) for _ in range(3))
        self.code = dense(1, code)
        self.up, self.down = (RecurrentCell(dense(2 * hidden + code, hidden)) for _ in range(2))
        self.up_query, self.down_query, self.up_key, self.down_key = (
            nn.Identity() if as_text else dense(hidden, hidden) for _ in range(4)
        )
        self.scale = (2 * hidden) ** -0.5

    def forward(self, x: Tensor, noises: Tensor, strengths: Tensor, targets: Tensor) -> Tensor:
        """See :meth:`NoiseEstimator.forward`."""
        neighbours, sizes = Neighbours.of(strengths, targets), rms(noises)
        wanted = neighbours.average(sizes)
        unit = rescaled(noises, torch.ones_like(sizes))
        values = unit + through(self.refine, unit)
        read = unit if self.as_text else values
        codes, start = through(self.code, lengths(sizes, noises)), self.image(x)
        up = self.up.run(torch.cat((through(self.up_input, read), codes), 2), start)
        down = self.down.run(torch.cat((through(self.down_input, read), codes), 2), start, backwards=True)
        query = self._query(neighbours, up, down, through(self.code, lengths(wanted, noises)))
        keys = torch.cat((through(self.up_key, up), through(self.down_key, down)), 2)
        attention = torch.einsum("knd,tnd->tkn", keys, query) * self.scale
        if self.softmax:
            attention = attention.softmax(1)
        learned = torch.einsum("tkn,knchw->tnchw", attention, values)
        return rescaled(neighbours.unit_average(noises, wanted) + learned, wanted)

    def _query(self, neighbours: Neighbours, up: Tensor, down: Tensor, codes: Tensor) -> Tensor:
        """One more step of both cells, without a noise to read, ``(t, n, d)``."""
        before, after = neighbours.below(up), neighbours.above(down)
        instead = torch.zeros_like(before) if self.as_text else neighbours.between(before, after)
        given = torch.cat((instead, codes), 2)
        rising = self.up_query(self.up(given.flatten(0, 1), before.flatten(0, 1)))
        falling = self.down_query(self.down(given.flatten(0, 1), after.flatten(0, 1)))
        return torch.cat((rising, falling), 1).view(*before.shape[:2], -1)
