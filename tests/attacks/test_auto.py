"""Auto-PGD, and the losses that do not fade with the scale of the logits."""

from __future__ import annotations

import pytest
import torch
from attackable import linear_problem, seeded
from torch import Tensor, nn

from evo_robust.attacks.auto import APGD, checkpoints
from evo_robust.attacks.base import Norm, Threat
from evo_robust.attacks.boundaries import nearest_first, rivals
from evo_robust.attacks.curve import robust_curve
from evo_robust.attacks.gradient import PGD, GradientAttack
from evo_robust.attacks.losses import attack_loss, dlr, probability_margin, targeted_dlr
from evo_robust.data.images import Images
from evo_robust.parts.base import Fraction

GREY = 128


def test_checkpoints_are_those_of_the_authors() -> None:
    # n_iter=100, 50 and 20 of autopgd_base.py, followed by hand
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(50) == (11, 21, 30, 38, 45)
    assert checkpoints(20)[:6] == (4, 7, 9, 10, 11, 12)
    assert checkpoints(1) == ()


def test_many_steps_cost_no_memory_before_they_are_made() -> None:
    model, images = linear_problem()
    assert robust_curve(model, images, APGD(steps=10**12), (1.0,), generator=seeded()).error == (1.0,)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_breaks_exactly_what_can_be_broken(norm: Norm) -> None:
    model, images = linear_problem()
    x = images.floats()
    dual = model.w.abs().sum() if norm == "linf" else model.w.norm()
    nearest = (model.score(x).abs() / dual).detach()
    eps = sorted(nearest.quantile(q).item() for q in (0.25, 0.5, 0.75))
    curve = robust_curve(model, images, APGD(steps=20), eps, norm, generator=seeded())
    for strength, error in zip(eps, curve.error, strict=True):
        assert error == pytest.approx((nearest <= strength).double().mean().item(), abs=0.01)


class Valley(nn.Module):
    """The wrong class leads only within 0.002 of 0.03 from the image: a step of fixed length passes over it."""

    def forward(self, x: Tensor) -> Tensor:
        away = (x.mean((1, 2, 3)) - GREY / 255 - 0.03).abs()
        return torch.stack((away - 0.002, torch.zeros_like(away)), 1)


def grey(n: int) -> Images:
    """Images that are grey all over, of class 0."""
    return Images(torch.full((n, 1, 4, 4), GREY, dtype=torch.uint8), torch.zeros(n, dtype=torch.long))


def test_steps_shrink_until_they_fit() -> None:
    images = grey(20)
    fixed = PGD(steps=30, step=0.05, random_start=True, loss="margin")  # type: ignore[arg-type] # a float will do
    assert robust_curve(Valley(), images, fixed, (0.1,), generator=seeded()).error[0] < 0.8
    assert robust_curve(Valley(), images, APGD(steps=30, loss="margin"), (0.1,), generator=seeded()).error[0] == 1


class Loud(nn.Module):
    """A network whose softmax is so sharp that float32 knows no other class."""

    def __init__(self, quiet: nn.Module) -> None:
        super().__init__()
        self.quiet = quiet

    def forward(self, x: Tensor) -> Tensor:
        return 1e5 * self.quiet(x)


@pytest.mark.parametrize("loss", ["dlr", "targeted-dlr"])
def test_loud_logits_hide_nothing_from_a_ratio(loss: str, trained: nn.Module, held_out: Images) -> None:
    images, eps = held_out.take(slice(100)), (0.1,)
    attack = APGD(steps=10, loss=loss)  # type: ignore[arg-type] # one of its names
    quiet = robust_curve(trained, images, attack, eps, generator=seeded()).error[0]
    loud = robust_curve(Loud(trained), images, attack, eps, generator=seeded()).error[0]
    by_entropy = robust_curve(Loud(trained), images, APGD(steps=10), eps, generator=seeded()).error[0]
    assert loud == pytest.approx(quiet, abs=0.02)
    assert by_entropy < loud - 0.05


class Decoy(nn.Module):
    """Class 1 is the likeliest wrong one and seems the nearest, but is out of reach; class 2 is within reach."""

    def forward(self, x: Tensor) -> Tensor:
        left, right = (10 * (half.mean((1, 2, 3)) - GREY / 255) for half in x.chunk(2, 3))
        none = torch.zeros_like(left)
        return torch.stack((none + 1, none + 0.95 - 10 * (left - 0.02).abs(), right, none - 5, none - 6), 1)


def test_each_start_aims_at_another_class() -> None:
    images = grey(8)
    one, two = (APGD(steps=20, loss="targeted-dlr", restarts=k) for k in (1, 2))
    assert robust_curve(Decoy(), images, one, (0.15,), generator=seeded()).error == (0.0,)
    assert robust_curve(Decoy(), images, two, (0.15,), generator=seeded()).error == (1.0,)
    assert two.words == "APGD-T-20" and APGD().words == "APGD-CE-100"


def test_it_is_no_weaker_than_pgd_of_as_many_steps(trained: nn.Module, held_out: Images) -> None:
    attacks: list[GradientAttack] = [PGD(steps=20), APGD(steps=20)]
    pgd, apgd = (robust_curve(trained, held_out, a, (0.05, 0.1, 0.15), generator=seeded()) for a in attacks)
    assert all(ours >= theirs - 0.01 for ours, theirs in zip(apgd.error, pgd.error, strict=True))
    assert apgd.error[0] > apgd.clean_error


def test_an_image_s_fate_does_not_depend_on_its_batch(trained: nn.Module, held_out: Images) -> None:
    images, attack = held_out.take(slice(60)), APGD(steps=12, restarts=2, loss="targeted-dlr")
    levels = [
        robust_curve(trained, images, attack, (0.05, 0.1), generator=seeded(), batch_size=size).level
        for size in (7, 60)
    ]
    assert (levels[0] == levels[1]).double().mean() > 0.95  # but for rounding


def test_losses_by_hand() -> None:
    logits = torch.tensor([[4.0, 1.0, 2.0, 0.0], [1.0, 3.0, 2.0, 0.0]])
    y = torch.tensor([0, 0])
    assert dlr(logits, y).tolist() == pytest.approx([(2 - 4) / (4 - 1), (3 - 1) / (3 - 1)])
    target = torch.tensor([1, 2])
    assert targeted_dlr(logits, y, target).tolist() == pytest.approx([(1 - 4) / (4 - 0.5), (2 - 1) / (3 - 0.5)])
    p = logits.softmax(1)
    lead = torch.stack((p[0, 2] - p[0, 0], p[1, 1] - p[1, 0]))
    assert probability_margin(logits, y).tolist() == pytest.approx(lead.tolist())
    for name, value in (("dlr", dlr(logits, y)), ("probability-margin", probability_margin(logits, y))):
        assert torch.equal(attack_loss(name, logits, y, None), value)  # type: ignore[arg-type]


class Slanted(nn.Module):
    """Logits of one pixel a: the likeliest wrong class is 2, but class 3 rises so fast that its boundary is nearer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = x[:, 0, 0, 0]
        return torch.stack((2 + 0 * a, 1 + 0.1 * a, 1.9 + 0.1 * a, 1 + 8 * a), 1)


def test_a_targeted_start_aims_at_the_nearest_boundary_first() -> None:
    images = Images(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    x, y = images.floats(), images.y
    others = rivals(Slanted()(x), y, 9)
    assert others.shape == (3, 3) and set(others[0, :1].tolist()) == {2}  # by logits
    # distances by hand: class 3 is 1/8 away, class 2 1, class 1 10
    assert nearest_first(Slanted(), x, y, "linf", 9).tolist() == [[3, 2, 1]] * 3
    assert nearest_first(Slanted(), x, y, "linf", 2).shape == (3, 2)
    attack = APGD(loss="targeted-dlr", restarts=3)
    reference = attack.reference(Slanted(), x, y, "linf", 3)
    aims = [attack.aim(reference, k) for k in range(4)]
    assert [int(aim[0]) for aim in aims if aim is not None] == [3, 2, 1, 3], "after the last comes the first again"
    # one start suffices within 1/8 and a little: the likeliest class is out of reach
    level = robust_curve(Slanted(), images, APGD(loss="targeted-dlr", steps=5), (0.2,), generator=seeded()).level
    assert level.tolist() == [0, 0, 0]


def test_classes_that_no_step_reaches_come_last() -> None:
    class Flat(Slanted):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = super().forward(x)
            return torch.cat((logits[:, :3], logits[:, 3:].detach()), 1)

    x, y = torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64)
    assert nearest_first(Flat(), x, y, "l2", 9).tolist() == [[2, 1, 3]] * 2


def test_four_classes_by_distance_break_what_nine_do(trained: nn.Module, held_out: Images) -> None:
    levels = [
        robust_curve(
            trained, held_out, APGD(steps=20, loss="targeted-dlr", restarts=n), (0.1, 0.15), generator=seeded()
        ).level
        for n in (4, 9)
    ]
    assert (levels[0] - levels[1]).sum() <= 2  # of two strengths and all images


@pytest.mark.parametrize(("loss", "least"), [("dlr", 3), ("targeted-dlr", 4)])
def test_too_few_classes_are_said(loss: str, least: int) -> None:
    model, images = linear_problem(n=4)
    with pytest.raises(ValueError, match=f"at least {least} classes for loss {loss}, got 2: loss=margin"):
        robust_curve(model, images, APGD(loss=loss), (0.1,), generator=seeded())  # type: ignore[arg-type]


@pytest.mark.parametrize("fields", [{"steps": 0}, {"restarts": 0}, {"loss": "loud"}])
def test_bad_settings_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        APGD(**fields)  # type: ignore[arg-type]


def test_in_training_the_best_point_is_taken(trained: nn.Module, held_out: Images) -> None:
    x, y = held_out.floats(slice(40)), held_out.y[:40]
    threat = Threat(eps=Fraction(0.1))

    def loss(images: Tensor) -> Tensor:
        return nn.functional.cross_entropy(trained(images), y, reduction="none").detach()

    found = APGD(steps=15).perturb(trained, x, y, threat, seeded(), keep_going=True)
    last = PGD(steps=15, step=Fraction(0.2)).perturb(trained, x, y, threat, seeded(), keep_going=True)
    assert (found - x).abs().max() <= 0.1 + 1e-6
    assert loss(found).mean() > loss(last).mean() > loss(x).mean()
