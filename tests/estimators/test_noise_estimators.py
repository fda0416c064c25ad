"""Noise at strengths that no attack made: average and learned estimators, their memory and training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chz
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo_robust.attacks.base import Threat
from evo_robust.attacks.gradient import FGSM, MIFGSM, PGD, GradientAttack
from evo_robust.data.images import batches
from evo_robust.data.sets import Digits
from evo_robust.estimators import (
    STRENGTHS,
    AttentionANE,
    AverageANE,
    Estimator,
    MapANE,
    MapAttentionANE,
    NoiseEstimator,
    NoiseLearner,
    NoiseMemory,
    NoiseTraining,
    Strengths,
    real_noises,
)
from evo_robust.estimators.noises import spectrum
from evo_robust.files import read_tensors, write_tensors
from evo_robust.inference.predictions import clean_error, undisturbed
from evo_robust.parts.base import Fraction, Part
from evo_robust.parts.resolve import from_dotted
from evo_robust.training.loop import train
from evo_robust.training.recipes import Standard

DATA = Digits()
SPLITS = DATA.load()
BASIC = STRENGTHS["basic"]
LARGE = BASIC.scaled(2)
"""What the paper's strengths are to digits: .06 to .21."""

LEARNED = [AttentionANE(), MapAttentionANE(), MapANE()]
DEPTHWISE = [MapAttentionANE(depthwise=True, width=12), MapANE(depthwise=True, width=12)]
EVERY = [AverageANE(), AverageANE(swapped=True), AverageANE(swapped=True, unit=True), *LEARNED, *DEPTHWISE]


def built(kind: Estimator, in_shape: tuple[int, int, int] = DATA.in_shape, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind.build(in_shape)


def random_noises(
    k: int, n: int, shape: tuple[int, int, int], strengths: tuple[float, ...], seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Images and noises that keep to their balls and the pixel range."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *shape, generator=generator)
    way = torch.rand(k, n, *shape, generator=generator) * 2 - 1
    return x, (x + way * torch.tensor(strengths).view(-1, 1, 1, 1, 1)).clamp(0, 1) - x


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small network that classifies most digits."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64, 10)),
        )
    train(model, SPLITS.train, Standard(), 6, seed=0)
    assert clean_error(model, SPLITS.val) < 0.1
    return model.eval()


# --- strengths ------------------------------------------------------------------------------------------------------


def test_first_strength_of_each_interval_is_real() -> None:
    assert BASIC.real == (0.03, 0.06, 0.09) and BASIC.estimated == (0.045, 0.075, 0.105)
    plus = STRENGTHS["plus"]
    assert [len(interval) for interval in plus.intervals] == [4, 4, 3]
    assert plus.real == BASIC.real and len(plus.estimated) == 8 and plus.values[-1] == 0.105
    assert set(BASIC.values) <= set(plus.values)
    assert Strengths(values=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), n_real=3).intervals == (
        (0.1, 0.2, 0.3),
        (0.4, 0.5),
        (0.6, 0.7),
    )
    assert Strengths(n_real=1).real == (0.03,) and len(Strengths(n_real=1).estimated) == 5
    doubled = BASIC.scaled(2)
    assert doubled.real == pytest.approx((0.06, 0.12, 0.18)) and doubled.n1 == 3


def test_naive_searches_attack_every_strength() -> None:
    for n in (1, 3, 6, 11):
        naive = STRENGTHS[f"naive-{n}"]
        assert len(naive.real) == n == naive.n1 and naive.estimated == ()
    assert STRENGTHS["naive-3"].real == BASIC.real
    assert STRENGTHS["naive-6"].real == BASIC.values
    assert STRENGTHS["naive-11"].real == STRENGTHS["plus"].values


@pytest.mark.parametrize(
    "values, message",
    [
        ({"values": (0.03, 0.09, 0.06)}, "expected distinct strengths.values in ascending order, got 0.06 after 0.09"),
        ({"values": (0.03, 0.06, 0.06)}, "expected distinct strengths.values in ascending order, got 0.06 twice"),
        ({"values": (0.0, 0.06)}, r"strengths.values in \(0, 1\]"),
        ({"values": ()}, "at least one"),
        ({"values": (0.5, 8)}, r"expected strengths.values in \(0, 1\] .*units of the pixel range 0..1, .*\), got 8"),
        ({"n_real": 0}, r"expected strengths.n_real \(N1, strengths that are attacked\) from 1 to 6, got 0"),
        ({"n_real": 7}, "from 1 to 6, got 7"),
    ],
)
def test_strengths_that_are_none(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Strengths(**values)


def test_parts_are_typed_as_text() -> None:
    @chz.chz
    class Search(Part):
        estimator: Estimator = chz.field(default_factory=AttentionANE, blueprint_unspecified=AttentionANE)
        strengths: Strengths = chz.field(default_factory=Strengths, blueprint_unspecified=Strengths)

    typed = from_dotted(
        Search, {"estimator": "E", "estimator.width": 8, "strengths.values": "8/255,0.1,0.2", "strengths.n_real": 2}
    )
    assert typed.estimator == MapAttentionANE(width=8)
    assert typed.strengths.real == (8 / 255, 0.2) and typed.strengths.estimated == (0.1,)
    assert from_dotted(Search, {"estimator": "EMinus"}).estimator == MapANE()


# --- the weighted average -------------------------------------------------------------------------------------------

KNOWN = (0.03, 0.06, 0.09)


def average(target: float, **how: bool) -> tuple[Tensor, Tensor]:
    """Known noises, and the unprojected average at a target."""
    x, noises = random_noises(3, 5, (3, 6, 4), KNOWN)
    strengths = torch.tensor(KNOWN)[:, None].expand(-1, 5)
    return noises, built(AverageANE(**how), (3, 6, 4))(x, noises, strengths, torch.full((1, 5), target))[0]


@pytest.mark.parametrize("index", range(3))
def test_average_at_a_known_strength_is_the_noise_itself(index: int) -> None:
    noises, found = average(KNOWN[index])
    assert torch.equal(found, noises[index])
    x, noises = random_noises(3, 5, DATA.in_shape, KNOWN)
    torch.testing.assert_close(
        built(AverageANE()).estimate(x, noises, KNOWN, KNOWN[index]), noises[index], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("lower", [0, 1])
def test_average_is_linear_between_known_strengths(lower: int, share: float) -> None:
    noises, found = average(KNOWN[lower] + share * (KNOWN[lower + 1] - KNOWN[lower]))
    torch.testing.assert_close(found, (1 - share) * noises[lower] + share * noises[lower + 1], atol=1e-6, rtol=0)


def test_average_scales_outside_the_known_strengths() -> None:
    for target, nearest in ((0.012, 0), (0.12, 2)):
        noises, found = average(target)
        torch.testing.assert_close(found, noises[nearest] * (target / KNOWN[nearest]))


@torch.no_grad()
def test_the_average_is_at_least_as_strong_as_the_nearest_noise_scaled(network: nn.Module) -> None:
    x, y = SPLITS.val.floats(), SPLITS.val.y
    real = real_noises(network, x, y, LARGE.real, PGD(steps=7), torch.Generator().manual_seed(0))

    def loss(noise: Tensor) -> float:
        return F.cross_entropy(network(x + noise), y).item()

    estimates = AverageANE().build(DATA.in_shape).estimate_all(x, real, LARGE.real, LARGE.estimated)
    for eps, estimate in zip(LARGE.estimated, estimates, strict=True):
        for own, noise in zip(LARGE.real, real, strict=True):
            if abs(own - eps) < 0.04:  # halfway between two of them, but for the last
                scaled = (x + noise * (eps / own)).clamp(0, 1) - x
                assert loss(estimate) >= loss(scaled) - 1e-6, (eps, own)


def test_swapped_weights_differ_everywhere_but_in_the_middle_and_leave_nothing_outside() -> None:
    torch.testing.assert_close(average(0.045, swapped=True)[1], average(0.045)[1], atol=1e-6, rtol=0)
    noises, found = average(0.0375, swapped=True)
    torch.testing.assert_close(found, 0.25 * noises[0] + 0.75 * noises[1], atol=1e-6, rtol=0)
    assert (found - average(0.0375)[1]).abs().max() > 0.01
    for target in (0.012, 0.12):
        assert average(target, swapped=True)[1].abs().max() == 0


def test_published_average_is_no_longer_than_one() -> None:
    _, found = average(0.045, swapped=True, unit=True)
    assert (found.flatten(1).norm(dim=1) <= 1 + 1e-5).all()


def test_images_may_have_strengths_and_targets_of_their_own() -> None:
    x, noises = random_noises(2, 3, DATA.in_shape, (0.05, 0.1))
    strengths = torch.tensor([[0.05, 0.02, 0.1], [0.1, 0.04, 0.3]])
    targets = torch.tensor([0.07, 0.01, 0.5])
    for kind in EVERY:
        estimator = built(kind)
        together = estimator.estimate(x, noises, strengths, targets)
        for i in range(3):
            one = slice(i, i + 1)
            alone = estimator.estimate(x[one], noises[:, one], strengths[:, i].tolist(), targets[i].item())
            torch.testing.assert_close(together[one], alone, atol=1e-5, rtol=0)


# --- what holds for every estimator ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVERY, ids=str)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 5, 9), (1, 1, 1)])
def test_estimates_stay_in_the_ball_and_the_pixel_range(kind: Estimator, shape: tuple[int, int, int]) -> None:
    estimator = built(kind, shape)
    for n1 in (1, 2, 4):
        strengths = tuple(0.05 * 2**i for i in range(n1))
        generator = torch.Generator().manual_seed(n1)
        x = torch.rand(3, *shape, generator=generator).round(decimals=1)  # some pixels at the ends of the range
        noises = torch.randn(n1, 3, *shape, generator=generator)  # far outside their balls
        targets = (0.01, 0.05, 0.07, 0.9)
        found = estimator.estimate_all(x, noises, strengths, targets)
        assert found.shape == (4, 3, *shape)
        assert (found.abs().amax((1, 2, 3, 4)) <= torch.tensor(targets) + 1e-6).all()
        assert (x + found).min() >= 0 and (x + found).max() <= 1
        for target, noise in zip(targets, found, strict=True):
            one = estimator.estimate(x, noises, strengths, target)
            torch.testing.assert_close(one, noise, atol=1e-5, rtol=0)
            assert not one.requires_grad


@pytest.mark.parametrize("kind", EVERY, ids=str)
def test_images_without_noise_get_finite_estimates(kind: Estimator) -> None:
    """Where a network has no slope an attack without random start finds nothing."""
    x, noises = random_noises(3, 4, DATA.in_shape, KNOWN)
    noises[:, 1] = 0
    assert built(kind).estimate(x, noises, KNOWN, 0.05).isfinite().all()


@pytest.mark.parametrize("kind", LEARNED, ids=str)
def test_untrained_estimators_point_close_to_the_average(kind: Estimator) -> None:
    x, noises = random_noises(3, 20, DATA.in_shape, KNOWN)
    strengths, target = torch.tensor(KNOWN)[:, None].expand(-1, 20), torch.full((1, 20), 0.04)
    found, plain = (built(k)(x, noises, strengths, target)[0].flatten(1) for k in (kind, AverageANE()))
    cosine = F.cosine_similarity(found, plain)
    assert cosine.min() > (0.9 if isinstance(kind, AttentionANE) else 1 - 1e-5)
    # as long as noises at the target are expected to be, whatever the average lost
    wanted = noises.flatten(2).norm(dim=2)
    torch.testing.assert_close(found.norm(dim=1), (2 * wanted[0] + wanted[1]) / 3, rtol=1e-4, atol=0)


def counted(estimator: nn.Module) -> int:
    return sum(parameter.numel() for parameter in estimator.parameters())


def conv(given: int, out: int, side: int) -> int:
    return out * (given * side**2 + 1)


def dense(given: int, out: int) -> int:
    return out * (given + 1)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 64, 40)])
def test_parameters_of_attention_over_vectors(shape: tuple[int, int, int]) -> None:
    c = shape[0]
    refine, pooled, cell = conv(c, 100, 3) + conv(100, c, 3), conv(c, 10, 5), dense(20 + 90 + 90, 90)
    expected = refine + 3 * pooled + dense(1, 20) + 2 * cell + 4 * dense(90, 90)
    assert counted(built(AttentionANE(), shape)) == expected
    if c == 3:
        assert expected == 76_763  # the paper's 76.8 thousand
    assert counted(built(AttentionANE(form="text", softmax=True), shape)) == expected - 4 * dense(90, 90)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 64, 40)])
def test_parameters_of_estimators_with_maps(shape: tuple[int, int, int]) -> None:
    c, h, w = shape
    cell, code, missing = conv(2 * c + 1, 100, 3) + conv(100, c, 3), dense(1, h * w), h * w
    to_map = conv(2 * c, 100, 3) + conv(100, c, 3)
    keys = conv(2 * c, 100, 3) + conv(100, 50, 3)
    queries = conv(3 * c, 100, 3) + conv(100, 50, 3)
    without = 2 * cell + code + missing + to_map
    assert counted(built(MapANE(), shape)) == without
    assert counted(built(MapAttentionANE(), shape)) == without + keys + queries
    if shape == (3, 32, 32):
        assert (without + keys + queries, without) == (133_281, 29_481)  # the paper's 133.3 thousand
    assert counted(built(MapAttentionANE(depthwise=True), shape)) < counted(built(MapAttentionANE(), shape))
    assert counted(built(AverageANE(), shape)) == 0


Bad = Callable[[NoiseEstimator, Tensor, Tensor], Any]


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda e, x, d: e.estimate(x, d, (0.06, 0.03, 0.09), 0.05),
            "expected distinct eps in ascending order, got 0.03 after",
        ),
        (
            lambda e, x, d: e.estimate(x, d, (0.03, 0.03, 0.09), 0.05),
            "expected distinct eps in ascending order, got 0.03 twice",
        ),
        (lambda e, x, d: e.estimate(x, d, (0.0, 0.03, 0.09), 0.05), r"eps in \(0, 1\]"),
        (lambda e, x, d: e.estimate(x, d[:0], (), 0.05), "at least one"),
        (lambda e, x, d: e.estimate(x, d, (0.03, 0.06), 0.05), "expected 3 strengths, one for each noise, got 2"),
        (lambda e, x, d: e.estimate(x, d, KNOWN, 0.0), r"expected each target in \(0, 1\] .*got 0"),
        (lambda e, x, d: e.estimate(x, d, KNOWN, torch.ones(4)), r"expected one target or \(5,\), got \(4,\)"),
        (lambda e, x, d: e.estimate_all(x, d, KNOWN, ()), "at least one target"),
        (lambda e, x, d: e.estimate(x, d[0], KNOWN, 0.05), r"expected noises \(N1, 5, 1, 8, 8\), got \(5, 1, 8, 8\)"),
        (lambda e, x, d: e.estimate(x[..., 1:], d, KNOWN, 0.05), r"expected images \(n, 1, 8, 8\)"),
        (
            lambda e, x, d: e.estimate(x, d, -torch.ones(3, 5), 0.05),
            r"different, ascending strengths in \(0, 1\] for every",
        ),
        (lambda e, x, d: e.estimate(x, d, torch.ones(2, 5), 0.05), r"expected strengths \(3, 5\), got \(2, 5\)"),
    ],
)
def test_bad_input_is_named(call: Bad, message: str) -> None:
    x, noises = random_noises(3, 5, DATA.in_shape, KNOWN)
    for kind in (AverageANE(), MapANE()):
        with pytest.raises(ValueError, match=message):
            call(built(kind), x, noises)


def test_bad_settings_are_named() -> None:
    for make, message in (
        (lambda: AttentionANE(width=0), "expected width >= 1, got 0"),
        (lambda: MapAttentionANE(keys=0), "expected keys >= 1, got 0"),
        (lambda: AttentionANE(form="paper"), "form"),
        (lambda: NoiseTraining(samples=1), "expected algorithm.gradient.noises.samples >= 2"),
        (lambda: NoiseTraining(batches=0), "expected algorithm.gradient.noises.batches >= 1, or None, got 0"),
        (lambda: NoiseTraining(passes=0), "expected algorithm.gradient.noises.passes >= 1, got 0"),
        (lambda: NoiseTraining(reach=0.0), "expected algorithm.gradient.noises.reach > 0"),
        (lambda: built(MapAttentionANE(), (3, 0, 8)), "in_shape"),
        (lambda: BASIC.scaled(0), "factor > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


# --- real noises ----------------------------------------------------------------------------------------------------


def mean_losses(network: nn.Module, x: Tensor, y: Tensor, noises: Tensor) -> list[float]:
    with torch.no_grad():
        return [F.cross_entropy(network(x + noise), y).item() for noise in noises]


def anew(network: nn.Module, x: Tensor, y: Tensor, attack: GradientAttack, seed: int) -> Tensor:
    """Noises at the real strengths, each by an attack of its own."""
    # the random number that real_noises draws seeds its start
    start = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(seed)))
    noises = [
        attack.perturb(network, x, y, Threat(eps=Fraction(eps)), torch.Generator().manual_seed(start), keep_going=True)
        for eps in LARGE.real
    ]
    return torch.stack(noises) - x


@pytest.mark.parametrize("strengths", [(), (0.05, 0.0), (-0.1,)])
def test_real_noises_need_strengths(network: nn.Module, strengths: tuple[float, ...]) -> None:
    x, y = random_noises(1, 3, DATA.in_shape, KNOWN[:1])[0], torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"at least one strength, got none|each strength in \(0, 1\]"):
        real_noises(network, x, y, strengths, PGD(steps=1), torch.Generator())


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("attack", [PGD(steps=5), PGD(steps=3, restarts=3), MIFGSM(steps=5)], ids=str)
def test_real_noises_go_on_from_strength_to_strength(network: nn.Module, attack: GradientAttack, mode: str) -> None:
    images = SPLITS.val.take(slice(128))
    x, y, before = images.floats(), images.y, {k: v.clone() for k, v in network.state_dict().items()}
    own = network if mode == "eval" else copy.deepcopy(network).train()
    noises = real_noises(own, x, y, LARGE.real, attack, torch.Generator().manual_seed(1))
    assert noises.shape == (3, *x.shape)
    assert (noises.abs().amax((1, 2, 3, 4)) <= torch.tensor(LARGE.real) + 1e-6).all()
    assert (x + noises).min() >= 0 and (x + noises).max() <= 1
    assert own.training == (mode == "train")
    assert all(torch.equal(before[k], v) for k, v in own.state_dict().items())
    with undisturbed(own):
        losses = mean_losses(own, x, y, torch.cat((0 * x[None], noises)))
        independent = anew(own, x, y, attack, 1)
        others = mean_losses(own, x, y, independent)
    assert losses == sorted(losses) and losses[-1] > 2 * losses[0]
    # the smallest strength has nothing to go on from, the others are stronger for it
    assert torch.equal(noises[0], independent[0])
    assert losses[2] > others[1] and losses[3] > others[2]
    again = real_noises(own, x, y, LARGE.real, attack, torch.Generator().manual_seed(1))
    assert torch.equal(noises, again)


def test_noises_at_neighbouring_strengths_agree_where_one_goes_on_from_the_other(network: nn.Module) -> None:
    images = SPLITS.val.take(slice(128))
    x, y = images.floats(), images.y
    chained = real_noises(network, x, y, LARGE.real, PGD(steps=7), torch.Generator().manual_seed(1))

    def agreement(noises: Tensor) -> Tensor:
        return F.cosine_similarity(noises[:-1].flatten(2), noises[1:].flatten(2), dim=2).mean(1)

    assert (agreement(chained) > agreement(anew(network, x, y, PGD(steps=7), 1)) + 0.03).all()


def test_real_noises_do_not_depend_on_the_order_of_strengths(network: nn.Module) -> None:
    images, order = SPLITS.val.take(slice(32)), [2, 0, 1]
    x, y = images.floats(), images.y
    ascending = real_noises(network, x, y, LARGE.real, PGD(steps=3), torch.Generator().manual_seed(1))
    mixed = [LARGE.real[place] for place in order]
    assert torch.equal(
        ascending[order], real_noises(network, x, y, mixed, PGD(steps=3), torch.Generator().manual_seed(1))
    )


@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=1)], ids=str)
def test_single_steps_start_anew_at_each_strength(network: nn.Module, attack: GradientAttack) -> None:
    images = SPLITS.val.take(slice(32))
    x, y = images.floats(), images.y
    noises = real_noises(network, x, y, LARGE.real, attack, torch.Generator().manual_seed(1))
    assert torch.equal(noises, anew(network, x, y, attack, 1))
    # all from the same point: an attack of no length to speak of leaves it, scaled
    still = real_noises(network, x * 0 + 0.5, y, (0.1, 0.2), PGD(steps=1, step=Fraction(1e-9)), torch.Generator())
    torch.testing.assert_close(2 * still[0], still[1], atol=1e-6, rtol=0)


def test_spectrum_is_in_order_and_keeps_real_noises() -> None:
    x, noises = random_noises(3, 4, DATA.in_shape, BASIC.real)
    estimator = built(AverageANE())
    found = spectrum(estimator, x, noises, BASIC)
    assert torch.equal(found[::2], noises)
    for index in (1, 3, 5):
        assert torch.equal(found[index], estimator.estimate(x, noises, BASIC.real, float(BASIC.values[index])))
    assert torch.equal(spectrum(estimator, x, noises, STRENGTHS["naive-3"]), noises)
    assert len(spectrum(estimator, x, noises, STRENGTHS["plus"])) == 11
    with pytest.raises(ValueError, match="expected noises at 3 real strengths, got 2"):
        spectrum(estimator, x, noises[:2], BASIC)


# --- memory and training --------------------------------------------------------------------------------------------


def test_memory_keeps_the_last_images_in_order_of_strength() -> None:
    memory = NoiseMemory(capacity=5)
    for start in (0, 3, 6):
        x = torch.arange(start, start + 3).view(3, 1, 1, 1).expand(3, 1, 2, 2).float()
        strengths = torch.tensor([[0.3], [0.1], [0.2]]).expand(3, 3)
        memory.push(x, strengths.view(3, 3, 1, 1, 1).expand(3, 3, 1, 2, 2) + x, strengths)
    assert len(memory) == 5
    state = memory.state()
    assert state["x"][:, 0, 0, 0].tolist() == [4, 5, 6, 7, 8]
    torch.testing.assert_close(state["strengths"], torch.tensor([0.1, 0.2, 0.3]).expand(5, 3))
    # a noise here is its strength plus its image: nothing got mixed up
    torch.testing.assert_close(state["noises"][..., 0, 0, 0], state["strengths"] + state["x"][:, :1, 0, 0])
    index = torch.tensor([4, 0, 2, 4, 1, 1, 1, 3] * 4)
    x, noises, strengths, target, label = memory.left_out(index, torch.Generator().manual_seed(0))
    assert noises.shape == (2, 32, 1, 2, 2) and label.shape == (1, 32, 1, 2, 2)
    assert torch.equal(x, state["x"][index])
    torch.testing.assert_close(label[0, :, 0, 0, 0], target[0] + x[:, 0, 0, 0])
    torch.testing.assert_close(noises[..., 0, 0, 0], strengths + x[:, 0, 0, 0])
    assert (strengths[0] < strengths[1]).all()
    assert target.unique().tolist() == pytest.approx([0.1, 0.2, 0.3])
    torch.testing.assert_close(strengths.sum(0) + target[0], torch.full((32,), 0.6))


def test_memory_refuses_what_does_not_belong_together() -> None:
    memory = NoiseMemory(4)
    x, noises = random_noises(3, 2, (1, 2, 2), KNOWN)
    with pytest.raises(ValueError, match="k >= 2"):
        memory.push(x, noises[:1], torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"strengths \(k, n\)"):
        memory.push(x, noises, torch.ones(3))
    memory.push(x, noises, torch.tensor(KNOWN)[:, None].expand(-1, 2))
    with pytest.raises(ValueError, match="as those in the memory"):
        memory.push(x, noises[:2], torch.ones(2, 2))
    with pytest.raises(ValueError, match="push some first"):
        NoiseMemory(4).left_out(torch.tensor([0]), torch.Generator())
    with pytest.raises(ValueError, match="observe some first"):
        NoiseLearner(AverageANE(), DATA.in_shape, BASIC, seed=0).learn()


def test_extra_strengths_reach_as_far_as_the_paper_and_miss_the_real_ones() -> None:
    learner = NoiseLearner(AverageANE(), DATA.in_shape, BASIC, seed=0)
    drawn = torch.tensor([learner.extra_strength() for _ in range(2000)])
    assert drawn.min() > 0 and 0.149 < drawn.max() <= 0.15 + 1e-6
    assert drawn.mean() == pytest.approx(0.075, abs=0.003)
    assert all((drawn - real).abs().min() > 1e-4 for real in BASIC.real)
    assert max(NoiseLearner(AverageANE(), DATA.in_shape, LARGE, seed=0).extra_strength() for _ in range(50)) <= 0.3


def observing(kind: Estimator, network: nn.Module, seed: int = 3, epochs: int = 2) -> NoiseLearner:
    training = NoiseTraining(memory=40, batches=2, batch_size=16, passes=2)
    learner = NoiseLearner(kind, DATA.in_shape, LARGE, training, seed=seed)
    go_on(learner, network, 0, epochs)
    return learner


def go_on(learner: NoiseLearner, network: nn.Module, first: int, last: int) -> list[float]:
    found = []
    for epoch in range(first, last):
        generator = torch.Generator().manual_seed(epoch)
        found.append(learner.epoch(network, SPLITS.train.take(slice(120)), PGD(steps=2), generator))
    return found


@pytest.mark.parametrize(
    "kind", [AverageANE(), AttentionANE(width=8), MapAttentionANE(width=8, keys=4), MapANE(width=8)], ids=str
)
def test_training_repeats_and_resumes_to_the_bit(kind: Estimator, network: nn.Module, tmp_path: Path) -> None:
    straight = observing(kind, network)
    assert len(straight.memory) == 40
    path = tmp_path / "learner.safetensors"
    write_tensors(path, straight.state())
    rest = go_on(straight, network, 2, 4)
    resumed = NoiseLearner(kind, DATA.in_shape, LARGE, straight.training, seed=3)
    resumed.restore(read_tensors(path)[0])
    assert go_on(resumed, network, 2, 4) == rest
    once_more = observing(kind, network, epochs=4)
    for other in (resumed, once_more):
        assert other.state().keys() == straight.state().keys()
        assert all(torch.equal(value, straight.state()[name]) for name, value in other.state().items())
    different = observing(kind, network, seed=4, epochs=1).state()
    assert not torch.equal(different["memory.noises"], observing(kind, network, epochs=1).state()["memory.noises"])


def test_an_empty_memory_is_stored_too(tmp_path: Path) -> None:
    learner = NoiseLearner(MapANE(width=4), DATA.in_shape, BASIC, seed=0)
    write_tensors(tmp_path / "learner.safetensors", learner.state())
    other = NoiseLearner(MapANE(width=4), DATA.in_shape, BASIC, seed=1)
    other.restore(read_tensors(tmp_path / "learner.safetensors")[0])
    assert len(other.memory) == 0
    assert all(torch.equal(value, learner.state()[name]) for name, value in other.state().items())


def test_global_random_numbers_are_left_alone(network: nn.Module) -> None:
    before = torch.get_rng_state()
    observing(MapANE(width=4), network, epochs=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.fixture(scope="module")
def remembered(network: nn.Module) -> NoiseLearner:
    """A memory of training images, for every kind of estimator to learn from."""
    learner = NoiseLearner(AverageANE(), DATA.in_shape, LARGE, NoiseTraining(memory=320), seed=0)
    for x, y in batches(SPLITS.train.take(slice(320)), 64):
        learner.observe(network, x, y, PGD(steps=5))
    return learner


@pytest.mark.parametrize("kind", [AttentionANE(width=24), MapAttentionANE(width=24, keys=8), MapANE(width=24)], ids=str)
def test_learning_lowers_the_loss_on_noises_of_other_images(
    kind: Estimator, network: nn.Module, remembered: NoiseLearner
) -> None:
    learner = NoiseLearner(kind, DATA.in_shape, LARGE, NoiseTraining(memory=320, passes=15, lr=2e-3), seed=0)
    learner.memory.restore(remembered.memory.state(), learner.device)
    images = SPLITS.val.take(slice(128))
    x = images.floats()
    held = real_noises(network, x, images.y, LARGE.values, PGD(steps=5), torch.Generator().manual_seed(9))

    @torch.no_grad()
    def loss() -> float:
        """Of the noises at the strengths that a search estimates."""
        known, targets = (torch.tensor(eps)[:, None].expand(-1, len(x)) for eps in (LARGE.real, LARGE.estimated))
        return (learner.estimator(x, held[::2], known, targets) - held[1::2]).square().mean().item()

    untrained = loss()
    assert math.isfinite(learner.learn())
    assert loss() < 0.99 * untrained
