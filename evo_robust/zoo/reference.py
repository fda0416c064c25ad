"""Hand-made networks, as entries of the zoo: their blocks and layers are torchvision's where it has them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from evo_robust.spaces.ops import Normalize
from evo_robust.zoo.plan import Depth, Entry, Plan

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck

# torchvision.models takes seconds to import, and every worker process would: the builders import what they need

BODY = "body"
"""Name of the network for normalised images, below the whole network."""


def _normalised(body: Callable[[Plan], nn.Module]) -> Callable[[Plan], nn.Module]:
    """A builder of networks that normalise their input, from a builder of networks for normalised images."""

    def build(plan: Plan) -> nn.Module:
        return nn.Sequential(OrderedDict({"normalize": Normalize(plan.in_shape[0]), BODY: body(plan)}))

    return build


def _stem(channels: int, out: int, large: bool) -> nn.Conv2d:
    kernel, stride = (7, 2) if large else (3, 1)
    return nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)


def _kaiming(model: nn.Module) -> None:
    """Initialise convolutions as torchvision does: normal, variance 2/fan_out, no bias (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


# --- plain rows of convolutions ---------------------------------------------------------------------------------------


def _before_pools(network: nn.Module) -> tuple[str, ...]:
    """The activations right before a pooling: there the stages of a plain row of layers end."""
    layers = [(name, layer) for name, layer in network.named_modules() if not [*layer.children()]]
    pools = (nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)
    found = ((one, two) for one, two in pairwise(layers) if isinstance(two[1], pools))
    return tuple(name for (name, layer), _ in found if isinstance(layer, nn.ReLU))


def _lenet(plan: Plan) -> nn.Module:
    """LeNet-5; images below 32 pixels are padded as far as it takes to keep their size."""
    channels, *sides = plan.in_shape
    a, b, c, d = (max(n, plan.scaled(n)) for n in (6, 16, 120, 84))
    # 28×28 digits are padded to the 32×32 of the original; the second convolution shrinks unless the image is tiny
    first, second = (0 if min(sides) >= 32 else 2), (0 if min(sides) >= 28 else 2)
    # 10×10 before the last pooling, so 5×5 after it, on 28×28 and 32×32 images alike
    grid = [min(5, (side - 4 + 2 * first) // 2 // 2) for side in sides]
    return nn.Sequential(
        *(nn.Conv2d(channels, a, 5, padding=first), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(a, b, 5, padding=second), nn.ReLU(), nn.AdaptiveMaxPool2d((grid[0], grid[1]))),
        *(nn.Flatten(), nn.Linear(b * grid[0] * grid[1], c), nn.ReLU(), nn.Linear(c, d), nn.ReLU()),
        nn.Linear(d, plan.n_classes),
    )


def _vgg(words: str, layers: Literal["D", "E"]) -> Entry:
    """The convolutions of VGG with batch normalisation, and as many poolings as the image has room for."""

    def body(plan: Plan) -> nn.Module:
        from torchvision.models.vgg import cfgs, make_layers

        room = min(plan.in_shape[1:]).bit_length() - 1
        row: list[str | int] = []
        for item in cfgs[layers]:
            if isinstance(item, int):
                row.append(plan.scaled(item // 64 * plan.channels))
            elif row.count("M") < room:
                row.append(item)
        features = make_layers(row, batch_norm=True)
        last = next(item for item in reversed(row) if isinstance(item, int))
        features[0] = nn.Conv2d(plan.in_shape[0], int(row[0]), 3, padding=1)
        _kaiming(features)
        return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, plan.n_classes))

    return Entry(words, _normalised(body), _before_pools, 64, stems=False)


# --- residual networks ------------------------------------------------------------------------------------------------


class _ResNet(nn.Module):
    """Residual network of torchvision's blocks with any widths.

    Attributes:
        ends: index of the last block of each stage.
    """

    def __init__(self, block: type[BasicBlock | Bottleneck], stages: Sequence[tuple[int, int]], plan: Plan) -> None:
        super().__init__()
        before = stages[0][0]
        self.stem = nn.Sequential(_stem(plan.in_shape[0], before, plan.large), nn.BatchNorm2d(before), nn.ReLU())
        if plan.large:
            self.stem.append(nn.MaxPool2d(3, 2, padding=1))
        blocks: list[nn.Module] = []
        self.ends: list[int] = []
        for stage, (planes, n_blocks) in enumerate(stages):
            for i in range(n_blocks):
                stride = 2 if stage and i == 0 else 1
                after = planes * block.expansion
                blocks.append(block(before, planes, stride, _projection(before, after, stride)))
                before = after
            self.ends.append(len(blocks) - 1)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, plan.n_classes)
        _kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, n_classes)`` of normalised images."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def _projection(before: int, after: int, stride: int) -> nn.Module | None:
    if stride == 1 and before == after:
        return None
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


def _after_blocks(network: nn.Module) -> tuple[str, ...]:
    body = network.get_submodule(BODY)
    assert isinstance(body, (_ResNet, _WideResNet))
    return tuple(f"{BODY}.blocks.{end}" for end in body.ends)


def _resnet(words: str, block: Literal["BasicBlock", "Bottleneck"], blocks: Sequence[int]) -> Entry:
    """A network of stages, each twice as wide as the one before it."""

    def body(plan: Plan) -> nn.Module:
        from torchvision.models import resnet

        stages = [(plan.scaled(plan.channels * 2**i), n) for i, n in enumerate(blocks)]
        return _ResNet(getattr(resnet, block), stages, plan)

    return Entry(words, _normalised(body), _after_blocks, 64)


def _small_resnet(plan: Plan) -> nn.Module:
    """Three stages of (depth − 2)/6 basic blocks each (He et al. 2016, section 4.2)."""
    from torchvision.models.resnet import BasicBlock

    stages = [(plan.scaled(plan.channels * 2**i), (plan.layers - 2) // 6) for i in range(3)]
    return _ResNet(BasicBlock, stages, plan)


class _PreActivation(nn.Module):
    """BN – ReLU – 3×3 – BN – ReLU – 3×3, added to the input, or to a 1×1 convolution of its activation."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        fits = before == after and stride == 1
        self.shortcut = None if fits else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Output ``(n, after, ⌈h/stride⌉, ⌈w/stride⌉)``."""
        active = self.relu(self.norm1(x))
        residual = self.conv2(self.relu(self.norm2(self.conv1(active))))
        return residual + (x if self.shortcut is None else self.shortcut(active))


class _WideResNet(nn.Module):
    """Wide residual network (Zagoruyko & Komodakis 2016): 16 channels, then three stages of (depth − 4)/6 blocks.

    Attributes:
        ends: index of the last block of each stage.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        before = plan.scaled(16)
        self.stem = nn.Sequential(_stem(plan.in_shape[0], before, plan.large))
        if plan.large:
            self.stem.extend((nn.BatchNorm2d(before), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)))
        n_blocks = (plan.layers - 4) // 6
        blocks: list[nn.Module] = []
        for stage in range(3):
            after = plan.scaled(plan.channels * 2**stage)
            for i in range(n_blocks):
                blocks.append(_PreActivation(before, after, 2 if stage and i == 0 else 1))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.ends = [n_blocks * (stage + 1) - 1 for stage in range(3)]
        self.last = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU(inplace=True))
        self.head = nn.Linear(before, plan.n_classes)
        _kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, n_classes)`` of normalised images."""
        return self.head(self.last(self.blocks(self.stem(x))).mean((2, 3)))


# --- dense networks ---------------------------------------------------------------------------------------------------


def _densenet(words: str, blocks: tuple[int, ...] | None, growth: int, depth: Depth | None = None) -> Entry:
    """DenseNet-BC with these layers in its blocks; without them three blocks of (depth − 4)/6 layers each."""

    def body(plan: Plan) -> nn.Module:
        from torchvision.models.densenet import DenseNet

        layers = blocks or ((plan.layers - 4) // 6,) * 3
        stem = plan.scaled(2 * plan.channels)
        model = DenseNet(plan.scaled(plan.channels), layers, stem, num_classes=plan.n_classes)
        model.features.conv0 = _stem(plan.in_shape[0], stem, plan.large)
        nn.init.kaiming_normal_(model.features.conv0.weight)
        if not plan.large:
            del model.features.pool0
        return model

    return Entry(words, _normalised(body), _after_dense_blocks, growth, depth)


def _after_dense_blocks(network: nn.Module) -> tuple[str, ...]:
    features = network.get_submodule(f"{BODY}.features")
    return tuple(f"{BODY}.features.{name}" for name, _ in features.named_children() if name.startswith("denseblock"))


def _wide(depth: int) -> Entry:
    words = f"wide ResNet of {depth} layers, ten times as wide (Zagoruyko & Komodakis 2016)"
    return Entry(words, _normalised(_WideResNet), _after_blocks, 160, Depth(depth, 6, 4))


REFERENCES: dict[str, Entry] = {
    "densenet": _densenet("DenseNet-BC of 40 layers, growth 12 (Huang et al. 2017)", None, 12, Depth(40, 6, 4)),
    "densenet-121": _densenet("DenseNet of 121 layers, growth 32", (6, 12, 24, 16), 32),
    "lenet": Entry("LeNet-5 (LeCun et al. 1998)", _normalised(_lenet), _before_pools, None, stems=False),
    "resnet": Entry(
        "ResNet-20 (He et al. 2016)", _normalised(_small_resnet), _after_blocks, 16, Depth(usual=20, step=6, rest=2)
    ),
    "resnet-18": _resnet("ResNet of 18 layers", "BasicBlock", (2, 2, 2, 2)),
    "resnet-50": _resnet("ResNet of 50 layers", "Bottleneck", (3, 4, 6, 3)),
    "vgg-16": _vgg("VGG of 13 convolutions with batch normalisation and one linear layer", "D"),
    "vgg-19": _vgg("VGG of 16 convolutions with batch normalisation and one linear layer", "E"),
    "wrn-28-10": _wide(28),
    "wrn-34-10": _wide(34),
}
"""Entries by name."""
