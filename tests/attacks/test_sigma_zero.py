"""The gradient attack on numbers of pixels, against networks for which the fewest pixels are known."""

from __future__ import annotations

import copy

import chz
import pytest
import torch
from attackable import seeded
from torch import Tensor, nn

from evo_robust.adversarial_set.making import AdversarialSet
from evo_robust.attacks.level.attack import CMAES
from evo_robust.attacks.level.base import LevelAttack
from evo_robust.attacks.level.sigma_zero import SigmaZero, changed
from evo_robust.data.images import Images
from evo_robust.inference.predictions import classes

LEVELS = (1, 3, 5, 10)
SHAPE = (3, 6, 6)
SWAPS, ZERO = SigmaZero(steps=0), SigmaZero(swaps=0, steps=300)


class Weighed(nn.Module):
    """Two classes: class 1 where the weighed sum of all values exceeds the image's own by ``needed``."""

    def __init__(self, x: Tensor, needed: Tensor) -> None:
        super().__init__()
        self.w = torch.randn(SHAPE, generator=seeded(1))
        self.x, self.needed = x, needed

    def forward(self, x: Tensor) -> Tensor:
        # each image finds its own bound by the one that it is closest to
        mine = torch.cdist(x.flatten(1), self.x.flatten(1), p=0).argmin(1).detach()
        score = ((x - self.x[mine]) * self.w).sum((1, 2, 3)) - self.needed[mine]
        return torch.stack((torch.zeros_like(score), score), 1)


def gains(w: Tensor, x: Tensor) -> Tensor:
    """What each pixel adds at most to the weighed sum, ``(n, h · w)``, largest first."""
    return torch.where(w > 0, w * (1 - x), -w * x).sum(1).flatten(1).sort(1, descending=True).values


@pytest.fixture(scope="module")
def linear() -> tuple[Weighed, Tensor, Tensor, Tensor]:
    """A linear network, images, classes, and the fewest pixels that can break each image."""
    x = torch.randint(0, 256, (48, *SHAPE), generator=seeded(2)).float() / 255
    model = Weighed(x, torch.zeros(len(x)))
    best = gains(model.w, x).cumsum(1)
    pixels = torch.arange(len(x)) % 12 + 1
    # nine tenths of the way from what one pixel fewer can add
    before = torch.where(pixels > 1, best.gather(1, (pixels - 2).clamp_min(0)[:, None]).squeeze(1), 0.0)
    model.needed = before + 0.9 * (best.gather(1, pixels[:, None] - 1).squeeze(1) - before)
    return model, x, torch.zeros(len(x), dtype=torch.long), pixels


@pytest.mark.parametrize("attack", [SWAPS, SigmaZero()], ids=["swaps", "both"])
def test_it_needs_the_fewest_pixels_of_a_linear_network(attack: SigmaZero, linear: tuple) -> None:
    model, x, y, fewest = linear
    found = attack.ladder(model, x, y, LEVELS, seeded())
    assert torch.equal(found.reached, torch.bucketize(fewest, torch.tensor(LEVELS)))
    assert {0, 1, 2, 3, 4} == set(found.reached.tolist())


def test_sigma_zero_alone_comes_close(linear: tuple) -> None:
    model, x, y, fewest = linear
    found = ZERO.ladder(model, x, y, LEVELS, seeded())
    best = torch.bucketize(fewest, torch.tensor(LEVELS))
    assert (found.reached >= best).all() and (found.reached == best).float().mean() > 0.6


@pytest.mark.parametrize("attack", [SWAPS, ZERO, SigmaZero(steps=20), CMAES(max_iter=20)])
def test_what_it_finds_is_what_it_says(attack: LevelAttack, trained: nn.Module, held_out: Images) -> None:
    x, y = held_out.floats(slice(40)), held_out.y[:40]
    before = copy.deepcopy(trained.state_dict())
    trained.train()
    try:
        found = attack.ladder(trained, x, y, LEVELS, seeded())
        assert trained.training
    finally:
        trained.eval()
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in trained.parameters())
    right, broken = classes(trained(x)) == y, found.reached < len(LEVELS)
    assert broken.sum() > 10 and not broken[~right].any() and not found.queries[~right].any()
    assert torch.equal(broken, right & (classes(trained(found.x_adv)) != y))
    count = changed(found.x_adv - x).flatten(1).sum(1)
    assert (count[broken] <= torch.tensor(LEVELS)[found.reached[broken]]).all() and not count[~broken].any()
    grey = found.x_adv * 255
    assert torch.allclose(grey, grey.round(), atol=1e-3) and found.x_adv.min() >= 0 and found.x_adv.max() <= 1


def test_it_breaks_what_the_black_box_attack_breaks_and_more(trained: nn.Module, held_out: Images) -> None:
    x, y = held_out.floats(slice(60)), held_out.y[:60]
    ours = SigmaZero(steps=50).ladder(trained, x, y, (1, 3), seeded()).reached
    black_box = CMAES(max_iter=30).ladder(trained, x, y, (1, 3), seeded()).reached
    for k in range(2):
        assert (ours <= k).sum() > (black_box <= k).sum()


def test_results_depend_neither_on_neighbours_nor_on_chance(trained: nn.Module, held_out: Images) -> None:
    x, y = held_out.floats(slice(12)), held_out.y[:12]
    attack = SigmaZero(steps=30)
    whole = attack.ladder(trained, x, y, LEVELS, seeded())
    again = attack.ladder(trained, x, y, LEVELS, seeded(1))
    few = attack.ladder(trained, x[3:6], y[3:6], LEVELS, seeded())
    assert torch.equal(whole.x_adv, again.x_adv) and torch.equal(whole.reached[3:6], few.reached)


def test_levels_known_before_are_only_improved(linear: tuple) -> None:
    model, x, y, fewest = linear
    best = torch.bucketize(fewest, torch.tensor(LEVELS))
    known = torch.where(torch.arange(len(y)) % 3 == 0, -1, torch.where(torch.arange(len(y)) % 3 == 1, 1, 4))
    for attack in (SWAPS, CMAES(max_iter=5)):
        found = attack.ladder(model, x, y, LEVELS, seeded(), known=known)
        assert (found.reached <= known).all() and (found.reached[known == -1] == -1).all()
        assert not found.queries[known == -1].any()
    assert torch.equal(SWAPS.ladder(model, x, y, LEVELS, seeded(), known=known).reached, torch.minimum(best, known))
    with pytest.raises(ValueError, match=r"expected known levels int64 \(48,\), got torch.bool"):
        SWAPS.ladder(model, x, y, LEVELS, seeded(), known=known > 0)


def test_a_planted_pixel_without_a_gradient_is_found() -> None:
    class Dark(nn.Module):
        """Class 1 once the pixel at row 4, column 2 is all white; the gradient is zero until then."""

        def forward(self, x: Tensor) -> Tensor:
            light = x[:, :, 4, 2].mean(1)
            lead = torch.where(light > 0.9, light, 0 * light - 1)
            return torch.stack((0 * lead, lead), 1)

    x, y = torch.zeros(2, *SHAPE), torch.zeros(2, dtype=torch.long)
    found = SigmaZero(swaps=10, steps=0, candidates=36).perturb_levels(Dark(), x, y, seeded())
    assert found.success.all() and (found.x_adv[:, :, 4, 2] == 1).all() and found.x_adv.sum() == 6


def test_a_single_level_is_its_part_of_the_ladder(linear: tuple) -> None:
    model, x, y, fewest = linear
    for level in (1, 5):
        found = chz.replace(SWAPS, level=level).perturb_levels(model, x, y, seeded())
        assert torch.equal(found.success, fewest <= level)


def test_without_images_or_correct_ones(linear: tuple) -> None:
    model, x, y, _ = linear
    assert SigmaZero().ladder(model, x[:0], y[:0], LEVELS, seeded()).x_adv.shape == (0, *SHAPE)
    wrong = SigmaZero().perturb_levels(model, x[:5], y[:5] + 1, seeded())
    assert not wrong.success.any() and not wrong.queries.any() and torch.equal(wrong.x_adv, x[:5])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "linf"}, "expected norm l0, got 'linf'"),
        ({"level": 0}, "expected level >= 1"),
        ({"swaps": 0, "steps": 0}, "not both 0"),
        ({"candidates": 0}, "candidates >= 1"),
        ({"lr": 0.0}, "expected lr > 0"),
        ({"sigma": 0.0}, "expected sigma > 0"),
        ({"threshold": 2.0}, "threshold in"),
        ({"adapt": -1.0}, "adapt >= 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SigmaZero(**settings)


def test_bad_levels_and_images_are_refused(linear: tuple) -> None:
    model, x, y, _ = linear
    for attack in (SigmaZero(), CMAES()):
        with pytest.raises(ValueError, match="36 pixels"):
            attack.ladder(model, x, y, (1, 37), seeded())
        for levels in ((), (3, 1), (2, 2)):
            with pytest.raises(ValueError, match="expected distinct levels in ascending order"):
                attack.ladder(model, x, y, levels, seeded())
        with pytest.raises(ValueError, match="multiples of 1/255"):
            attack.ladder(model, (x + 0.3 / 255) / 2, y, LEVELS, seeded())
    with pytest.raises(ValueError, match="expected a network with a gradient"):
        SigmaZero().ladder(_Cut(), x, y, LEVELS, seeded())


class _Cut(nn.Module):
    """Always class 0, and no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.detach().mean((1, 2, 3))
        return torch.stack((bright + 1, bright), 1)


def test_an_adversarial_set_takes_it_for_pixels_alone() -> None:
    made = AdversarialSet(optimiser=SigmaZero(), norms=("l0",))
    assert made.optimiser.norms() == ("l0",)
    with pytest.raises(ValueError, match=r"expected norms that SigmaZero knows \(l0\), got linf: give norms=l0"):
        AdversarialSet(optimiser=SigmaZero())
