"""The operations of DARTS (Liu et al., ICLR 2019, §3.1), by name.

Keep this module to torch: ``export`` copies what it needs of it into stand-alone files.
"""

from __future__ import annotations

from torch import nn

from evo_robust.spaces.cells.ops import FactorizedReduce, SepConv


class DilConv(nn.Sequential):
    """Dilated separable convolution, without its ReLU: DW(stride, dilation 2)–PW–BN."""

    def __init__(self, channels: int, stride: int, kernel: int, affine: bool = False) -> None:
        depthwise = nn.Conv2d(channels, channels, kernel, stride, kernel - 1, dilation=2, groups=channels, bias=False)
        super().__init__(
            depthwise, nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels, affine=affine)
        )


def operation(name: str, channels: int, stride: int, final: bool) -> nn.Module:
    """The operation ``name`` from (n, ``channels``, h, w) to (n, ``channels``, ⌈h/stride⌉, ⌈w/stride⌉).

    Operations for which ``is_rectified`` holds expect input after a ReLU, which the caller applies.

    Args:
        name: one of ``codec.OPERATIONS`` except ``none``.
        channels: number of channels.
        stride: 1 or 2.
        final: affine batch normalisation, and none after pools (final training). Otherwise it is not affine.

    Raises:
        KeyError: there is no such operation.
    """
    kind, _, size = name.rpartition("_")
    kernel = int(size[0]) if size[0].isdigit() else 0
    if kind == "sep_conv":
        return SepConv(channels, stride, kernel, final)
    if kind == "dil_conv":
        return DilConv(channels, stride, kernel, final)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, final)
    pool = _POOLS[kind](kernel, stride)
    return pool if final else nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False))


def _max_pool(kernel: int, stride: int) -> nn.Module:
    return nn.MaxPool2d(kernel, stride, kernel // 2)


def _average_pool(kernel: int, stride: int) -> nn.Module:
    return nn.AvgPool2d(kernel, stride, kernel // 2, count_include_pad=False)


_POOLS = {"max_pool": _max_pool, "avg_pool": _average_pool}


def is_rectified(module: nn.Module) -> bool:
    """Whether an operation expects a ReLU before it, which a node computes once for all edges that leave it."""
    return isinstance(module, (SepConv, DilConv, FactorizedReduce))
