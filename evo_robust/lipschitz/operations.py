"""Lipschitz constants (L2) of operations: how much further apart an operation can bring two inputs.

Constants are those of eval mode: batch normalisation multiplies by γ/√(var + eps) with its running variance. A chain of
modules is cut into linear maps and other modules between them. Its constant is the product of theirs, under one of
three rules:

- ``joint`` (default): all that is linear between two non-linearities is one map, such as depthwise convolution, 1×1
  convolution and batch normalisation, at the size of its real input. A valid bound, and the tightest of the three.
- ``layers``: every convolution by itself, times the largest |γ|/√(var + eps) of each batch normalisation. Valid too.
- ``paper`` (RACL, Dong et al., 2020): convolutions by themselves, without batch normalisation; average pooling S^(−1/2)
  (we read S as the stride; the paper does not say), max pooling 1, skip connections 1 at every stride. This is no valid
  bound: with overlapping windows a max pool can triple a distance, and a skip connection of stride 2 is a pair of
  convolutions. Where the same pair prepares a cell's input, it counts as convolutions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import nn

from evo_robust.lipschitz.linear import Convolution, Layer, LinearMap, Pair, Scale, SpectralNorms
from evo_robust.parts.base import Shape
from evo_robust.spaces.cells.ops import FactorizedReduce
from evo_robust.spaces.ops import Normalize

ConstantRule = Literal["joint", "layers", "paper"]
"""How constants of operations are made up; see the module."""


@dataclasses.dataclass(frozen=True)
class Factor:
    """A module that is not linear, or whose constant is known.

    Attributes:
        constant: its Lipschitz constant, or a bound of it.
        paper: what the paper takes for it.
    """

    constant: float = 1.0
    paper: float = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Widest:
    """Linear maps that read and write different numbers, side by side: the largest norm counts.

    Attributes:
        maps: at least one.
        paper: what the paper takes for them as an operation on an edge.
    """

    maps: tuple[LinearMap, ...]
    paper: float = 1.0

    def bare(self) -> tuple[LinearMap, ...]:
        """The maps without batch normalisation."""
        return tuple(
            LinearMap(tuple(layer for layer in one.layers if not isinstance(layer, Scale)), one.shape)
            for one in self.maps
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One part of an operation.

    Attributes:
        part: what it does.
        shape: ``(c, h, w)`` of its input.
        normalization: whether it is batch normalisation, which the paper leaves out.
    """

    part: Layer | Factor | Widest
    shape: Shape
    normalization: bool = False


Steps = tuple[list[Step], Shape]
"""The parts of a module in order, and the shape of its output."""


@dataclasses.dataclass(frozen=True, eq=False)
class OperationConstants:
    """What the constant of an operation is the product of.

    Attributes:
        known: product of what needs no computing.
        maps: linear maps; of each inner tuple the largest norm counts.
    """

    known: float
    maps: tuple[tuple[LinearMap, ...], ...]


def lipschitz_constant(
    module: nn.Module, in_shape: Shape, rule: ConstantRule = "joint", norms: SpectralNorms | None = None
) -> float:
    """Lipschitz constant (L2) of a module: a chain of operations of torch or of the spaces.

    ``paper`` is RACL's rule (Dong et al., 2020), the others are valid; see this file's first lines.

    Args:
        module: such as ``SepConv``, ``nn.AvgPool2d``, an ``nn.Sequential`` of such, taken as an operation on an edge.
        in_shape: ``(c, h, w)`` of its input.
        rule: ``joint``, ``layers`` or ``paper``.
        norms: how spectral norms are found; certified bounds when not given.

    Raises:
        ValueError: the module's constant is not known, or it takes no such input.
    """
    operation, _ = operation_of([module], in_shape, rule)
    return math.exp(log_constants([operation], norms or SpectralNorms())[0])


def log_constants(operations: Sequence[OperationConstants], norms: SpectralNorms) -> list[float]:
    """Natural logarithms of the constants, -inf of an operation that puts out the same for every input.

    All linear maps of all operations are computed together, so that those of one kind share the work.
    """
    maps = [one for operation in operations for group in operation.maps for one in group]
    try:
        found = iter(norms(maps))
    except (torch.linalg.LinAlgError, ValueError) as error:
        raise ValueError(f"expected finite weights, of which singular values can be found: {error}") from error
    return [
        _log(operation.known) + sum(_log(max(next(found) for _ in group)) for group in operation.maps)
        for operation in operations
    ]


def operation_of(
    modules: Sequence[nn.Module], in_shape: Shape, rule: ConstantRule, *, on_edge: bool = True
) -> tuple[OperationConstants, Shape]:
    """What the constant of a chain of modules is made up of, and the shape of its output.

    Args:
        modules: applied one after the other.
        in_shape: ``(c, h, w)`` of the input.
        rule: see the module.
        on_edge: whether the chain is an operation on an edge, where ``paper`` takes ``FactorizedReduce`` for a skip
            connection; elsewhere it is a convolution, as ``PointConv`` is in the same place at stride 1.

    Raises:
        ValueError: a module's constant is not known, it takes no such input, or the rule is unknown.
    """
    if rule not in get_args(ConstantRule):
        raise ValueError(f"expected rule joint, layers or paper of Lipschitz constants, got {rule!r}")
    if len(in_shape) != 3 or min(in_shape) < 1:
        raise ValueError(f"expected in_shape (channels, height, width), each >= 1, got {tuple(in_shape)}")
    steps, shape = _chain(modules, in_shape)
    known, groups = 1.0, []
    run: list[tuple[Layer, Shape]] = []
    for step in steps:
        if rule == "paper" and step.normalization:
            continue
        if isinstance(step.part, (Convolution, Scale)):
            run.append((step.part, step.shape))
            if rule == "joint":
                continue
        groups += _close(run)
        if isinstance(step.part, Factor):
            known *= step.part.paper if rule == "paper" else step.part.constant
        elif isinstance(step.part, Widest) and rule == "paper" and on_edge:
            known *= step.part.paper
        elif isinstance(step.part, Widest):
            groups.append(step.part.bare() if rule == "paper" else step.part.maps)
    return OperationConstants(known, (*groups, *_close(run))), shape


def _close(run: list[tuple[Layer, Shape]]) -> list[tuple[LinearMap, ...]]:
    """The linear layers gathered so far as one map, if there are any; they are gathered no more."""
    if not run:
        return []
    joined = LinearMap(tuple(layer for layer, _ in run), run[0][1])
    run.clear()
    return [(joined,)]


def _chain(modules: Sequence[nn.Module], shape: Shape) -> Steps:
    steps: list[Step] = []
    for module in modules:
        more, shape = steps_of(module, shape)
        steps += more
    return steps, shape


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


# --- what modules are made of ---------------------------------------------------------------------------------------


@functools.singledispatch
def steps_of(module: nn.Module, shape: Shape) -> Steps:
    """The parts of a module for an input ``(c, h, w)``. For modules of your own: ``steps_of.register``."""
    raise ValueError(
        f"expected operations of known Lipschitz constant (convolutions, batch normalisation, poolings, linear layers "
        f"and what is made of them), got {type(module).__name__}; steps_of.register makes one known"
    )


@steps_of.register
def _sequential(module: nn.Sequential, shape: Shape) -> Steps:
    return _chain(list(module), shape)


@steps_of.register(nn.Identity)
@steps_of.register(nn.ReLU)
@steps_of.register(nn.ReLU6)
@steps_of.register(nn.Dropout)
@steps_of.register(nn.Dropout2d)
def _contraction(module: nn.Module, shape: Shape) -> Steps:
    return [Step(Factor(), shape)], shape


@steps_of.register
def _flatten(module: nn.Flatten, shape: Shape) -> Steps:
    return [], (math.prod(shape), 1, 1)


@steps_of.register
def _normalize(module: Normalize, shape: Shape) -> Steps:
    return [Step(Scale(1 / module.std.flatten()), shape)], shape


@steps_of.register
def _convolution(module: nn.Conv2d, shape: Shape) -> Steps:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise ValueError(f"expected convolutions with a number of zeros as padding, got {module}")
    if shape[0] != module.in_channels:
        raise ValueError(f"expected an input of {module.in_channels} channels for {module}, got {shape[0]}")
    layer = Convolution(
        module.weight, _pair(module.stride), _pair(module.padding), _pair(module.dilation), module.groups
    )
    return [Step(layer, shape)], layer.out_shape(shape)


@steps_of.register
def _linear(module: nn.Linear, shape: Shape) -> Steps:
    if math.prod(shape) != module.in_features:
        raise ValueError(f"expected an input of {module.in_features} numbers for {module}, got {math.prod(shape)}")
    layer = Convolution(module.weight[:, :, None, None])
    return [Step(layer, (module.in_features, 1, 1))], (module.out_features, 1, 1)


@steps_of.register
def _batch_norm(module: nn.BatchNorm2d, shape: Shape) -> Steps:
    return [Step(_batch_scale(module), shape, normalization=True)], shape


def _batch_scale(module: nn.BatchNorm2d, channels: slice = slice(None)) -> Scale:
    """γ/√(var + eps) of some channels, with the running variance."""
    if module.running_var is None:
        raise ValueError(f"expected batch normalisation with running statistics, got {module}")
    factors = (module.running_var + module.eps).rsqrt()
    return Scale((factors if module.weight is None else factors * module.weight)[channels])


@steps_of.register
def _factorized_reduce(module: FactorizedReduce, shape: Shape) -> Steps:
    """Its convolutions read different pixels and write different channels: the larger norm is that of both."""
    height, width = shape[1:]
    branches = [(module.straight, slice(module.straight.out_channels))]
    if module.shifted is not None and min(height, width) > 1:  # of a single row or column it sees padding alone
        branches.append((module.shifted, slice(module.straight.out_channels, None)))
    maps = tuple(
        LinearMap((Convolution(branch.weight), _batch_scale(module.norm, channels)), (shape[0], 1, 1))
        for branch, channels in branches
    )
    return [Step(Widest(maps), shape)], (module.norm.num_features, (height + 1) // 2, (width + 1) // 2)


# --- pooling --------------------------------------------------------------------------------------------------------


@steps_of.register
def _max_pool(module: nn.MaxPool2d, shape: Shape) -> Steps:
    sides = [
        _windows(n, k, s, p, d, module.ceil_mode)
        for n, k, s, p, d in zip(
            shape[1:],
            _pair(module.kernel_size),
            _pair(module.stride),
            _pair(module.padding),
            _pair(module.dilation),
            strict=True,
        )
    ]
    return _largest(shape, sides)


@steps_of.register
def _adaptive_max_pool(module: nn.AdaptiveMaxPool2d, shape: Shape) -> Steps:
    return _largest(shape, [_bins(n, m) for n, m in zip(shape[1:], _sizes(module.output_size, shape), strict=True)])


def _largest(shape: Shape, sides: Sequence[Sequence[range]]) -> Steps:
    """Max pooling over windows along rows and columns: √(number of windows that a pixel is in, at most).

    Each maximum moves no further than one pixel of its window. But one pixel can move all maxima whose windows hold it:
    three times as far for overlapping 3×3 windows of stride 1, twice for stride 2.
    """
    overlap = math.prod(
        max(sum(pixel in window for window in windows) for pixel in range(n))
        for n, windows in zip(shape[1:], sides, strict=True)
    )
    return [Step(Factor(math.sqrt(overlap), paper=1.0), shape)], (shape[0], len(sides[0]), len(sides[1]))


@steps_of.register
def _average_pool(module: nn.AvgPool2d, shape: Shape) -> Steps:
    constant, sizes = 1.0, []
    strides = _pair(module.stride)
    for n, k, s, p in zip(shape[1:], _pair(module.kernel_size), strides, _pair(module.padding), strict=True):
        windows = _windows(n, k, s, p, 1, module.ceil_mode)
        weights = [1.0 / len(window) for window in windows]
        if module.divisor_override is not None:
            weights = [1.0] * len(windows)
        elif module.count_include_pad:
            weights = [1.0 / (min(i * s - p + k, n + p) - (i * s - p)) for i in range(len(windows))]
        constant *= _averaging_norm(n, tuple(windows), tuple(weights))
        sizes.append(len(windows))
    constant /= module.divisor_override or 1
    return [Step(Factor(constant, paper=max(strides) ** -0.5), shape)], (shape[0], sizes[0], sizes[1])


@steps_of.register
def _adaptive_average_pool(module: nn.AdaptiveAvgPool2d, shape: Shape) -> Steps:
    """To one pixel: 1/√(h·w). The paper does not speak of it, so that its constant is this under every rule."""
    constant, sizes = 1.0, _sizes(module.output_size, shape)
    for n, m in zip(shape[1:], sizes, strict=True):
        windows = tuple(_bins(n, m))
        constant *= _averaging_norm(n, windows, tuple(1.0 / len(window) for window in windows))
    return [Step(Factor(constant, paper=constant), shape)], (shape[0], sizes[0], sizes[1])


@functools.lru_cache(maxsize=256)
def _averaging_norm(n: int, windows: tuple[range, ...], weights: tuple[float, ...]) -> float:
    """Exact norm of weighted sums over windows of n numbers; that of an image is rows' times columns'."""
    matrix = torch.zeros(len(windows), n, dtype=torch.float64)
    for row, (window, weight) in enumerate(zip(windows, weights, strict=True)):
        matrix[row, window.start : window.stop] = weight
    return torch.linalg.matrix_norm(matrix, ord=2).item()


def _windows(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> list[range]:
    """Pixels of a row of n that each window of a pooling sees, padding left out."""
    reach = dilation * (kernel - 1) + 1
    rounded: Callable[[float], int] = math.ceil if ceil else math.floor
    count = rounded((n + 2 * padding - reach) / stride) + 1
    if ceil and (count - 1) * stride >= n + padding:  # a last window would see padding alone
        count -= 1
    if count < 1:
        raise ValueError(f"expected an input of at least {reach - 2 * padding} pixels a side for a pooling, got {n}")
    found = []
    for start in range(-padding, count * stride - padding, stride):
        first = start if start >= 0 else start + dilation * math.ceil(-start / dilation)
        found.append(range(first, min(start + reach, n), dilation))
    return found


def _bins(n: int, m: int) -> list[range]:
    """Pixels of a row of n that adaptive pooling to m sees."""
    return [range(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]


def _sizes(size: int | tuple[int | None, ...] | None, shape: Shape) -> Pair:
    """Rows and columns that adaptive pooling puts out; None keeps the input's."""
    rows, columns = size if isinstance(size, tuple) else (size, size)
    return (shape[1] if rows is None else rows, shape[2] if columns is None else columns)


def _pair(value: int | tuple[int, ...]) -> Pair:
    return (value[0], value[1]) if isinstance(value, tuple) else (value, value)
