"""Reference networks and published genotypes, by name.

Every network takes images in [0,1] of any size from 8×8 up and normalises inside. Sizes, at ``width=1``:

=============== ============================================================================================
``lenet``       LeNet-5 (LeCun et al. 1998) with ReLU and max pooling: 6-16 channels, 120-84 hidden units
``resnet``      ResNet-20 (He et al. 2016, section 4.2): 16-32-64 channels, three basic blocks each
``resnet-18``   64-128-256-512 channels, two basic blocks each
``resnet-50``   the same widths in bottleneck blocks, 3-4-6-3 of them
``densenet``    DenseNet-BC of 40 layers (Huang et al. 2017): growth 12, three blocks of six layers
``densenet-121`` growth 32, blocks of 6, 12, 24 and 16 layers
``vgg-16``      13 convolutions of 64 to 512 channels with batch normalisation, global pooling, one linear layer
=============== ============================================================================================

Genotypes that papers published, found by their searches:

==================== =======================================================================================
``robnet-small``     RobNet (Guo et al. 2020): 20 cells that share one α, 36 channels; 4.41M with 100 classes
``robnet-large``     the same with more operations: 6.89M
``robnet-large-v2``  the large cell, 33 times, 64 channels: 33.42M
``robnet-free``      20 cells, each with an α of its own, 36 channels: 5.49M
``darts-v1``         DARTS, first order (Liu et al. 2019): 20 cells, 36 channels; 3.17M with 10 classes, as below
``darts-v2``         DARTS, second order: 3.35M
``pc-darts``         PC-DARTS (Xu et al. 2020): 3.63M
``racl``             RACL (Dong et al. 2020): 3.57M
``advrush``          AdvRush (Mok et al. 2021): 4.16M
``pvll``             PVLL (Li et al. 2020): 3.51M
``wsr-basic``        Wsr-NAS Basic, which is Robust's too (Cheng et al. 2023), 45 channels: 4.54M
``wsr-plus``         Wsr-NAS Plus, 46 channels: 4.74M
==================== =======================================================================================

Blocks and layers of the reference networks are torchvision's. Up to 64×64 pixels residual and dense networks begin with
one 3×3 convolution of stride 1 (the usual stem for CIFAR); above, with torchvision's 7×7 stem, published genotypes with
three convolutions of stride 2. Poolings of VGG-16 that would leave nothing of a small image are left out (two on 8×8
digits). ``width`` multiplies the channels, for images that need no more; LeNet, small as it is, is never narrowed.
"""

from __future__ import annotations

import math
import numbers
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from evo_robust.parts.base import nearest
from evo_robust.spaces.darts import genotypes as darts_genotypes
from evo_robust.spaces.darts.space import DARTS
from evo_robust.spaces.ops import Normalize
from evo_robust.spaces.robnet import genotypes as robnet_genotypes
from evo_robust.spaces.robnet.space import RobNet

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck

# torchvision.models takes seconds to import, and every worker process would: the builders import what they need

Shape = tuple[int, int, int]
Builder = Callable[[int, Shape, float], nn.Module]

SMALL_SIDE = 64
"""Largest image side, in pixels, that gets the 3×3 stem without pooling."""

MIN_SIDE = 8
"""Smallest image side, in pixels."""


def names() -> tuple[str, ...]:
    """Names that ``build`` knows, sorted."""
    return tuple(sorted(_BUILDERS))


def check_name(name: str) -> None:
    """Raise ``ValueError`` with the nearest name where the zoo has no network ``name``."""
    if name not in _BUILDERS:
        raise ValueError(f"expected the name of a network in the zoo, got {name!r}: {nearest(name, _BUILDERS)}")


def build(name: str, n_classes: int = 10, in_shape: Shape = (3, 32, 32), *, width: float = 1.0) -> nn.Module:
    """Untrained network from images ``(n, *in_shape)`` in [0,1] to logits ``(n, n_classes)``; it normalises inside.

    Args:
        name: one of ``names()``.
        n_classes: number of classes, ≥ 2.
        in_shape: channels, height and width of the images, at least 8×8 pixels.
        width: multiplies the number of channels, > 0.

    Raises:
        ValueError: the zoo has no such network, or the other arguments are wrong.

    Example:
        >>> sum(p.numel() for p in build("lenet", in_shape=(1, 28, 28)).parameters())
        61706
    """
    check_name(name)
    whole = all(isinstance(side, numbers.Integral) for side in in_shape)
    if not whole or len(in_shape) != 3 or in_shape[0] < 1 or min(in_shape[1:]) < MIN_SIDE:
        raise ValueError(f"expected in_shape (channels, height, width), sides >= {MIN_SIDE}, got {in_shape}")
    if not isinstance(n_classes, numbers.Integral) or n_classes < 2 or not 0 < width < math.inf:
        raise ValueError(f"expected n_classes >= 2 and width > 0 and finite, got {n_classes} and {width}")
    return _BUILDERS[name](n_classes, in_shape, width)


def _normalised(body: Builder) -> Builder:
    """A builder of networks that normalise their input, from a builder of networks for normalised images."""

    def builder(n_classes: int, in_shape: Shape, width: float) -> nn.Module:
        layers = OrderedDict(normalize=Normalize(in_shape[0]), body=body(n_classes, in_shape, width))
        return nn.Sequential(layers)

    return builder


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _stem(channels: int, out: int, small: bool) -> nn.Conv2d:
    kernel, stride = (3, 1) if small else (7, 2)
    return nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)


def _is_small(in_shape: Shape) -> bool:
    return max(in_shape[1:]) <= SMALL_SIDE


def _lenet(n_classes: int, in_shape: Shape, width: float) -> nn.Module:
    """LeNet-5; images below 32 pixels are padded as far as it takes to keep their size."""
    channels, *sides = in_shape
    a, b, c, d = (_scaled(n, max(1.0, width)) for n in (6, 16, 120, 84))
    # 28×28 digits are padded to the 32×32 of the original; the second convolution shrinks unless the image is tiny
    first, second = (0 if min(sides) >= 32 else 2), (0 if min(sides) >= 28 else 2)
    # 10×10 before the last pooling, so 5×5 after it, on 28×28 and 32×32 images alike
    grid = [min(5, (side - 4 + 2 * first) // 2 // 2) for side in sides]
    return nn.Sequential(
        *(nn.Conv2d(channels, a, 5, padding=first), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(a, b, 5, padding=second), nn.ReLU(), nn.AdaptiveMaxPool2d((grid[0], grid[1]))),
        *(nn.Flatten(), nn.Linear(b * grid[0] * grid[1], c), nn.ReLU(), nn.Linear(c, d), nn.ReLU()),
        nn.Linear(d, n_classes),
    )


class _ResNet(nn.Module):
    """Residual network of torchvision's blocks with any widths; ``small`` images get the stem without pooling."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        widths: Sequence[int],
        layers: Sequence[int],
        channels: int,
        n_classes: int,
        small: bool,
    ) -> None:
        super().__init__()
        before = widths[0]
        self.stem = nn.Sequential(_stem(channels, before, small), nn.BatchNorm2d(before), nn.ReLU())
        if not small:
            self.stem.append(nn.MaxPool2d(3, 2, padding=1))
        blocks: list[nn.Module] = []
        for stage, (planes, n_blocks) in enumerate(zip(widths, layers, strict=True)):
            for i in range(n_blocks):
                stride = 2 if stage and i == 0 else 1
                after = planes * block.expansion
                blocks.append(block(before, planes, stride, _projection(before, after, stride)))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, n_classes)
        _kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, n_classes)`` of normalised images."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def _projection(before: int, after: int, stride: int) -> nn.Module | None:
    if stride == 1 and before == after:
        return None
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


def _kaiming(model: nn.Module) -> None:
    """Initialise convolutions as torchvision does: normal, variance 2/fan_out, no bias (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _resnet(block: Literal["BasicBlock", "Bottleneck"], widths: Sequence[int], layers: Sequence[int]) -> Builder:
    def builder(n_classes: int, in_shape: Shape, width: float) -> nn.Module:
        from torchvision.models import resnet

        scaled = [_scaled(n, width) for n in widths]
        return _ResNet(getattr(resnet, block), scaled, layers, in_shape[0], n_classes, _is_small(in_shape))

    return builder


def _densenet(growth: int, layers: tuple[int, ...], first: int) -> Builder:
    def builder(n_classes: int, in_shape: Shape, width: float) -> nn.Module:
        from torchvision.models.densenet import DenseNet

        stem = _scaled(first, width)
        model = DenseNet(_scaled(growth, width), layers, stem, num_classes=n_classes)
        small = _is_small(in_shape)
        model.features.conv0 = _stem(in_shape[0], stem, small)
        nn.init.kaiming_normal_(model.features.conv0.weight)
        if small:
            del model.features.pool0
        return model

    return builder


def _vgg_16(n_classes: int, in_shape: Shape, width: float) -> nn.Module:
    """The 13 convolutions of VGG-16 with batch normalisation, as many poolings as the image has room for."""
    from torchvision.models.vgg import cfgs as vgg_layers
    from torchvision.models.vgg import make_layers

    room = min(in_shape[1:]).bit_length() - 1
    plan: list[str | int] = []
    for item in vgg_layers["D"]:
        if isinstance(item, int):
            plan.append(_scaled(item, width))
        elif plan.count("M") < room:
            plan.append(item)
    features = make_layers(plan, batch_norm=True)
    last = next(item for item in reversed(plan) if isinstance(item, int))
    features[0] = nn.Conv2d(in_shape[0], int(plan[0]), 3, padding=1)
    _kaiming(features)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, n_classes))


def _robnet(name: str) -> Builder:
    published = robnet_genotypes.PUBLISHED[name]

    def builder(n_classes: int, in_shape: Shape, width: float) -> nn.Module:
        space = RobNet(
            cells="shared" if len(published.alphas) == 1 else "free",
            channels=_scaled(published.channels, width),
            layers=published.layers,
            nodes=robnet_genotypes.NODES,
        )
        return space.build(space.from_text("/".join(published.alphas)), n_classes, in_shape)

    return builder


def _darts(name: str) -> Builder:
    published = darts_genotypes.PUBLISHED[name]

    def builder(n_classes: int, in_shape: Shape, width: float) -> nn.Module:
        space = DARTS(channels=_scaled(published.channels, width), layers=darts_genotypes.LAYERS, final=True)
        return space.build(space.from_text(published.text), n_classes, in_shape)

    return builder


_REFERENCES: dict[str, Builder] = {
    "densenet": _densenet(12, (6, 6, 6), 24),
    "densenet-121": _densenet(32, (6, 12, 24, 16), 64),
    "lenet": _lenet,
    "resnet": _resnet("BasicBlock", (16, 32, 64), (3, 3, 3)),
    "resnet-18": _resnet("BasicBlock", (64, 128, 256, 512), (2, 2, 2, 2)),
    "resnet-50": _resnet("Bottleneck", (64, 128, 256, 512), (3, 4, 6, 3)),
    "vgg-16": _vgg_16,
}

# Published genotypes are added here; networks of search spaces normalise by themselves.
_GENOTYPES: dict[str, Builder] = {
    **{f"robnet-{name}": _robnet(name) for name in robnet_genotypes.PUBLISHED},
    **{name: _darts(name) for name in darts_genotypes.PUBLISHED},
}

_BUILDERS = {name: _normalised(body) for name, body in _REFERENCES.items()} | _GENOTYPES
