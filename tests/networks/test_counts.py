"""Parameters of every network of the zoo, computed from its paper's definition by arithmetic alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from evo_robust import zoo
from evo_robust.spaces.nsga.genotypes import PUBLISHED as PHASES
from evo_robust.spaces.robnet.genotypes import MEDIUM, PUBLISHED
from evo_robust.zoo.denoising import Filter


def count(name: str, n_classes: int = 10, in_shape: tuple[int, int, int] = (3, 32, 32), **chosen: Any) -> int:
    with torch.device("meta"):  # counts need no memory
        return sum(p.numel() for p in zoo.build(name, n_classes, in_shape, **chosen).parameters())


def conv(before: int, after: int, kernel: int) -> int:
    """A convolution without bias, with batch normalisation behind it."""
    return before * after * kernel * kernel + 2 * after


def residual(widths: Sequence[int], blocks: Sequence[int], bottleneck: bool, classes: int, stem: int = 3) -> int:
    """A residual network (He et al. 2016): blocks of two 3×3, or of 1×1, 3×3, 1×1 to four times the width."""
    before = widths[0]
    total = conv(3, before, stem)
    for stage, (width, n) in enumerate(zip(widths, blocks, strict=True)):
        after = 4 * width if bottleneck else width
        for block in range(n):
            if bottleneck:
                total += conv(before, width, 1) + conv(width, width, 3) + conv(width, after, 1)
            else:
                total += conv(before, width, 3) + conv(width, width, 3)
            if block == 0 and (stage or before != after):  # a projection where the shape changes
                total += conv(before, after, 1)
            before = after
    return total + classes * (before + 1)


def dense(growth: int, blocks: Sequence[int], classes: int, stem: int = 3) -> int:
    """DenseNet-BC (Huang et al. 2017), with batch normalisation behind the stem: BN–1×1 to 4k, BN–3×3 to k."""
    width = 2 * growth
    total = conv(3, width, stem)
    for number, n in enumerate(blocks):
        for _ in range(n):
            total += 2 * width + width * 4 * growth + 2 * 4 * growth + 9 * 4 * growth * growth
            width += growth
        if number < len(blocks) - 1:
            total += 2 * width + width * (width // 2)
            width //= 2
    return total + 2 * width + classes * (width + 1)


def robnet(alphas: Sequence[str], channels: int, layers: int, classes: int, large: bool = False) -> int:
    """RobNet (Guo et al. 2020); batch normalisation in cells has no weights."""
    edges = [(source, target) for target in range(2, 6) for source in range(target)]
    if large:  # two convolutions of stride 2 to C/2 and C channels, then a third
        total = conv(3, channels // 2, 3) + conv(channels // 2, channels, 3) + conv(channels, channels, 3)
        earlier = before = channels
    else:
        total = conv(3, 3 * channels, 3)
        earlier = before = 3 * channels
    for index in range(layers):
        reduction = index in (layers // 3, 2 * layers // 3)
        channels *= 2 if reduction else 1
        pairs = alphas[index % len(alphas)].replace("|", "").split()
        total += (earlier + before) * channels  # 1×1 convolutions of both inputs, halving or not
        for (source, _), (identity, convolution) in zip(edges, pairs, strict=True):
            if convolution == "1":
                total += 2 * (9 * channels + channels * channels)
            if identity == "1" and reduction and source < 2:
                total += channels * channels
        earlier, before = before, 4 * channels
    return total + classes * (before + 1)


def phases(text: str, channels: int, classes: int) -> int:
    """NSGA-Net's residual decoder: nodes of 3×3, 1×1 where several values come in, active phases alone."""
    total, before = 0, 3
    for number, phase in enumerate(part for part in text.split("/") if "1" in part.rsplit("[", 1)[0]):
        *groups, skip = re.findall(r"\[([01]+)\]", phase)
        inputs = {node: [j for j, bit in enumerate(group, 1) if bit == "1"] for node, group in enumerate(groups, 2)}
        read = {source for sources in inputs.values() for source in sources}
        nodes = read | {node for node, sources in inputs.items() if sources}
        sinks = len(nodes - read) + (skip == "1")
        total += before * channels * (1 if number else 9)
        for node in nodes:
            fan = len(inputs.get(node, []))
            total += conv(channels, channels, 3) + (fan * channels * channels if fan > 1 else 0)
        total += 2 * channels + (sinks * channels * channels if sinks > 1 else 0)
        before, channels = channels, 2 * channels
    return total + classes * (before + 1)


def lenet(classes: int) -> int:
    """LeNet-5 for three channels: 6 and 16 maps by 5×5 convolutions, 400 – 120 – 84 hidden units."""
    return (75 * 6 + 6) + (150 * 16 + 16) + (400 * 120 + 120) + (120 * 84 + 84) + classes * 85


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize(
    ("name", "definition"),
    [
        ("lenet", lambda n: lenet(n)),
        ("resnet", lambda n: residual((16, 32, 64), (3, 3, 3), False, n)),
        ("resnet-18", lambda n: residual((64, 128, 256, 512), (2, 2, 2, 2), False, n)),
        ("resnet-50", lambda n: residual((64, 128, 256, 512), (3, 4, 6, 3), True, n)),
        ("densenet", lambda n: dense(12, (6, 6, 6), n)),
        ("densenet-121", lambda n: dense(32, (6, 12, 24, 16), n)),
        *(
            (f"robnet-{name}", lambda n, p=p: robnet(p.alphas, p.channels, p.layers, n))
            for name, p in PUBLISHED.items()
        ),
        ("robnet-medium", lambda n: robnet(MEDIUM.alphas, 36, 20, n)),
        ("roco-table5", lambda n: phases(PHASES["roco-table5"], 32, n)),
    ],
)
def test_counts(name: str, definition: Any, classes: int) -> None:
    assert count(name, classes) == definition(classes)


def test_counts_at_the_size_of_imagenet() -> None:
    shape = (3, 224, 224)
    # torchvision's own: 11,689,512 and 25,557,032 and 7,978,856 with 1000 classes
    assert residual((64, 128, 256, 512), (2, 2, 2, 2), False, 1000, 7) == count("resnet-18", 1000, shape) == 11_689_512
    assert residual((64, 128, 256, 512), (3, 4, 6, 3), True, 1000, 7) == count("resnet-50", 1000, shape) == 25_557_032
    assert dense(32, (6, 12, 24, 16), 1000, 7) == count("densenet-121", 1000, shape) == 7_978_856
    for name, found in PUBLISHED.items():
        expected = robnet(found.alphas, 48, found.layers, 1000, large=True)
        assert count(f"robnet-{name}", 1000, shape, channels=48) == expected


def narrow(name: str) -> dict[str, Any]:
    return {} if name == "lenet" else {"channels": 4}


@pytest.mark.parametrize("name", zoo.names())
def test_every_network_runs_on_images_of_imagenet(name: str) -> None:
    model = zoo.build(name, 1000, (3, 224, 224), **narrow(name)).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)


# every kind of filter, and every network once: large ones take seconds
DENOISED = [(name, ("gaussian", "median")[place % 2]) for place, name in enumerate(zoo.names()) if "large" not in name]


@pytest.mark.parametrize(("name", "kind"), DENOISED)
def test_every_network_can_be_denoised(name: str, kind: Filter) -> None:
    shape = (3, 16, 16)
    plain, model = count(name, 10, shape, **narrow(name)), zoo.build(name, 10, shape, denoise=kind, **narrow(name))
    assert all(module.training and not module._forward_hooks for module in model.modules())
    with torch.no_grad():
        assert model.eval()(torch.zeros(2, *shape)).shape == (2, 10)
    widths = [module.mix.out_channels for module in model.modules() if isinstance(module, zoo.DenoisingBlock)]
    # a 1×1 convolution and its batch normalisation; θ and φ have biases
    added = sum(c * c + 2 * c + (2 * (c + 1) * (c // 2) if kind == "gaussian" else 0) for c in widths)
    assert 2 <= len(widths) <= 5 and sum(p.numel() for p in model.parameters()) == plain + added
