"""Reference networks: sizes to the unit, every image size, honest errors."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from places import DATA
from torch import nn

from evo_robust import zoo
from evo_robust.objectives.cost import count_flops, count_params
from evo_robust.parts.base import dotted
from evo_robust.parts.resolve import from_dotted
from evo_robust.spaces.darts.genotypes import PUBLISHED
from evo_robust.spaces.ops import Normalize
from evo_robust.spaces.robnet.genotypes import MEDIUM
from evo_robust.spaces.robnet.genotypes import PUBLISHED as ROBNET
from evo_robust.spaces.robnet.space import RobNet

TABLES = DATA.parent / "published.csv"
"""Figures of the papers' tables, with the name in the zoo of every network that can be made."""

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 96, 72)]
LIGHT = ("densenet", "lenet", "resnet")


def count(name: str, n_classes: int = 10, in_shape: tuple[int, int, int] = (3, 32, 32), **chosen: Any) -> int:
    with torch.device("meta"):  # counts need no memory
        return sum(p.numel() for p in zoo.build(name, n_classes, in_shape, **chosen).parameters())


# Counts of 10-class networks for 32×32×3 as the field quotes them: LeNet-5 62,006; ResNet-18 11,173,962; ResNet-50
# 23,520,842; VGG-16 with batch normalisation and one linear layer 14,728,266. ResNet-20 is the 269,722 of identity
# shortcuts plus two projections (2,048 + 512 weights, 192 of batch normalisation). Torchvision's DenseNets have a
# batch normalisation behind the stem (2 numbers per channel) that Huang et al.'s 6,956,298 and 176,122 have not.
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("lenet", 62_006),
        ("resnet", 269_722 + 2_048 + 512 + 192),
        ("resnet-18", 11_173_962),
        ("resnet-50", 23_520_842),
        ("densenet", 176_122 + 2 * 24),
        ("densenet-121", 6_956_298 + 2 * 64),
        ("vgg-16", 14_728_266),
        ("vgg-19", 20_040_522),
        ("wrn-28-10", 36_479_194),
        ("wrn-34-10", 46_160_474),
    ],
)
def test_parameter_counts(name: str, params: int) -> None:
    assert count(name) == params


def wide_params(depth: int, widths: tuple[int, int, int], classes: int = 10) -> int:
    """Parameters of a wide ResNet for 3 channels, from its definition (Zagoruyko & Komodakis 2016, Table 1)."""
    total, before = 27 * 16, 16
    for stage, after in enumerate(widths):
        for block in range((depth - 4) // 6):
            total += 2 * before + 9 * before * after + 2 * after + 9 * after * after
            total += before * after if block == 0 and (stage or before != after) else 0
            before = after
    return total + 2 * before + classes * (before + 1)


def vgg_params(convolutions: tuple[int, ...]) -> int:
    """Parameters of VGG with batch normalisation and one linear layer, for 3 channels and 10 classes."""
    total, before = 0, 3
    for width, n in zip((64, 128, 256, 512, 512), convolutions, strict=True):
        for _ in range(n):
            total += 9 * before * width + width + 2 * width
            before = width
    return total + 10 * (before + 1)


def test_parameter_counts_from_the_definitions() -> None:
    assert wide_params(28, (160, 320, 640)) == 36_479_194 and wide_params(34, (160, 320, 640)) == 46_160_474
    assert vgg_params((2, 2, 3, 3, 3)) == 14_728_266 and vgg_params((2, 2, 4, 4, 4)) == 20_040_522
    # RobNet, Table 1; Wsr-NAS, Table 1
    assert round(36_479_194 / 1e6, 2) == 36.48 and round(46_160_474 / 1e6, 1) == 46.2


def test_a_wide_network_of_one_block_is_what_its_definition_computes() -> None:
    model = zoo.build("wrn-28-10", 3, (2, 8, 8), channels=4, layers=10).eval()
    x = torch.rand(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    body = model.body
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
        value = body.stem((x - 0.5) / 0.25)
        for stride, block in zip((1, 2, 2), body.blocks, strict=True):
            active = block.norm1(value).relu()
            inner = nn.functional.conv2d(active, block.conv1.weight, stride=stride, padding=1)
            inner = nn.functional.conv2d(block.norm2(inner).relu(), block.conv2.weight, padding=1)
            value = inner + nn.functional.conv2d(active, block.shortcut.weight, stride=stride)
        logits = body.head(body.last[0](value).relu().mean((2, 3)))
        assert value.shape == (2, 16, 2, 2)
        assert torch.allclose(model(x), logits, atol=1e-6)


# The paper prints counts with a head of 100 classes: 4.41M, 5.66M, 6.89M, 33.42M, 5.49M. A class costs
# 4·4·C + 1 numbers: two reductions multiply C by 4, the four nodes of a cell by 4 again.
@pytest.mark.parametrize(
    ("name", "params", "printed", "channels"),
    [
        ("robnet-small", 4_359_574, 4.41, 36),
        ("robnet-medium", 5_614_102, 5.67, 36),  # printed 5.66; 10 convolutions and 6 skips come nearest
        ("robnet-large", 6_842_710, 6.89, 36),
        ("robnet-large-v2", 33_326_666, 33.42, 64),
        ("robnet-free", 5_439_790, 5.49, 36),
    ],
)
def test_parameter_counts_of_published_genotypes(name: str, params: int, printed: float, channels: int) -> None:
    assert count(name) == params
    assert count(name, 100) == params + 90 * (16 * channels + 1)
    assert round(count(name, 100) / 1e6, 2) == printed


def test_the_medium_network_has_the_operations_of_its_size() -> None:
    (alpha,) = MEDIUM.alphas
    pairs = alpha.replace("|", "").split()
    assert sum(pair[1] == "1" for pair in pairs) == 10
    # edges 0, 1, 2, 3, 5, 6, 9 and 10 leave nodes 0 and 1, and are halved in reductions
    assert sum(pairs[edge][0] == "1" for edge in (0, 1, 2, 3, 5, 6, 9, 10)) == 6
    assert count("robnet-medium") == 1_363_222 + 409_536 * 10 + 25_920 * 6
    # searches of earlier versions begin with the published cells alone
    assert "medium" not in ROBNET and len(RobNet().seeds()) == 2


# Table V prints 32.22M FLOPs, which are those of 16 channels by NSGA-Net's rule; §IV trains 32 channels.
def test_the_network_of_roco_table_5() -> None:
    found, trained = zoo.build("roco-table5", channels=16), zoo.build("roco-table5")
    assert count_flops(found, (3, 32, 32), "nsga") == 32_223_744
    assert count_flops(trained, (3, 32, 32), "nsga") == 127_373_312
    assert [count_params(model) for model in (found, trained)] == [338_394, 1_348_522]


def darts_params(text: str, channels: int, layers: int = 20, classes: int = 10, large: bool = False) -> int:
    """Parameters of a final DARTS network for 3 channels, from its notation and arithmetic alone."""
    weights = {
        # depthwise + pointwise convolution + affine batch normalisation, twice or once
        "sep": lambda c, k: 2 * (k * k * c + c * c + 2 * c),
        "dil": lambda c, k: k * k * c + c * c + 2 * c,
    }

    def cell(part: str, c: int, stride: int) -> int:
        total = 0
        for name, size, source in re.findall(r"\(([a-z]+)(\d?),(\d)\)", part):
            if name in weights:
                total += weights[name](c, int(size))
            elif name == "skip" and stride == 2 and int(source) < 2:
                total += c * c + 2 * c
        return total

    normal, reduction = text.split(" / ")
    if large:  # 3×3 convolutions to C/2, C and C channels, each with batch normalisation
        total = 27 * (channels // 2) + channels + 9 * (channels // 2) * channels + 2 * channels
        total += 9 * channels * channels + 2 * channels
        earlier = before = channels
    else:
        total = 27 * 3 * channels + 2 * 3 * channels
        earlier = before = 3 * channels
    for index in range(layers):
        stride = 2 if index in (layers // 3, 2 * layers // 3) else 1
        channels *= stride
        total += (earlier + before) * channels + 2 * 2 * channels  # 1×1 convolutions of both inputs, halving or not
        total += cell(reduction if stride == 2 else normal, channels, stride)
        earlier, before = before, 4 * channels
    return total + classes * (before + 1)


def auxiliary_head(channels: int) -> int:
    """Parameters of DARTS's auxiliary head for CIFAR-10 behind ``channels``, which some papers count."""
    return channels * 128 + 2 * 128 + 128 * 768 * 4 + 2 * 768 + 768 * 10 + 10


# DARTS and Wsr-NAS Basic are quoted to the unit; the others' papers print millions to one digit.
@pytest.mark.parametrize(
    ("name", "params", "printed"),
    [
        ("darts-v1", 3_169_414, None),
        ("darts-v2", 3_349_342, None),
        ("wsr-basic", 4_544_830, None),
        ("pc-darts", 3_634_678, 3.6),
        ("racl", 3_571_174, 3.6),
        ("advrush", 4_158_046, 4.2),
        ("pvll", 3_505_726, 3.5),
        ("wsr-plus", 4_737_412, 4.7),
    ],
)
def test_parameter_counts_of_published_darts_cells(name: str, params: int, printed: float | None) -> None:
    published = PUBLISHED[name]
    assert count(name) == darts_params(published.text, published.channels) == params
    assert published.channels == {"wsr-basic": 45, "wsr-plus": 46}.get(name, 36)
    if printed is not None:
        assert round(params / 1e6, 1) == printed
        # none of them counts an auxiliary head, which would show
        assert round((params + auxiliary_head(16 * published.channels)) / 1e6, 1) > printed


def test_wsr_at_the_size_of_imagenet() -> None:
    # Table 4 prints 13.1M for C=74, L=20
    model = count("wsr-basic", 1000, (3, 224, 224), channels=74, layers=20)
    assert model == darts_params(PUBLISHED["wsr-basic"].text, 74, 20, 1000, large=True) == 13_161_567
    assert model == count("wsr-basic", 1000, (3, 32, 32), channels=74, stem="imagenet")


def test_robnet_at_the_size_of_imagenet() -> None:
    # C=48: everything inside the cells grows as with C=36; the head has 16·48 inputs
    large = count("robnet-large", 1000, (3, 224, 224), channels=48)
    cells = count("robnet-large", 1000, (3, 32, 32), channels=48)
    stems = 27 * 24 + 48 + 9 * 24 * 48 + 96 + 9 * 48 * 48 + 96
    small = 27 * 144 + 288
    # the first cell reads C channels instead of 3C, twice; the second reads C instead of 3C once
    assert large == cells - small + stems - 3 * (2 * 48) * 48


def test_reference_networks_keep_the_names_of_their_weights() -> None:
    for name in zoo.names():
        with torch.device("meta"):
            model = zoo.build(name, in_shape=(1, 8, 8), width=0.25)
        tops = {key.partition(".")[0] for key in model.state_dict()}
        if name == "roco-table5":
            assert tops == {"normalize", "features", "classifier"}
        elif name.startswith("robnet") or name in PUBLISHED:
            assert tops == {"normalize", "stem", "cells", "classifier"}
        else:
            assert tops == {"normalize", "body"}


def test_lenet_of_mnist_is_the_original() -> None:
    assert count("lenet", in_shape=(1, 28, 28)) == 61_706


@pytest.mark.parametrize("in_shape", SHAPES)
@pytest.mark.parametrize("name", (*LIGHT, "vgg-16", "vgg-19", "robnet-small", "robnet-free", "darts-v2", "roco-table5"))
def test_every_size_of_image(name: str, in_shape: tuple[int, int, int]) -> None:
    model = zoo.build(name, 7, in_shape, width=0.25).eval()
    x = torch.rand(2, *in_shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = model(x)
    assert logits.shape == (2, 7)
    logits.logsumexp(1).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().sum() > 0
    # no pooling to nothing and no dead branch: the logits depend on the image
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("name", zoo.names())
def test_normalises_inside(name: str) -> None:
    # in double precision, with batch statistics: untrained batch normalisation leaves little of the signal
    model = zoo.build(name, in_shape=(1, 8, 8), width=0.25).double()
    (normalize,) = [m for m in model.modules() if isinstance(m, Normalize)]
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
        before = model.eval()(x)
        normalize.mean += 0.1
        assert torch.allclose(model(x + 0.1), before, atol=1e-9)
        assert not torch.allclose(model(x), before, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in zoo.names() if "large" not in name])
def test_width_scales_channels(name: str) -> None:
    one, double, quarter = (count(name, in_shape=(1, 8, 8), width=width) for width in (1, 2, 0.25))
    assert 3 < double / one < 4.5
    ratio = quarter / one
    assert ratio == 1 if name == "lenet" else 0.05 < ratio < 0.15


def test_initial_weights_depend_on_torchs_seed_alone() -> None:
    def weights() -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return torch.cat([p.flatten() for p in zoo.build("resnet").parameters()])

    assert torch.equal(weights(), weights())


def test_names() -> None:
    robnet = ("robnet-free", "robnet-large", "robnet-large-v2", "robnet-medium", "robnet-small")
    references = ("densenet", "densenet-121", "lenet", "resnet", "resnet-18", "resnet-50", "vgg-16", "vgg-19")
    wide = ("wrn-28-10", "wrn-34-10")
    assert zoo.names() == tuple(sorted((*references, *wide, *robnet, *PUBLISHED, "roco-table5")))
    darts = {"darts-v1", "darts-v2", "pc-darts", "racl", "advrush", "pvll", "wsr-basic", "wsr-plus"}
    assert set(PUBLISHED) == darts


@pytest.mark.skipif(not TABLES.is_file(), reason=f"needs {TABLES}")
def test_every_network_that_the_papers_tables_name_is_there() -> None:
    with TABLES.open(encoding="utf-8", newline="") as rows:
        named = {row["zoo_name"] for row in csv.DictReader(rows)} - {""}
    assert len(named) > 15 and named <= set(zoo.names())


@pytest.mark.parametrize(
    ("name", "chosen", "expected"),
    [
        ("resnet", {"layers": 56}, 855_770),  # ResNet-56 with two projections; He et al. print 0.85M
        ("densenet", {"layers": 100}, 769_162 + 2 * 24),  # DenseNet-BC 100, k=12: 0.8M (Huang et al.)
        ("wrn-28-10", {"layers": 16, "channels": 64}, wide_params(16, (64, 128, 256))),  # WRN-16-4: 2.7M
        ("wrn-34-10", {"layers": 40, "channels": 16}, wide_params(40, (16, 32, 64))),  # WRN-40-1: 0.6M
        ("robnet-small", {"channels": 36, "layers": 20}, 4_359_574),
        ("robnet-large", {"channels": 64, "layers": 33}, 33_326_666),
        ("wsr-plus", {"channels": 24, "layers": 8}, darts_params(PUBLISHED["wsr-plus"].text, 24, 8)),
    ],
)
def test_channels_and_layers_are_chosen(name: str, chosen: dict[str, int], expected: int) -> None:
    assert count(name, **chosen) == expected


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("densenet", 12), ("densenet-121", 32), ("resnet", 16), ("resnet-18", 64), ("vgg-16", 64), ("wrn-28-10", 160),
        ("roco-table5", 32), ("robnet-small", 36), ("wsr-basic", 45), ("darts-v1", 36),
    ],
)  # fmt: skip
def test_channels_scale_as_width_does(name: str, channels: int) -> None:
    whole = count(name, in_shape=(1, 8, 8))
    assert count(name, in_shape=(1, 8, 8), channels=channels) == whole
    assert count(name, in_shape=(1, 8, 8), channels=8) < whole


@pytest.mark.parametrize("name", ["resnet-18", "resnet-50", "densenet", "wrn-28-10", "robnet-small", "wsr-basic"])
def test_the_stem_is_chosen(name: str) -> None:
    large, small = (zoo.build(name, in_shape=(1, 32, 32), channels=8, stem=stem) for stem in ("imagenet", "cifar"))
    plain = zoo.build(name, in_shape=(1, 32, 32), channels=8)
    by_size = zoo.build(name, in_shape=(1, 96, 96), channels=8)
    assert list(plain.state_dict()) == list(small.state_dict())
    assert list(by_size.state_dict()) == list(large.state_dict())
    on_large = zoo.build(name, in_shape=(1, 96, 96), channels=8, stem="cifar")
    assert list(on_large.state_dict()) == list(small.state_dict())
    # at an eighth or a quarter of the side everything but the stem costs a sixteenth or less
    assert count_flops(large.eval(), (1, 32, 32)) < count_flops(small.eval(), (1, 32, 32)) / 8
    assert large.train()(torch.rand(4, 1, 32, 32)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("lenet", {"channels": 8}, "no channels= with lenet, whose channels are fixed, got channels=8"),
        ("resnet-18", {"layers": 20}, "no layers= with resnet-18, whose depth is fixed, got layers=20"),
        ("robnet-free", {"layers": 8}, "no layers= with robnet-free"),
        ("vgg-19", {"stem": "imagenet"}, "no stem= with vgg-19"),
        ("wrn-28-10", {"layers": 30}, re.escape("layers of wrn-28-10 of 6n+4 (10, 16, 22, 28, …), at most 200, got")),
        ("wsr-basic", {"layers": 0}, "layers of wsr-basic >= 1"),
        ("wsr-basic", {"layers": 10**6}, "at most 200, got layers=1000000"),
        ("wsr-basic", {"channels": 0}, "channels in 1..4096, got channels=0"),
        ("wsr-basic", {"stem": "large"}, "stem"),
        ("wsr-basic", {"stem": "imagenet", "in_shape": (1, 8, 8)}, "at least 32 pixels for stem=imagenet, got 8"),
    ],
)
def test_choices_that_a_network_does_not_leave(name: str, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.build(name, 10, **chosen)


def test_a_description_becomes_json_and_comes_back() -> None:
    for network in (
        zoo.Network(name="lenet"),
        zoo.Network(name="wsr-basic", channels=74, layers=20, stem="imagenet"),
        zoo.Network(name="resnet-18", denoise="gaussian", denoise_after=("stage-2", "stage-4"), width=0.5),
    ):
        values = json.loads(json.dumps(dotted(network)))
        assert from_dotted(zoo.Network, values) == network
    assert network.text == "resnet-18 denoise=gaussian denoise_after=stage-2,stage-4 width=0.5"
    assert zoo.Network(name="wsr-basic", channels=74).text == "wsr-basic channels=74"


def test_unknown_name_tells_the_nearest() -> None:
    with pytest.raises(ValueError, match="got 'resnet18': did you mean 'resnet-18'"):
        zoo.build("resnet18")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_shape": (3, 7, 8)}, "expected in_shape"),
        ({"in_shape": (8, 8)}, "expected in_shape"),
        ({"n_classes": 1}, "n_classes >= 2"),
        ({"width": 0.0}, "width > 0"),
        ({"width": float("nan")}, "width > 0"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.build("lenet", **arguments)


def test_import_leaves_random_state_alone_and_is_quick() -> None:
    code = "import torch; a = torch.get_rng_state(); import evo_robust.run; assert (a == torch.get_rng_state()).all()"
    # what a search does not need before it draws, it does not wait for
    dear = "import sys; assert not {'matplotlib', 'scipy.stats', 'autograd', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{code}; {dear}"], check=True)
