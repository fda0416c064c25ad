"""Feature denoising (Xie et al., CVPR 2019): blocks that filter feature maps, after chosen stages or cells."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from evo_robust.parts.base import Shape, nearest

Filter = Literal["dot-product", "gaussian", "mean", "median"]

EVERY = ("stages", "cells")
"""Words for all stages, and for all cells."""


class DenoisingBlock(nn.Module):
    """The input plus a 1×1 convolution – BN of the filtered input.

    The scale of BN starts at zero, as in the public code, so a fresh block changes nothing.

    Args:
        channels: channels of the feature maps.
        kind: the filter. ``dot-product``: y_i = 1/N Σ_j (x_i·x_j) x_j over all N pixels. ``gaussian``: the mean of all
            x_j, weighted by softmax_j(θ(x_i)·φ(x_j)/√d), where θ and φ are 1×1 convolutions to d = channels/2. ``mean``
            and ``median``: of 3×3 pixels, channel by channel; what lies outside is left out, or repeats the border.
    """

    def __init__(self, channels: int, kind: Filter) -> None:
        super().__init__()
        self.filter = FILTERS[kind](channels)
        self.mix = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps of the shape of ``x``, ``(n, channels, h, w)``."""
        return x + self.norm(self.mix(self.filter(x)))


class DotProduct(nn.Module):
    """Non-local mean whose weights are products x_i·x_j / N."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Filtered maps of the same shape. The products of channels come first: N² weights need not be stored."""
        flat = x.flatten(2)
        products = flat @ flat.transpose(1, 2) / flat.shape[2]
        return (products @ flat).view_as(x)


class Gaussian(nn.Module):
    """Non-local mean whose weights are a softmax of products of embedded pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = max(1, channels // 2)
        self.theta, self.phi = nn.Conv2d(channels, half, 1), nn.Conv2d(channels, half, 1)
        self.scale = half**-0.5

    def forward(self, x: Tensor) -> Tensor:
        """Filtered maps of the same shape. It stores N² weights per image."""
        theta, phi = self.theta(x).flatten(2), self.phi(x).flatten(2)
        weights = (theta.transpose(1, 2) @ phi * self.scale).softmax(2)
        return (x.flatten(2) @ weights.transpose(1, 2)).view_as(x)


class Mean(nn.AvgPool2d):
    """Mean of the pixels of a 3×3 window that lie inside."""

    def __init__(self, channels: int) -> None:
        super().__init__(3, stride=1, padding=1, count_include_pad=False)


class Median(nn.Module):
    """Median of a 3×3 window; pixels outside repeat the border."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Filtered maps of the same shape."""
        windows = F.unfold(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3)
        return windows.unflatten(1, (x.shape[1], 9)).median(2).values.view_as(x)


FILTERS: Mapping[str, type[DotProduct] | type[Gaussian] | type[Mean] | type[Median]] = {
    "dot-product": DotProduct,
    "gaussian": Gaussian,
    "mean": Mean,
    "median": Median,
}
"""Filters by name."""


class Denoised(nn.Module):
    """A part of a network, and a block that denoises what it puts out. None, which means zero, stays None."""

    def __init__(self, inner: nn.Module, block: DenoisingBlock) -> None:
        super().__init__()
        self.inner, self.block = inner, block

    def forward(self, *inputs: Tensor) -> Tensor | None:
        """The denoised output of the part, ``(n, channels, h, w)``; None where it puts out None."""
        out = self.inner(*inputs)
        return None if out is None else self.block(out)


def put_blocks(
    network: nn.Module, kind: Filter, after: Sequence[str], stages: Sequence[str], cells: Sequence[str], in_shape: Shape
) -> None:
    """Put blocks into a network. Its own weights stay as they are; those of the blocks come from torch's generator.

    Args:
        network: changed in place.
        kind: the filter of all blocks.
        after: places such as ``stage-1`` and ``cell-0``, or ``stages``, or ``cells``.
        stages: dotted names of the modules with which stages end, the first one ``stage-1``.
        cells: dotted names of the cells, the first one ``cell-0``.
        in_shape: ``(c, h, w)`` of the images.

    Raises:
        ValueError: there is no such place, or it puts out nothing that could be denoised.
    """
    places = {f"stage-{number}": name for number, name in enumerate(stages, 1)}
    places |= {f"cell-{number}": name for number, name in enumerate(cells)}
    chosen: dict[str, str] = {}  # a place by the dotted name, for a stage ends with a cell
    for place in after:
        meant = [p for p in places if p.startswith(f"{place[:-1]}-")] if place in EVERY else [place]
        if not meant or meant[0] not in places:
            raise ValueError(
                f"expected denoise_after among {_known(stages, cells)}, got {place!r}{_hint(place, places)}"
            )
        chosen |= {places[p]: p for p in meant}
    for name, channels in _channels(network, chosen, in_shape).items():
        parent, _, last = name.rpartition(".")
        block = Denoised(network.get_submodule(name), DenoisingBlock(channels, kind))
        setattr(network.get_submodule(parent), last, block)


def _known(stages: Sequence[str], cells: Sequence[str]) -> str:
    """The places in words."""
    words = ["stages", f"stage-1 to stage-{len(stages)}"] if stages else []
    words += ["cells", f"cell-0 to cell-{len(cells) - 1}"] if cells else []
    return ", ".join(words) or "none, since this network has neither stages nor cells"


def _hint(place: str, places: Mapping[str, str]) -> str:
    hint = nearest(place, [*EVERY, *places])
    return f": {hint}" if hint.startswith("did you mean") else ""


def _channels(network: nn.Module, chosen: Mapping[str, str], in_shape: Shape) -> dict[str, int]:
    """Channels that the chosen modules put out, in the order of the network."""
    found: dict[str, int] = {}
    parts = [(name, part) for name, part in network.named_modules() if name in chosen]
    hooks = [part.register_forward_hook(functools.partial(_note, found, name)) for name, part in parts]
    device, training = next(network.parameters()).device, network.training
    with torch.no_grad():
        network.eval()(torch.zeros(1, *in_shape, device=device))
    network.train(training)
    for hook in hooks:
        hook.remove()
    for name, place in chosen.items():
        if name not in found:
            raise ValueError(f"expected denoise_after a part that puts something out, got {place}, which is empty")
    return found


def _note(found: dict[str, int], name: str, _: nn.Module, inputs: object, out: Tensor | None) -> None:
    if out is not None:
        found[name] = out.shape[1]
