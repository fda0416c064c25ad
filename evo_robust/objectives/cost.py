"""The cost of a network: operations under three counting rules, and parameters."""

from __future__ import annotations

import copy
import math
import numbers
import warnings
from typing import Any, ClassVar, Literal, get_args

import chz
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from evo_robust.inference.checks import check_network, ordinary_mode
from evo_robust.objectives.base import Candidate, Objective
from evo_robust.parts.base import Shape
from evo_robust.training.weights import untrained

CountingRule = Literal["thop", "macs", "nsga"]

_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_NORMALIZATIONS = (nn.modules.batchnorm._BatchNorm,)
_POOLS = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
)


@chz.chz
class Flops(Objective):
    """Multiply-accumulates of one image's forward pass, under a named rule."""

    needs_weights: ClassVar[bool] = False

    rule: CountingRule = chz.field(
        default="thop",
        doc="thop (as the thop library counts: BN and average pools too), macs (only matrix products and "
        "convolutions) or nsga (NSGA-Net's rule: BN, ReLU and pools too)",
    )

    @chz.validate
    def _known_rule(self) -> None:
        _check_rule(self.rule)

    @property
    def unit(self) -> str:
        """The unit, with the counting rule."""
        return f"operations counted by {self.rule}"

    @property
    def short_unit(self) -> str:
        """The rule's name."""
        return self.rule

    def measure(self, candidate: Candidate) -> float:
        """MACs of the candidate's network."""
        if self.rule == "thop" and "flops" in candidate.figures:  # evaluators record this count for every candidate
            return float(candidate.figures["flops"])
        return float(count_flops(_network(candidate), candidate.context.data.in_shape, self.rule))


@chz.chz
class Params(Objective):
    """Number of parameters."""

    needs_weights: ClassVar[bool] = False

    @property
    def unit(self) -> str:
        """Parameters."""
        return "parameters"

    def measure(self, candidate: Candidate) -> float:
        """Parameters of the candidate's network."""
        return float(count_params(_network(candidate)))


def count_params(model: nn.Module) -> int:
    """Number of parameters. Shared ones count once, and buffers (such as running statistics) do not count.

    Example:
        >>> count_params(nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, in_shape: Shape, rule: CountingRule = "thop") -> int:
    """Operations of the forward pass of one image ``(c, h, w)`` in eval mode; the model is not changed.

    Args:
        model: any module from images ``(n, c, h, w)``.
        in_shape: shape of one image.
        rule: ``thop``: MACs of convolutions and linear layers, 2 per BN element, average pools; only modules.
            ``macs``: MACs of every matrix product and convolution, functional ones too (torch's flop counter).
            ``nsga`` (NSGA-Net): MACs of convolutions (and their bias) and linear layers, 2 per BN element, 1 per
            ReLU element and per pooled input element; only modules.

    Raises:
        ValueError: the rule is unknown, or ``in_shape`` is not the shape of an image.

    Example:
        >>> count_flops(nn.Conv2d(1, 4, 3), (1, 8, 8), "macs")
        1296
    """
    _check_rule(rule)
    check_network(model)
    if len(in_shape) != 3 or not all(isinstance(side, numbers.Integral) and side >= 1 for side in in_shape):
        raise ValueError(f"expected in_shape (channels, height, width), each >= 1, got {tuple(in_shape)}")
    rules = {"thop": _count_thop, "macs": _count_macs, "nsga": _count_nsga}
    # hooks, buffers and modes go to a copy, so that the model itself is not changed
    replica = copy.deepcopy(model).eval()
    reference = next(iter(replica.parameters()), torch.empty(0))
    image = torch.zeros(1, *in_shape, dtype=reference.dtype, device=reference.device)
    # the flop counter sees no operations in inference mode
    with ordinary_mode(), torch.no_grad():
        return rules[rule](replica, image)


def _check_rule(rule: str) -> None:
    if rule not in get_args(CountingRule):
        raise ValueError(f"expected rule thop, macs or nsga, got {rule!r}")


def _count_thop(model: nn.Module, image: Tensor) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # thop uses distutils to read torch's version
        import thop
    return int(thop.profile(model, inputs=(image,), verbose=False)[0])


def _count_macs(model: nn.Module, image: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(image)
    return counter.get_total_flops() // 2


def _count_nsga(model: nn.Module, image: Tensor) -> int:
    total = 0

    def add(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        total += _nsga_operations(module, inputs[0], output)

    for module in model.modules():
        module.register_forward_hook(add)
    model(image)
    return total


def _nsga_operations(module: nn.Module, x: Any, y: Any) -> int:
    """Operations of one leaf module under NSGA-Net's rule; 0 for other kinds of modules."""
    if isinstance(module, _CONVOLUTIONS):
        per_element = x.numel() if module.transposed else y.numel()
        channels = module.out_channels if module.transposed else module.in_channels
        macs = per_element * (channels // module.groups) * math.prod(module.kernel_size)
        return macs + (y.numel() if module.bias is not None else 0)
    if isinstance(module, nn.Linear):
        return y.numel() * module.in_features
    if isinstance(module, _NORMALIZATIONS):
        return 2 * y.numel()
    if isinstance(module, nn.ReLU):
        return y.numel()
    if isinstance(module, _POOLS):
        return x.numel()
    return 0


def _network(candidate: Candidate) -> nn.Module:
    """The candidate's network, or a new one on the CPU where it has none yet."""
    if candidate.model is not None:
        return candidate.model
    data = candidate.context.data
    with untrained():
        return candidate.context.space.build(candidate.architecture, data.n_classes, data.in_shape).eval()
