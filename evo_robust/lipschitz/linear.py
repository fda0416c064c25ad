"""Spectral norms of convolutions, batch normalisation and linear layers, at the size of their real inputs.

The norm of a linear map M is the square root of the largest eigenvalue of MᵀM. Power iteration applies MᵀM again and
again and keeps the last vector. Lanczos' method (in Golub and Kahan's form) uses all the vectors of the same products.
With tens of products it comes as close as power iteration with hundreds. Both approach the norm from below.

A bound must not lie below the norm. After k products from a random start, Lanczos' method is short of (1−ε) times the
largest of d eigenvalues with probability 1.648 √d exp(−√ε(2k−1)) at most, for any map (Kuczyński and Woźniakowski,
1992). So products are made until this is 1e-9, and the result is raised by what may be missing. There are bounds that
leave nothing to chance (Gram iteration on frequencies), but they hold for circular convolutions. On the small images of
deep cells they are far too high: only one weight of a 3×3 kernel counts on a single pixel, not nine. Maps without
neighbours (1×1 convolutions, linear layers) are plain matrices, and their norms are exact.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from scipy.linalg import eigvalsh_tridiagonal
from torch import Tensor

from evo_robust.parts.base import Shape

Pair = tuple[int, int]

_FAILURE = 1e-9
"""Probability, per map, that a certified norm is too small."""

_ROUNDING = 1e-5
"""Relative: float32's error in a norm, generously."""

_FRESH = 0.1
"""Share of a warm start that is random, so that a direction which has grown meanwhile is found."""


@dataclasses.dataclass(frozen=True, eq=False)
class Convolution:
    """A 2-d convolution with zero padding; its bias moves nothing.

    Attributes:
        weight: ``(out, in/groups, kh, kw)``.
        stride: of rows and columns; ``padding`` and ``dilation`` alike.
        groups: number of groups.
    """

    weight: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for maps that can be computed together."""
        return ("conv", tuple(self.weight.shape), self.stride, self.padding, self.dilation, self.groups)

    @property
    def pointwise(self) -> bool:
        """Whether it is one matrix, applied to every pixel."""
        return self.weight.shape[2:] == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0) and self.groups == 1

    def out_shape(self, shape: Shape) -> Shape:
        """Shape of the output for an input ``(c, h, w)``."""
        sides = [
            (n + 2 * self.padding[i] - self.dilation[i] * (self.weight.shape[2 + i] - 1) - 1) // self.stride[i] + 1
            for i, n in enumerate(shape[1:])
        ]
        return len(self.weight), sides[0], sides[1]


@dataclasses.dataclass(frozen=True, eq=False)
class Scale:
    """A factor per channel ``(c,)``: batch normalisation in eval mode, or that of the images."""

    factors: Tensor

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for maps that can be computed together."""
        return ("scale", len(self.factors))

    pointwise = True

    def out_shape(self, shape: Shape) -> Shape:
        """The input's."""
        return shape


Layer = Convolution | Scale


@dataclasses.dataclass(frozen=True, eq=False)
class LinearMap:
    """Linear layers one after the other, as one map.

    Attributes:
        layers: at least one.
        shape: ``(c, h, w)`` of the input.
    """

    layers: tuple[Layer, ...]
    shape: Shape

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for maps that can be computed together."""
        # maps without neighbours have the norm of their matrix at every size
        return (self.shape[0] if self.pointwise else self.shape, *(layer.key for layer in self.layers))

    @property
    def pointwise(self) -> bool:
        """Whether it is one matrix, applied to every pixel."""
        return all(layer.pointwise for layer in self.layers)

    @property
    def out_shape(self) -> Shape:
        """Shape of the output."""
        shape = self.shape
        for layer in self.layers:
            shape = layer.out_shape(shape)
        return shape


class SpectralNorms:
    """Spectral norms of many linear maps at once; maps of one kind and size are computed together.

    Example:
        >>> norms = SpectralNorms(steps=10)
        >>> lipschitz_constant(nn.Conv2d(3, 8, 3, padding=1), (3, 32, 32), norms=norms)

    Args:
        steps: products with MᵀM per map, >= 1. They give a quick estimate that lies below the norm, as a rule within 1%
            after ten. The next call for maps of the same kinds begins where this one ended, so 2 steps will do
            when weights have moved a little. None gives certified norms instead: not below the true ones, with
            probability 1 − 1e-9 each, and computed from the start in every call.
        slack: how far, relative, a certified norm may lie above the true one, in (0,1); half of it takes √2 times as
            many products.
        seed: of the random starts.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, steps: int | None = None, slack: float = 0.01, seed: int = 0) -> None:
        if steps is not None and steps < 1:
            raise ValueError(f"expected steps >= 1, got {steps}")
        if not 0 < slack < 1:
            raise ValueError(f"expected slack in (0,1), got {slack}")
        self.steps, self.slack, self.seed = steps, slack, seed
        self._last: dict[tuple[Any, ...], Tensor] = {}

    @torch.no_grad()
    def __call__(self, maps: Sequence[LinearMap]) -> list[float]:
        """The norm of every map, in order."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, one in enumerate(maps):
            groups.setdefault(one.key, []).append(index)
        found = [0.0] * len(maps)
        for key, members in groups.items():
            some = [maps[index] for index in members]
            norms = _matrix_norms(some) if some[0].pointwise else self._krylov((key, len(some)), some)
            for index, norm in zip(members, norms, strict=True):
                found[index] = norm
        return found

    def _krylov(self, key: tuple[Any, ...], maps: Sequence[LinearMap]) -> list[float]:
        together = _Stacked(maps)
        inside, outside = math.prod(maps[0].shape), math.prod(maps[0].out_shape)
        # always the same start for maps of one kind, so that networks do not differ by chance
        generator = torch.Generator().manual_seed(self.seed)
        start = torch.randn((len(maps), inside), generator=generator).to(together.device, together.dtype)
        if self.steps is not None:
            if key in self._last:
                last = self._last[key].to(start)
                start = last + _FRESH * start / math.sqrt(inside)
            norms, self._last[key] = bidiagonal_norms(together, start, self.steps, keep=True)
            return norms.tolist()
        rank = min(inside, outside)
        steps = min(certain_steps(rank, self.slack), rank)
        norms, _ = bidiagonal_norms(together, start, steps)
        # all directions of a small map were seen, so nothing is missing
        raised = 1.0 if steps == rank else 1.0 + self.slack
        return (norms * (raised * (1.0 + _ROUNDING))).tolist()


def certain_steps(dimension: int, slack: float) -> int:
    """Products after which a norm is short of the true one by a factor of 1+slack with probability 1e-9 at most.

    Args:
        dimension: d, the smaller one of the map's input and output.
        slack: > 0.
    """
    eps = 1 - (1 + slack) ** -2  # of the eigenvalue, the norm's square
    return math.ceil((math.log(1.648 * math.sqrt(dimension) / _FAILURE) / math.sqrt(eps) + 1) / 2)


def bidiagonal_norms(together: _Stacked, start: Tensor, steps: int, keep: bool = False) -> tuple[Tensor, Tensor]:
    """Largest singular values that Golub and Kahan's bidiagonalisation finds in ``steps`` products.

    Args:
        together: n maps.
        start: a vector for each ``(n, c·h·w)``.
        steps: >= 1.
        keep: whether to return the vectors too; that takes memory for one vector per step.

    Returns:
        The values, float64 ``(n,)`` on the CPU, and the unit vectors that they belong to (``start``, where not wanted).
    """
    v = _unit(start)[0]
    u, alpha = _unit(together.forward(v))
    alphas, betas, basis = [alpha], [], [v]
    for _ in range(steps - 1):
        v, beta = _unit(together.adjoint(u) - alpha * v)
        u, alpha = _unit(together.forward(v) - beta * u)
        alphas.append(alpha)
        betas.append(beta)
        if keep:
            basis.append(v)
    diagonal = torch.cat(alphas, 1).double().cpu()
    above = torch.cat(betas, 1).double().cpu() if betas else diagonal[:, :0]
    if not keep:
        return _bidiagonal_tops(diagonal, above), start
    _, values, right = torch.linalg.svd(torch.diag_embed(diagonal) + torch.diag_embed(above, 1))
    weights = right[:, 0].to(start)
    return values[:, 0], _unit(torch.einsum("nk,knd->nd", weights, torch.stack(basis)))[0]


def _bidiagonal_tops(diagonal: Tensor, above: Tensor) -> Tensor:
    """Largest singular values ``(n,)`` of upper bidiagonal matrices B, from the largest eigenvalue of each BᵀB."""
    squares = diagonal.square()
    squares[:, 1:] += above.square()
    products = diagonal[:, :-1] * above
    last = diagonal.shape[1] - 1
    tops = [
        eigvalsh_tridiagonal(d, e, select="i", select_range=(last, last))[0] if last else d[0]
        for d, e in zip(squares.numpy(), products.numpy(), strict=True)
    ]
    return torch.tensor(tops, dtype=torch.float64).clamp_min(0.0).sqrt()


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors ``(n, d)`` of length 1 and their lengths ``(n, 1)``; zeros stay zeros."""
    lengths = vectors.norm(dim=1, keepdim=True)
    return vectors / lengths.clamp_min(torch.finfo(vectors.dtype).tiny), lengths


class _Stacked:
    """n maps of one kind side by side, as one with n times the channels and groups; vectors are ``(n, d)``."""

    def __init__(self, maps: Sequence[LinearMap]) -> None:
        self.shape = maps[0].shape
        weight = _tensor(maps[0].layers[0])
        self.device = weight.device
        # TensorFloat-32 would cost three digits on a GPU, and doubles are fast there; on CPUs they are slow
        self.dtype = torch.float64 if weight.is_cuda else torch.float32
        self.layers = [self._stack(layers) for layers in zip(*(one.layers for one in maps), strict=True)]
        self.sizes = [(maps[0].shape[1], maps[0].shape[2])]
        shape = maps[0].shape
        for layer in maps[0].layers:
            shape = layer.out_shape(shape)
            self.sizes.append((shape[1], shape[2]))

    def _stack(self, layers: Sequence[Layer]) -> Layer:
        stacked = torch.cat([_tensor(layer).detach().to(self.dtype) for layer in layers])
        first = layers[0]
        if isinstance(first, Scale):
            return Scale(stacked)
        return dataclasses.replace(first, weight=stacked, groups=first.groups * len(layers))

    def forward(self, vectors: Tensor) -> Tensor:
        """M v of each, ``(n, d_in)`` to ``(n, d_out)``."""
        x = vectors.reshape(1, -1, *self.sizes[0])
        for layer in self.layers:
            if isinstance(layer, Scale):
                x = x * layer.factors[:, None, None]
            else:
                x = F.conv2d(x, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        return x.reshape(len(vectors), -1)

    def adjoint(self, vectors: Tensor) -> Tensor:
        """Mᵀ u of each, ``(n, d_out)`` to ``(n, d_in)``."""
        x = vectors.reshape(1, -1, *self.sizes[-1])
        for layer, size in zip(reversed(self.layers), reversed(self.sizes[:-1]), strict=True):
            x = x * layer.factors[:, None, None] if isinstance(layer, Scale) else _transposed(layer, x, size)
        return x.reshape(len(vectors), -1)


def _transposed(layer: Convolution, x: Tensor, size: Pair) -> Tensor:
    """The convolution's transpose, onto an input of ``size``."""
    # rows and columns at the end that a stride does not reach
    beyond = tuple(
        n - ((x.shape[2 + i] - 1) * s - 2 * p + d * (layer.weight.shape[2 + i] - 1) + 1)
        for i, (n, s, p, d) in enumerate(zip(size, layer.stride, layer.padding, layer.dilation, strict=True))
    )
    # output_padding must be smaller than stride or dilation; what no window reads at all is 0 anyway
    within = tuple(min(b, max(s, d) - 1) for b, s, d in zip(beyond, layer.stride, layer.dilation, strict=True))
    x = F.conv_transpose2d(x, layer.weight, None, layer.stride, layer.padding, within, layer.groups, layer.dilation)
    return x if within == beyond else F.pad(x, (0, beyond[1] - within[1], 0, beyond[0] - within[0]))


def _tensor(layer: Layer) -> Tensor:
    return layer.factors if isinstance(layer, Scale) else layer.weight


def _matrix_norms(maps: Sequence[LinearMap]) -> list[float]:
    """Exact norms of maps without neighbours, in double precision."""
    if all(isinstance(layer, Scale) for layer in maps[0].layers):
        products = [torch.stack([_tensor(layer).double() for layer in one.layers]).prod(0) for one in maps]
        return torch.stack(products).abs().amax(1).tolist()
    product = None
    for layers in zip(*(one.layers for one in maps), strict=True):
        stacked = torch.stack([_tensor(layer).double() for layer in layers])
        if isinstance(layers[0], Scale):
            product = torch.diag_embed(stacked) if product is None else stacked.unsqueeze(2) * product
        else:
            matrices = stacked.flatten(2)
            product = matrices if product is None else matrices @ product
    assert product is not None
    return torch.linalg.matrix_norm(product, ord=2).tolist()
