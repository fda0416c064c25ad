"""Reference networks: sizes to the unit, every image size, honest errors."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from evo_robust import zoo
from evo_robust.spaces.darts.genotypes import PUBLISHED
from evo_robust.spaces.ops import Normalize

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 96, 72)]
LIGHT = ("densenet", "lenet", "resnet")


def count(name: str, n_classes: int = 10, in_shape: tuple[int, int, int] = (3, 32, 32), width: float = 1) -> int:
    with torch.device("meta"):  # counts need no memory
        return sum(p.numel() for p in zoo.build(name, n_classes, in_shape, width=width).parameters())


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
    ],
)
def test_parameter_counts(name: str, params: int) -> None:
    assert count(name) == params


# The paper prints counts with a head of 100 classes: 4.41M, 6.89M, 33.42M, 5.49M. A class costs 4·4·C + 1 numbers:
# two reductions multiply C by 4, the four nodes of a cell by 4 again.
@pytest.mark.parametrize(
    ("name", "params", "printed", "channels"),
    [
        ("robnet-small", 4_359_574, 4.41, 36),
        ("robnet-large", 6_842_710, 6.89, 36),
        ("robnet-large-v2", 33_326_666, 33.42, 64),
        ("robnet-free", 5_439_790, 5.49, 36),
    ],
)
def test_parameter_counts_of_published_genotypes(name: str, params: int, printed: float, channels: int) -> None:
    assert count(name) == params
    assert count(name, 100) == params + 90 * (16 * channels + 1)
    assert round(count(name, 100) / 1e6, 2) == printed


def darts_params(text: str, channels: int, layers: int = 20) -> int:
    """Parameters of a final DARTS network for 32×32×3 and 10 classes, from its notation and arithmetic alone."""
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
    total = 27 * 3 * channels + 2 * 3 * channels
    earlier = before = 3 * channels
    for index in range(layers):
        stride = 2 if index in (layers // 3, 2 * layers // 3) else 1
        channels *= stride
        total += (earlier + before) * channels + 2 * 2 * channels  # 1×1 convolutions of both inputs, halving or not
        total += cell(reduction if stride == 2 else normal, channels, stride)
        earlier, before = before, 4 * channels
    return total + 10 * (before + 1)


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


def test_reference_networks_keep_the_names_of_their_weights() -> None:
    for name in zoo.names():
        with torch.device("meta"):
            model = zoo.build(name, in_shape=(1, 8, 8), width=0.25)
        tops = {key.partition(".")[0] for key in model.state_dict()}
        if name.startswith("robnet") or name in PUBLISHED:
            assert tops == {"normalize", "stem", "cells", "classifier"}
        else:
            assert tops == {"normalize", "body"}


def test_lenet_of_mnist_is_the_original() -> None:
    assert count("lenet", in_shape=(1, 28, 28)) == 61_706


@pytest.mark.parametrize("in_shape", SHAPES)
@pytest.mark.parametrize("name", (*LIGHT, "vgg-16", "robnet-small", "robnet-free", "darts-v2"))
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


@pytest.mark.parametrize("name", zoo.names())
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
    published = ("robnet-free", "robnet-large", "robnet-large-v2", "robnet-small", *PUBLISHED)
    references = ("densenet", "densenet-121", "lenet", "resnet", "resnet-18", "resnet-50", "vgg-16")
    assert zoo.names() == tuple(sorted((*references, *published)))
    darts = {"darts-v1", "darts-v2", "pc-darts", "racl", "advrush", "pvll", "wsr-basic", "wsr-plus"}
    assert set(PUBLISHED) == darts


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
