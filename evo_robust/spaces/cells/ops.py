"""Operations and stems for all networks of cells.

Keep this module to torch: ``export`` copies what it needs of it into stand-alone files.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn


class SepConv(nn.Sequential):
    """Separable convolution twice, without its first ReLU: DW(stride)–PW–BN–ReLU–DW–PW–BN."""

    def __init__(self, channels: int, stride: int, kernel: int = 3, affine: bool = False) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels, affine=affine),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, kernel, 1, kernel // 2, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels, affine=affine),
        )


class PointConv(nn.Sequential):
    """1×1 convolution – BN; the caller applies the ReLU before it."""

    def __init__(self, before: int, channels: int, affine: bool = False) -> None:
        super().__init__(nn.Conv2d(before, channels, 1, bias=False), nn.BatchNorm2d(channels, affine=affine))


class FactorizedReduce(nn.Module):
    """Two 1×1 convolutions of stride 2, one shifted by a pixel, concatenated – BN; the caller applies the ReLU."""

    def __init__(self, before: int, channels: int, affine: bool = False) -> None:
        super().__init__()
        self.straight = nn.Conv2d(before, channels - channels // 2, 1, 2, bias=False)
        # torch warns of convolutions without output channels
        self.shifted = nn.Conv2d(before, channels // 2, 1, 2, bias=False) if channels > 1 else None
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Output of half the size, rounded up: ``(n, channels, ⌈h/2⌉, ⌈w/2⌉)``."""
        if self.shifted is None:
            return self.norm(self.straight(x))
        # only odd sizes read the added line of zeros
        beyond = F.pad(x, (-1, 1, -1, 1))
        return self.norm(torch.cat((self.straight(x), self.shifted(beyond)), 1))


def small_stem(in_channels: int, channels: int) -> tuple[nn.Module, nn.Module | None]:
    """3×3 convolution to 3·C channels – BN, no ReLU (CIFAR); it feeds both inputs of the first cell."""
    convolution = nn.Conv2d(in_channels, 3 * channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(3 * channels)), None


def large_stems(in_channels: int, channels: int) -> tuple[nn.Module, nn.Module | None]:
    """Two convolutions of stride 2, and a third after them (ImageNet)."""
    half = max(1, channels // 2)
    first = nn.Sequential(
        *(nn.Conv2d(in_channels, half, 3, 2, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True)),
        *(nn.Conv2d(half, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels)),
    )
    second = nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels))
    return first, second
