"""Gradient attacks against a model whose nearest adversarial point is known, and against trained networks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import chz
import pytest
import torch
from attackable import Linear, linear_problem, seeded
from torch import Tensor, nn

from evo_robust.attacks.ball import project, unit_noise
from evo_robust.attacks.base import Attack, Norm, Threat
from evo_robust.attacks.cascade import Cascade
from evo_robust.attacks.curve import robust_curve
from evo_robust.attacks.fast import fold_batch_norm, for_attack
from evo_robust.attacks.gradient import BIM, FGSM, MIFGSM, PGD, GradientAttack
from evo_robust.attacks.losses import cross_entropy, kl_divergence, margin
from evo_robust.data.images import Images
from evo_robust.inference.predictions import clean_error, correct_mask, eval_mode, predictions
from evo_robust.parts.base import Fraction

ATTACKS: list[GradientAttack] = [
    FGSM(),
    BIM(),
    MIFGSM(),
    PGD(),
    PGD(loss="margin", steps=10),
    PGD(loss="kl", steps=10),
    PGD(steps=5, restarts=2),
]
NORMS: list[Norm] = ["linf", "l2"]
EPS: dict[str, float] = {"linf": 0.15, "l2": 0.6}


@pytest.fixture(autouse=True)
def global_randomness_untouched() -> Iterator[None]:
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state())


# ---- the linear model: what breaks each image is known


# KL pushes away from the clean probabilities, here as often towards the true class
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.loss != "kl"], ids=repr)
def test_linear_model_breaks_exactly_where_it_must(attack: GradientAttack, norm: Norm) -> None:
    model, images = linear_problem()
    w = model.w.detach()
    dual = w.abs().sum() if norm == "linf" else w.square().sum().sqrt()
    breaking = model.score(images.floats()).detach().abs() / dual
    eps = torch.quantile(breaking, torch.tensor([0.2, 0.5, 0.8])).tolist()
    curve = robust_curve(model, images, attack, eps, norm, generator=seeded(), batch_size=32)
    expected = torch.searchsorted(torch.tensor(eps), breaking)
    # projected steps in the L2 ball approach the nearest point, they do not hit it to the last digit
    clear = ((breaking[:, None] / torch.tensor(eps) - 1).abs() > 0.02).all(1)
    assert clear.float().mean() > 0.8
    assert torch.equal(curve.level[clear], expected[clear])
    assert curve.clean_error == 0.0


@pytest.mark.parametrize("attack", [FGSM(), BIM(), MIFGSM(), PGD()], ids=repr)
def test_saturated_pixels_are_used_as_far_as_they_go(attack: GradientAttack) -> None:
    model, images = linear_problem(low=0, high=256)
    x = images.x.clone()
    x[:, :, :2] = torch.where(x[:, :, :2] < 128, 0, 255)
    images = Images(x, (model.score(x.float() / 255) > 0).long())
    pixels, way = images.floats(), (1 - 2 * images.y).view(-1, 1, 1, 1) * model.w.detach()
    room = torch.where(way > 0, 1 - pixels, pixels).clamp_max(0.1)
    breaks = (room * way.abs()).sum((1, 2, 3)) > model.score(pixels).detach().abs()
    curve = robust_curve(model, images, attack, [0.1], generator=seeded())
    assert curve.error[0] == pytest.approx(breaks.double().mean().item(), abs=0.006)
    assert 0.1 < curve.error[0] < 0.95


# ---- every attack: ball, range, traces


@pytest.mark.parametrize("keep_going", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_adversarial_images_stay_in_ball_and_range(
    attack: GradientAttack, norm: Norm, keep_going: bool, trained: nn.Module, held_out: Images
) -> None:
    x, y = held_out.floats(slice(60)), held_out.y[:60]
    threat = Threat(norm=norm, eps=Fraction(EPS[norm]))
    found = attack.perturb(trained, x, y, threat, seeded(), keep_going=keep_going)
    assert found.shape == x.shape and found.dtype == x.dtype and not found.requires_grad
    assert found.min() >= 0 and found.max() <= 1
    distance = (found - x).flatten(1).norm(p=torch.inf if norm == "linf" else 2, dim=1)
    assert distance.max() <= threat.eps * (1 + 1e-5) + 1e-6
    before, after = (correct_mask_of(trained, z, y).sum() for z in (x, found))
    assert after < before - 5


def correct_mask_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return model(x).argmax(1) == y


def state(model: nn.Module) -> tuple[object, ...]:
    """Everything of a model that an attack might disturb."""
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    tracking = [getattr(m, "track_running_stats", None) for m in model.modules()]
    return tensors, modes, flags, grads, tracking


def assert_same_state(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=0)
    torch.testing.assert_close(one[3], other[3], rtol=0, atol=0)
    assert (one[1], one[2], one[4]) == (other[1], other[2], other[4])


@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_model_is_left_as_it_was(attack: GradientAttack, mode: str, trained: nn.Module, held_out: Images) -> None:
    model = copy.deepcopy(trained).train(mode == "train")
    if mode == "mixed":
        model[2].train()  # type: ignore[index]
    next(model.parameters()).requires_grad_(False)
    last = list(model.parameters())[-1]
    last.grad = torch.ones_like(last)
    before = state(model)
    attack.perturb(model, held_out.floats(slice(20)), held_out.y[:20], Threat(), seeded())
    assert_same_state(before, state(model))
    robust_curve(model, held_out.take(slice(20)), attack, [0.05], generator=seeded())
    assert_same_state(before, state(model))


def test_model_is_left_as_it_was_when_an_attack_fails(trained: nn.Module, held_out: Images) -> None:
    class Failing(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    model = Failing(*copy.deepcopy(trained)).train()
    before = state(model)
    with pytest.raises(RuntimeError, match="no"):
        PGD().perturb(model, held_out.floats(), held_out.y, Threat(), seeded())
    with pytest.raises(RuntimeError, match="no"):
        robust_curve(model, held_out, PGD(), [0.1], generator=seeded())
    assert_same_state(before, state(model))


def test_attacks_of_a_model_in_train_mode_use_batch_statistics(trained: nn.Module, held_out: Images) -> None:
    x, y = held_out.floats(slice(40)), held_out.y[:40]
    one, other = copy.deepcopy(trained).train(), copy.deepcopy(trained).train()
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean += 3
    found = [PGD(steps=3).perturb(m, x, y, Threat(), seeded()) for m in (one, other, trained)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_early_drop_is_refused_in_train_mode(trained: nn.Module, held_out: Images) -> None:
    model = copy.deepcopy(trained).train()
    with pytest.raises(ValueError, match="eval mode"):
        PGD().perturb(model, held_out.floats(), held_out.y, Threat(), seeded(), keep_going=False)


# ---- strength


def test_more_restarts_steps_and_strength_never_help_the_network(trained: nn.Module, held_out: Images) -> None:
    eps = [0.05, 0.1, 0.15, 0.2]

    def error(attack: GradientAttack) -> list[float]:
        return list(robust_curve(trained, held_out, attack, eps, generator=seeded()).error)

    weak, strong, stronger = error(FGSM()), error(PGD(steps=20)), error(PGD(steps=20, restarts=3))
    assert weak == sorted(weak) and strong == sorted(strong) and stronger == sorted(stronger)
    assert all(a <= b <= c for a, b, c in zip(weak, strong, stronger, strict=True))
    assert 0.05 < strong[0] < strong[-1] <= 1 and weak[-1] < strong[-1]


@pytest.mark.parametrize("attack", [FGSM(), BIM(), MIFGSM(), PGD(), PGD(loss="margin")], ids=repr)
def test_one_pass_is_as_strong_as_one_attack_per_strength(
    attack: GradientAttack, trained: nn.Module, held_out: Images
) -> None:
    eps = [0.04, 0.1, 0.16, 0.22]
    curve = robust_curve(trained, held_out, attack, eps, generator=seeded(), batch_size=40)
    for strength, error in zip(eps, curve.error, strict=True):
        found = attack.perturb(
            trained, held_out.floats(), held_out.y, Threat(eps=Fraction(strength)), seeded(1), keep_going=True
        )
        alone = (~correct_mask_of(trained, found, held_out.y)).double().mean().item()
        assert error >= alone - 0.01  # three of 300 images: the luck of random starts


def test_restarts_of_training_attacks_keep_the_highest_loss(trained: nn.Module, held_out: Images) -> None:
    x, y, threat = held_out.floats(), held_out.y, Threat(eps=Fraction(0.15))
    one = PGD(steps=2).perturb(trained, x, y, threat, seeded(), keep_going=True)
    best = PGD(steps=2, restarts=4).perturb(trained, x, y, threat, seeded(), keep_going=True)
    loss_of_one, loss_of_best = (cross_entropy(trained(z), y) for z in (one, best))
    assert (loss_of_best >= loss_of_one - 1e-5).all() and (loss_of_best > loss_of_one + 1e-3).any()


@pytest.mark.parametrize("norm", NORMS)
def test_a_given_start_is_gone_on_from(norm: Norm, trained: nn.Module, held_out: Images) -> None:
    x, y, threat = held_out.floats(), held_out.y, Threat(norm=norm, eps=Fraction(EPS[norm]))
    still = PGD(steps=1, step=Fraction(1e-9))
    first = PGD(steps=3).perturb(trained, x, y, threat, seeded(), keep_going=True)
    again = still.perturb(trained, x, y, threat, seeded(1), keep_going=True, start=first - x)
    torch.testing.assert_close(again, first, atol=1e-6, rtol=0)
    # one from outside is moved into ball and range
    far = still.perturb(trained, x, y, threat, seeded(1), keep_going=True, start=9 * (first - x))
    distance = (far - x).flatten(1).norm(p=torch.inf if norm == "linf" else 2, dim=1)
    assert distance.max() <= threat.eps * (1 + 1e-5) + 1e-6 and far.min() >= 0 and far.max() <= 1
    # further starts stay random, the strongest is kept
    more = PGD(steps=1, step=Fraction(1e-9), restarts=2)
    kept = more.perturb(trained, x, y, threat, seeded(1), keep_going=True, start=first - x)
    assert (cross_entropy(trained(kept), y) >= cross_entropy(trained(first), y) - 1e-5).all()
    for keep_going, start in ((False, first - x), (True, first[:3])):
        with pytest.raises(ValueError, match=r"expected keep_going=True and start \(300, 1, 8, 8\)"):
            PGD().perturb(trained, x, y, threat, seeded(), keep_going=keep_going, start=start)


def test_a_single_step_that_breaks_counts_although_no_step_follows() -> None:
    model, images = linear_problem()
    needed = (model.score(images.floats()).abs() / model.w.abs().sum()).max().item()
    assert robust_curve(model, images, FGSM(), [needed * 1.01], generator=seeded()).error == (1.0,)
    assert robust_curve(model, images, PGD(steps=1), [needed * 3], generator=seeded()).error == (1.0,)


# ---- the curve


@pytest.mark.parametrize("precision", ["float32", "bf16", "auto"])
@pytest.mark.parametrize("norm", NORMS)
def test_claimed_images_do_break_the_model(norm: Norm, precision: str, trained: nn.Module, held_out: Images) -> None:
    eps = [EPS[norm] / 2, EPS[norm], EPS[norm] * 2]
    curve = robust_curve(trained, held_out, PGD(), eps, norm, generator=seeded(), precision=precision, keep_images=True)  # type: ignore[arg-type]
    assert curve.images is not None
    correct = correct_mask_of(trained, curve.images, held_out.y)
    assert torch.equal(correct, curve.level == len(eps))
    assert torch.equal(curve.level == -1, ~correct_mask(trained, held_out))
    distance = (curve.images - held_out.floats()).flatten(1).norm(p=torch.inf if norm == "linf" else 2, dim=1)
    radius = torch.tensor([0.0, *eps, eps[-1]])[curve.level + 1]
    assert (distance <= radius * (1 + 1e-5) + 1e-6).all()
    assert curve.error == tuple((curve.level <= k).double().mean().item() for k in range(3))
    assert curve.clean_error == clean_error(trained, held_out)


def test_half_precision_finds_about_as_much(trained: nn.Module, held_out: Images) -> None:
    eps = [0.05, 0.1, 0.2]
    full, half = (
        robust_curve(trained, held_out, PGD(), eps, generator=seeded(), precision=p).error for p in ("float32", "bf16")
    )
    assert half == pytest.approx(full, abs=0.02)


def test_same_seed_same_curve_whatever_the_batch(trained: nn.Module, held_out: Images) -> None:
    images, attack = held_out.take(slice(150)), PGD(steps=4, restarts=2)

    def levels(batch_size: int) -> Tensor:
        return robust_curve(trained, images, attack, [0.1, 0.2], generator=seeded(), batch_size=batch_size).level

    reference = levels(64)
    assert torch.equal(reference, levels(64))
    assert all((levels(size) != reference).sum() <= 1 for size in (5, 33, 1000))  # one image for rounding


class Counting(nn.Module):
    """A network that counts the images it sees."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return self.network(x)


def test_images_known_to_be_broken_are_confirmed_at_last_iterates_alone(trained: nn.Module, held_out: Images) -> None:
    x, y, eps = held_out.floats(), held_out.y, [0.05, 0.1, 0.15, 0.2]
    network, judge = copy.deepcopy(trained).eval(), Counting(copy.deepcopy(trained).eval())
    settings: dict[str, Any] = {"norm": "linf", "batch_size": 64, "keep_going": True, "images": True}
    found = Cascade(PGD(steps=6), network, eps, generator=seeded(), confirm=judge, **settings).run(x, y)
    # every last iterate, and once what breaks an image
    assert len(eps) * len(x) < judge.seen <= (len(eps) + 1) * len(x)
    alone = Cascade(PGD(steps=6), network, eps, generator=seeded(), **settings).run(x, y)
    assert torch.equal(found.level, alone.level)
    for one, other in ((found.losses, alone.losses), (found.images, alone.images)):
        assert one is not None and other is not None
        torch.testing.assert_close(one, other)


def test_keep_going_gives_losses_of_every_image(trained: nn.Module, held_out: Images) -> None:
    eps = [0.02, 0.1, 0.2]
    curve = robust_curve(
        trained, held_out, PGD(steps=5), eps, generator=seeded(), keep_going=True, keep_images=True, batch_size=50
    )
    assert curve.losses is not None and curve.images is not None
    assert curve.losses.shape == (3, 300) and curve.images.shape == (3, *held_out.x.shape)
    for loss, images, strength in zip(curve.losses, curve.images, eps, strict=True):
        torch.testing.assert_close(loss, cross_entropy(trained(images), held_out.y).detach(), rtol=1e-3, atol=1e-4)
        assert (images - held_out.floats()).abs().max() <= strength + 1e-6
    means = curve.losses.mean(1).tolist()
    assert cross_entropy(trained(held_out.floats()), held_out.y).mean() < means[0] < means[1] < means[2]
    dropped = robust_curve(trained, held_out, PGD(steps=5), eps, generator=seeded())
    assert curve.clean_error == dropped.clean_error
    assert curve.error == pytest.approx(dropped.error, abs=0.0067)


@chz.chz
class Darker(Attack):
    """An attack without gradients: the darkest images of the ball."""

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
        return (x - threat.eps).clamp_min(0)


def test_other_attacks_run_strength_by_strength_on_survivors(trained: nn.Module, held_out: Images) -> None:
    eps = [0.1, 0.5, 1.0]
    curve = robust_curve(trained, held_out, Darker(), eps, generator=seeded(), keep_images=True, batch_size=33)
    broken = ~correct_mask(trained, held_out)
    for strength, error in zip(eps, curve.error, strict=True):
        broken |= ~correct_mask_of(trained, (held_out.floats() - strength).clamp_min(0), held_out.y)
        assert error == broken.double().mean().item()
    assert curve.images is not None
    assert torch.equal(correct_mask_of(trained, curve.images, held_out.y), curve.level == 3)
    with pytest.raises(ValueError, match="gradient attack"):
        robust_curve(trained, held_out, Darker(), eps, generator=seeded(), keep_going=True)


def test_networks_that_give_no_number_are_wrong(held_out: Images) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 10), torch.nan) + x.sum() * 0

    assert (predictions(Broken(), held_out) == -1).all()
    curve = robust_curve(Broken(), held_out, PGD(), [0.1], generator=seeded())
    assert (curve.clean_error, *curve.error) == (1.0, 1.0)


def test_a_network_with_weights_that_are_no_numbers_is_wrong(held_out: Images) -> None:
    channels = held_out.x.shape[1]
    with torch.random.fork_rng():
        network = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(10))
        network(held_out.floats(slice(2)))
    network[0].weight.data.fill_(torch.nan)
    curve = robust_curve(network, held_out, PGD(), [0.1], generator=seeded())
    assert (curve.clean_error, *curve.error) == (1.0, 1.0)


def test_a_slope_that_is_one_number_for_all_pixels_is_followed() -> None:
    class Brightness(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bright = x.sum((1, 2, 3)) - 8  # autograd gives its gradient as one number, seen by every pixel
            return torch.stack((torch.zeros_like(bright), bright), 1)

    images = Images(torch.full((4, 1, 4, 4), 120, dtype=torch.uint8), torch.zeros(4, dtype=torch.long))
    assert robust_curve(Brightness(), images, PGD(steps=5), (0.01, 0.1), generator=seeded()).error == (0.0, 1.0)


def test_slopes_without_a_number_move_nothing() -> None:
    class Steep(Linear):
        def score(self, x: Tensor) -> Tensor:
            return super().score(x) + 0 * (x - x.detach()).sqrt().sum((1, 2, 3))

    _, images = linear_problem()
    model = Steep((2, 4, 4))
    found = PGD(random_start=False).perturb(model, images.floats(), images.y, Threat(), seeded(), keep_going=True)
    assert torch.equal(found, images.floats())


# ---- fast copies


class TwoUses(nn.Module):
    """A network of which one convolution feeds two layers and another is used twice: neither may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b, self.norm_b = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.c, self.norm_c = nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        x = self.norm_a(a) + a
        x = self.norm_b(self.b(x).relu()) + self.norm_b(self.b(x))
        return self.head(self.norm_c(self.c(x)).mean((2, 3)))


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def randomised(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(generator=seeded(3))
            module.running_var.uniform_(0.5, 2, generator=seeded(4))
    return model.eval()


def test_batch_norm_is_folded_where_it_may_be(trained: nn.Module, held_out: Images) -> None:
    x = held_out.floats()
    before = state(trained)
    fast = for_attack(trained, x[:10])
    assert norms(trained) == 2 and norms(fast) == 0
    torch.testing.assert_close(fast(x), trained(x), rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for p in fast.parameters())
    assert_same_state(before, state(trained))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        shared = randomised(TwoUses())
    folded = fold_batch_norm(copy.deepcopy(shared), x[:10])
    assert norms(folded) == 2
    torch.testing.assert_close(folded(x), shared(x), rtol=1e-4, atol=1e-4)


def test_a_network_keeps_nothing_of_its_fast_copy(trained: nn.Module, held_out: Images) -> None:
    class Storing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen = torch.zeros(1)

        def forward(self, x: Tensor) -> Tensor:
            self.seen, self.more = x, x
            return x + torch.ones(1)  # a constant of the graph

    inner = Storing()
    model = nn.Sequential(inner, *copy.deepcopy(trained)).eval()
    x = held_out.floats(slice(4))
    expected = model(x)
    before = [dict(vars(module)) for module in model.modules()]
    torch.testing.assert_close(for_attack(model, x)(x), expected, rtol=1e-4, atol=1e-4)
    assert [vars(module).keys() for module in model.modules()] == [attributes.keys() for attributes in before]
    assert inner.seen is x and inner.more is x, "what it stored is what it saw itself"


def test_networks_that_cannot_be_traced_are_attacked_as_they_are(trained: nn.Module, held_out: Images) -> None:
    class Untraceable(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.mean() > -1 else x

    model = Untraceable(*copy.deepcopy(trained)).eval()
    assert norms(for_attack(model, held_out.floats(slice(4)))) == 2
    one, other = (robust_curve(m, held_out, PGD(steps=5), [0.1], generator=seeded()).error for m in (model, trained))
    assert one == pytest.approx(other, abs=0.0034)


def test_modes_are_restored_module_by_module(trained: nn.Module) -> None:
    model = copy.deepcopy(trained)
    model[2].train()  # type: ignore[index]
    before = [m.training for m in model.modules()]
    with eval_mode(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == before


# ---- losses and geometry


def test_losses_by_hand() -> None:
    logits, y = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 3.0]]), torch.tensor([0, 2])
    assert margin(logits, y).tolist() == [-1.0, 0.0]
    torch.testing.assert_close(cross_entropy(logits, y), -logits.log_softmax(1)[[0, 1], y])
    clean = logits.flip(1).softmax(1)
    by_hand = (clean * (clean.log() - logits.log_softmax(1))).sum(1)
    torch.testing.assert_close(kl_divergence(logits, clean), by_hand)
    torch.testing.assert_close(kl_divergence(logits, logits.softmax(1)), torch.zeros(2))


def test_random_starts_fill_the_ball() -> None:
    cube, ball = (unit_noise((4000, 1, 1, 2), norm, seeded()).flatten(1) for norm in NORMS)
    assert cube.abs().max() <= 1 and cube.abs().mean() == pytest.approx(0.5, abs=0.02)
    radius = ball.norm(dim=1)
    # uniform in a disc: half of the points lie within 1/sqrt(2) of the centre
    assert radius.max() <= 1 + 1e-6 and radius.median() == pytest.approx(0.5**0.5, abs=0.02)


def test_projection_is_the_nearest_point_of_ball_and_range() -> None:
    x = torch.tensor([0.5, 0.95]).view(1, 1, 1, 2)
    delta = torch.tensor([-0.3, 0.4]).view(1, 1, 1, 2)
    eps = torch.tensor([0.1])
    torch.testing.assert_close(project(x, delta, eps, "linf").flatten(), torch.tensor([-0.1, 0.05]))
    torch.testing.assert_close(project(x, delta, eps, "l2").flatten(), torch.tensor([-0.06, 0.05]))


# ---- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(steps=0), "steps >= 1"),
        (lambda: PGD(restarts=0), "restarts >= 1"),
        (lambda: PGD(step=Fraction(0)), "step > 0"),
        (lambda: BIM(restarts=2), "random_start"),
        (lambda: BIM(loss="kl"), "random_start"),
        (lambda: FGSM(loss="kl"), "kl"),
        (lambda: MIFGSM(decay=-1.0), "decay >= 0"),
        (lambda: Threat(eps=Fraction(0)), r"eps in \(0, 1\]"),
    ],
)
def test_bad_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        ([], "at least one"),
        ([0.0, 0.1], r"in \(0, 1\]"),
        ([-0.1], r"in \(0, 1\]"),
        ([float("nan")], r"in \(0, 1\]"),
        ([0.1, 8], "got 8: did you mean 8/255"),
        ([0.2, 0.1], "ascending"),
        ([0.1, 0.1], "distinct"),
        ([1e-300, 0.1], "expected eps >= 3e-08"),
    ],
)
def test_bad_strengths_are_refused(eps: list[float], message: str, trained: nn.Module, held_out: Images) -> None:
    with pytest.raises(ValueError, match=message):
        robust_curve(trained, held_out, PGD(), eps, generator=seeded())


def test_no_images_or_batch_is_refused(trained: nn.Module, held_out: Images) -> None:
    with pytest.raises(ValueError, match="at least 1 image"):
        robust_curve(trained, held_out.take(slice(0)), PGD(), [0.1], generator=seeded())
    with pytest.raises(ValueError, match="batch size >= 1"):
        robust_curve(trained, held_out, PGD(), [0.1], generator=seeded(), batch_size=0)
