"""Lipschitz constants of operations against exact singular values, pixel by pixel."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from seeded import seeded
from torch import Tensor, nn

from evo_robust.lipschitz.linear import Convolution, LinearMap, Scale, SpectralNorms, certain_steps
from evo_robust.lipschitz.operations import lipschitz_constant, operation_of
from evo_robust.spaces.cells.ops import FactorizedReduce, SepConv
from evo_robust.spaces.darts.ops import DilConv
from evo_robust.spaces.ops import Normalize


@torch.no_grad()
def exact(module: nn.Module, shape: tuple[int, int, int]) -> float:
    """Largest singular value of a linear (or affine) module, from its matrix in double precision."""
    module = copy.deepcopy(module).double()
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    matrix = module(basis) - module(torch.zeros(1, *shape, dtype=torch.float64))
    return torch.linalg.matrix_norm(matrix.flatten(1), ord=2).item()


# --- spectral norms


def convolutions() -> list[tuple[nn.Sequential, tuple[int, int, int]]]:
    """Depthwise, grouped and full convolutions, kernels, strides, dilations and paddings, sizes down to one pixel."""
    found = []
    for size in ((8, 8), (7, 5), (3, 2), (1, 1)):
        for kernel, stride, dilation in ((3, 1, 1), (3, 2, 1), (5, 2, 1), (3, 1, 2), (5, 2, 2), (5, 3, 1)):
            padding = dilation * (kernel // 2)
            conv = nn.Conv2d(6, 6, kernel, stride, padding, dilation, groups=6, bias=False)
            found.append((nn.Sequential(conv, nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5)), (6, *size)))
    found.append((nn.Sequential(nn.Conv2d(4, 6, 3, (2, 1), 0, groups=2)), (4, 6, 7)))
    found.append((nn.Sequential(nn.Conv2d(3, 4, 2, 4), nn.BatchNorm2d(4)), (3, 7, 7)))  # windows that leave pixels out
    return found


@pytest.mark.parametrize("slack", [0.01, 0.2])
def test_certified_norms_are_never_below_the_true_ones_and_hardly_above(slack: float) -> None:
    norms = SpectralNorms(slack=slack)
    for module, shape in convolutions():
        module = seeded(lambda module=module: module)  # type: ignore[misc]
        true = exact(module, shape)
        assert true <= lipschitz_constant(module, shape, norms=norms) <= true * (1 + slack + 1e-4), (module, shape)


def depthwise(weight: Tensor) -> Convolution:
    """A depthwise 3×3 convolution that keeps the size."""
    return Convolution(weight, padding=(1, 1), groups=len(weight))


def test_estimates_approach_the_norm_from_below_and_many_maps_are_found_together() -> None:
    torch.manual_seed(0)
    maps = [
        LinearMap(
            (Convolution(torch.randn(8, 1, 3, 3), padding=(1, 1), groups=8), Convolution(torch.randn(8, 8, 1, 1))),
            (8, 8, 8),
        )
        for _ in range(6)
    ]
    other = LinearMap((Convolution(torch.randn(2, 3, 3, 3)),), (3, 6, 6))
    best = SpectralNorms(steps=200)([*maps, other])
    shares = {steps: np.array(SpectralNorms(steps)([*maps, other])) / best for steps in (2, 6, 12)}
    assert shares[2].max() < shares[6].max() <= 1 + 1e-6 and shares[6].min() > 0.85 and shares[12].min() > 0.98
    alone = [SpectralNorms(12)([one])[0] for one in (maps[0], other)]
    together = SpectralNorms(12)([other, maps[0]])
    assert together == pytest.approx(alone[::-1])


def test_a_warm_start_goes_on_where_the_last_call_ended() -> None:
    torch.manual_seed(0)
    weight, mixing = torch.randn(16, 1, 3, 3), torch.randn(16, 16, 1, 1)

    def moved(amount: float) -> list[LinearMap]:
        generator = torch.Generator().manual_seed(1)
        kernel = weight + amount * torch.randn(weight.shape, generator=generator)
        return [LinearMap((depthwise(kernel), Convolution(mixing)), (16, 8, 8))]

    true = SpectralNorms(steps=100)(moved(0.03))[0]
    cold = SpectralNorms(steps=2)(moved(0.03))[0]
    norms = SpectralNorms(steps=2)
    for amount in (0.0, 0.01, 0.02):
        norms(moved(amount))
    warm = norms(moved(0.03))[0]
    assert cold < 0.8 * true and 0.95 * true < warm <= true * (1 + 1e-6)


def test_a_warm_start_finds_a_direction_that_was_nothing_before() -> None:
    def channels(first: float, second: float) -> list[LinearMap]:
        kernel = torch.tensor([first, second])[:, None, None, None] * torch.ones(2, 1, 3, 3)
        return [LinearMap((depthwise(kernel),), (2, 6, 6))]

    norms = SpectralNorms(steps=4)
    before = [norms(channels(1.0, 0.1))[0] for _ in range(3)][-1]
    after = [norms(channels(1.0, 5.0))[0] for _ in range(3)][-1]
    assert after == pytest.approx(5 * before, rel=0.02)


def test_maps_of_zeros_and_single_numbers() -> None:
    norms = SpectralNorms()
    assert norms([LinearMap((Convolution(torch.zeros(3, 2, 3, 3), padding=(1, 1)),), (2, 5, 5))]) == [0.0]
    assert norms([LinearMap((Scale(torch.tensor([-3.0, 2.0])),), (2, 4, 4))]) == [3.0]
    single = LinearMap((Convolution(torch.full((1, 1, 3, 3), 7.0), padding=(1, 1)),), (1, 1, 1))
    assert norms([single])[0] == pytest.approx(7.0, rel=1e-4)
    assert norms([]) == []


def test_the_number_of_products_grows_as_the_theorem_says() -> None:
    assert certain_steps(10_000, 0.02) > certain_steps(100, 0.02) > certain_steps(100, 0.1)
    eps = 1 - 1.02**-2
    k = certain_steps(4096, 0.02)
    assert 1.648 * math.sqrt(4096) * math.exp(-math.sqrt(eps) * (2 * k - 1)) <= 1e-9


# --- operations


@pytest.mark.parametrize(("size", "norm"), [(32, 1.005), (8, 1.0145), (4, 1.0285)])
def test_average_pools_without_pad_counting(size: int, norm: float) -> None:
    pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    assert lipschitz_constant(pool, (2, size, size)) == pytest.approx(norm, abs=6e-4)
    if size < 32:
        assert lipschitz_constant(pool, (1, size, size)) == pytest.approx(exact(pool, (1, size, size)))
        halving = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        assert lipschitz_constant(halving, (1, size, size)) == pytest.approx(exact(halving, (1, size, size)))
    assert lipschitz_constant(nn.AvgPool2d(3, 2, 1, count_include_pad=False), (1, 32, 32)) == pytest.approx(
        0.62, abs=5e-3
    )


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(3, 1, 1),
        nn.AvgPool2d(2),
        nn.AvgPool2d((2, 3), (1, 2), (0, 1), count_include_pad=False),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(3, 2, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(2, 2, divisor_override=3),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((3, 2)),
        nn.AdaptiveAvgPool2d((None, 4)),
    ],
)
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (6, 3)])
def test_other_average_pools(pool: nn.Module, size: tuple[int, int]) -> None:
    assert lipschitz_constant(pool, (2, *size)) == pytest.approx(exact(pool, (2, *size)), rel=1e-9)
    _, shape = operation_of([pool], (2, *size), "joint")
    assert shape == tuple(pool(torch.zeros(1, 2, *size)).shape[1:])


@pytest.mark.parametrize(
    ("pool", "size", "bound"),
    [
        (nn.MaxPool2d(3, 1, 1), 8, 3.0),
        (nn.MaxPool2d(3, 2, 1), 8, 2.0),
        (nn.MaxPool2d(3, 1, 1), 2, 2.0),
        (nn.MaxPool2d(3, 1, 1), 1, 1.0),
        (nn.MaxPool2d(2), 7, 1.0),
        (nn.MaxPool2d(2, 2, ceil_mode=True), 7, 1.0),
        (nn.MaxPool2d(3, 2, 1, dilation=2), 8, 3.0),
        (nn.AdaptiveMaxPool2d(5), 8, math.sqrt(4)),
    ],
)
def test_max_pools_reach_their_bound_and_no_more(pool: nn.Module, size: int, bound: float) -> None:
    constant = lipschitz_constant(pool, (1, size, size))
    assert constant == pytest.approx(bound)
    generator = torch.Generator().manual_seed(0)
    reached = 0.0
    for row in range(size):  # one pixel above all others moves all maxima that it is in
        for column in range(size):
            x = torch.rand(1, 1, size, size, generator=generator)
            spike = torch.zeros_like(x)
            spike[..., row, column] = 2.0
            far = (pool(x + 2 * spike) - pool(x + spike)).norm() / spike.norm()
            reached = max(reached, far.item())
    assert reached == pytest.approx(constant, rel=1e-5)
    assert operation_of([pool], (1, size, size), "joint")[1] == tuple(pool(x).shape[1:])


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 4), (2, 2), (3, 1), (1, 1)])
def test_factorized_reduce_is_one_linear_map(size: tuple[int, int]) -> None:
    for channels, affine in ((6, True), (5, False), (1, True)):
        module = seeded(lambda channels=channels, affine=affine: FactorizedReduce(4, channels, affine))  # type: ignore[misc]
        assert lipschitz_constant(module, (4, *size)) == pytest.approx(exact(module, (4, *size)), rel=1e-5)
        assert operation_of([module], (4, *size), "joint")[1] == tuple(module(torch.zeros(1, 4, *size)).shape[1:])


def test_linear_layers_and_global_pooling_are_exact() -> None:
    head = seeded(lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)))
    assert lipschitz_constant(head, (6, 4, 3)) == pytest.approx(exact(head, (6, 4, 3)), rel=1e-6)
    flat = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 7)))
    assert lipschitz_constant(flat, (2, 4, 3)) == pytest.approx(exact(flat, (2, 4, 3)), rel=1e-6)


def test_normalisation_of_images_is_part_of_the_first_convolution() -> None:
    stem = seeded(lambda: nn.Sequential(Normalize(3), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)))
    stem[0].std.copy_(torch.tensor([0.1, 0.2, 0.5]).view(1, 3, 1, 1))  # type: ignore[union-attr, operator]
    true = exact(stem, (3, 8, 8))
    assert true <= lipschitz_constant(stem, (3, 8, 8)) <= 1.011 * true


def by_rule(module: nn.Sequential, x: Tensor) -> dict[str, float]:
    """The constants of a chain as the rules say, from exact singular values."""
    found, run, start = {"joint": 1.0, "layers": 1.0, "paper": 1.0}, [], x
    for part in (*module, nn.ReLU()):
        if isinstance(part, nn.ReLU):
            found["joint"] *= exact(nn.Sequential(*run), start.shape[1:])
            run, start = [], x
            continue
        own = exact(part, x.shape[1:])
        found["layers"] *= own
        found["paper"] *= own if isinstance(part, nn.Conv2d) else 1.0
        run.append(part)
        x = part(x)
    return found


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", ["sep", "dil"])
def test_separable_and_dilated_convolutions_under_the_three_rules(kind: str, stride: int) -> None:
    module = seeded(lambda: SepConv(4, stride, 5, affine=True) if kind == "sep" else DilConv(4, stride, 3, affine=True))
    true = by_rule(module, torch.zeros(1, 4, 6, 6))  # type: ignore[arg-type]
    for rule, value in true.items():
        assert value <= lipschitz_constant(module, (4, 6, 6), rule) <= 1.045 * value  # type: ignore[arg-type]
    assert true["joint"] < 0.8 * true["layers"]


def test_the_papers_constants() -> None:
    assert lipschitz_constant(nn.MaxPool2d(3, 1, 1), (2, 8, 8), "paper") == 1.0
    assert lipschitz_constant(nn.AvgPool2d(3, 1, 1), (2, 8, 8), "paper") == 1.0
    assert lipschitz_constant(nn.AvgPool2d(3, 2, 1), (2, 8, 8), "paper") == pytest.approx(2**-0.5)
    assert lipschitz_constant(seeded(lambda: FactorizedReduce(4, 4)), (4, 8, 8), "paper") == 1.0
    assert lipschitz_constant(nn.Identity(), (2, 8, 8), "paper") == 1.0
    pooled = seeded(lambda: nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(2)))
    assert lipschitz_constant(pooled, (2, 8, 8), "paper") == 1.0 < lipschitz_constant(pooled, (2, 8, 8))


def test_statistics_are_the_running_ones_in_every_mode() -> None:
    module = seeded(lambda: SepConv(4, 1))
    before = lipschitz_constant(module, (4, 6, 6))
    assert lipschitz_constant(module.train(), (4, 6, 6)) == before and module.training


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Softmax(1), "expected operations of known Lipschitz constant .* got Softmax; steps_of.register"),
        (nn.Conv2d(2, 2, 3, padding="same"), "a number of zeros as padding"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "a number of zeros as padding"),
        (nn.Conv2d(3, 2, 3), "expected an input of 3 channels .* got 2"),
        (nn.Linear(7, 2), "expected an input of 7 numbers .* got 128"),
        (nn.BatchNorm2d(2, track_running_stats=False), "batch normalisation with running statistics"),
        (nn.MaxPool2d(9), "expected an input of at least 9 pixels a side for a pooling, got 8"),
    ],
)
def test_what_has_no_known_constant_is_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lipschitz_constant(module, (2, 8, 8))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="expected rule joint, layers or paper .* got 'exact'"):
        lipschitz_constant(nn.Identity(), (2, 8, 8), "exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected steps >= 1, got 0"):
        SpectralNorms(steps=0)
    with pytest.raises(ValueError, match=r"expected slack in \(0,1\), got 1"):
        SpectralNorms(slack=1.0)
