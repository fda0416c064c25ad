"""Settings of recipes that came later: smooth labels, averaged weights, cyclic rates, TRADES as in its own code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import chz
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from evo_robust.attacks.base import Threat
from evo_robust.attacks.gradient import PGD
from evo_robust.data.images import Images
from evo_robust.data.sets import Digits
from evo_robust.parts.base import Fraction, digest
from evo_robust.spaces.ops import Normalize
from evo_robust.spaces.robnet.space import RobNet
from evo_robust.training.average import WeightAverage
from evo_robust.training.loop import train
from evo_robust.training.recipes import TRADES, FastTraining, MultiStrengthTraining, PGDTraining, Recipe, Standard


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *(Normalize(1), nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)),
        )


def digits(limit: int = 60) -> Images:
    return Digits(train_limit=limit).load().train


def smooth(logits: Tensor, y: Tensor, share: float) -> Tensor:
    """Cross-entropy with the target (1 − s)·onehot + s/K, written out."""
    target = (1 - share) * F.one_hot(y, logits.shape[1]).double() + share / logits.shape[1]
    return -(target * logits.double().log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize(
    "recipe",
    [
        Standard(label_smoothing=0.2),
        PGDTraining(label_smoothing=0.2, attack=PGD(steps=1)),
        FastTraining(label_smoothing=0.2),
        MultiStrengthTraining(label_smoothing=0.2, attack=PGD(steps=1), eps=(Fraction(0.1),)),
        TRADES(label_smoothing=0.2, beta=0.0),
    ],
    ids=lambda recipe: type(recipe).__name__,
)
def test_smooth_labels_share_one_label_with_all_classes(recipe: Recipe) -> None:
    images = digits()
    model = network().train()
    with torch.no_grad():
        model[-1].weight.mul_(10)  # type: ignore[operator, union-attr] # the logits of a trained network are as far apart
    loss, logits = recipe.loss(model, images.floats(), images.y, torch.Generator().manual_seed(0))
    if isinstance(recipe, TRADES):  # its logits are of the attacked images, its cross-entropy is of the clean ones
        logits = model(images.floats())
    assert loss.item() == pytest.approx(float(smooth(logits.detach(), images.y, 0.2)), rel=1e-5)
    assert loss.item() != pytest.approx(float(smooth(logits.detach(), images.y, 0.0)), rel=1e-3)


def test_a_cyclic_rate_rises_to_the_middle_and_falls_as_it_rose() -> None:
    recipe = Standard(lr=0.8, lr_end=0.0, schedule="cyclic")
    assert [recipe.lr_at(epoch, 4) for epoch in range(4)] == pytest.approx([0.2, 0.6, 0.6, 0.2])
    above = Standard(lr=1.0, lr_end=0.5, schedule="cyclic")
    assert [above.lr_at(epoch, 5) for epoch in range(5)] == pytest.approx([0.6, 0.8, 1.0, 0.8, 0.6])
    assert recipe.lr_at(0, 1) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="expected warmup 0 with schedule=cyclic"):
        Standard(schedule="cyclic", warmup=3)


class _Watched(nn.Sequential):
    """Notes in which mode it was called."""

    seen: list[bool]

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(self.training)
        return super().forward(x)  # type: ignore[no-any-return]


def test_trades_as_in_its_official_code() -> None:
    images = digits()
    x, y = images.floats(), images.y
    model = _Watched(*network()).train()
    model.seen = []
    threat, attack = Threat(eps=Fraction(0.1)), PGD(steps=2, step=Fraction(0.04), loss="kl")
    recipe = TRADES(beta=2.0, threat=threat, attack=attack, attack_mode="eval", start_noise=0.001)
    statistics = model[2].running_mean.clone()  # type: ignore[operator, union-attr]
    loss, logits = recipe.loss(model, x, y, torch.Generator().manual_seed(4))
    assert model.training and model.seen[-2:] == [True, True] and not any(model.seen[:-2])
    assert not torch.equal(model[2].running_mean, statistics)  # type: ignore[arg-type] # the loss itself is training

    # the same by hand: two steps of .04 from .001·N(0,1), in eval mode, up the KL divergence
    plain = network().eval()
    start = 0.001 * torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        clean = plain(x).softmax(1)
    moved = (x + start.clamp(-0.1, 0.1)).clamp(0, 1)
    for _ in range(2):
        moved = moved.detach().requires_grad_()
        kl = F.kl_div(plain(moved).log_softmax(1), clean, reduction="sum")
        (gradient,) = torch.autograd.grad(kl, moved)
        moved = (x + (moved.detach() + 0.04 * gradient.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
    plain.train()
    p, q = plain(x).log_softmax(1), plain(moved).log_softmax(1)
    expected = F.nll_loss(p, y) + 2.0 * (p.exp() * (p - q)).sum(1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(logits.log_softmax(1), q, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="expected start_noise > 0"):
        TRADES(start_noise=0.0)


def test_an_average_follows_its_recursion() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(4.0)
    average = WeightAverage(model, decay=0.5)
    expected = 4.0
    for step, value in enumerate([1.0, -2.0, 7.0, 3.0, 0.0, 5.0, 6.0, 2.0, 9.0, 8.0, 1.0, 4.0], 1):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update()
        decay = min(0.5, step / (step + 9))  # .1, .18, …, .5 from the ninth step on
        expected = decay * expected + (1 - decay) * value
        assert average.state()["value.weight"].item() == pytest.approx(expected, rel=1e-6)
    with average.instead():
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 4.0


def test_a_training_ends_with_the_average_of_all_its_steps() -> None:
    images = digits(130)

    states: list[dict[str, Tensor]] = []
    model = network()
    # one step an epoch, so that the states between the steps are seen
    recipe = Standard(lr=0.1, batch_size=len(images), ema=0.9)

    def note(log: object) -> None:
        states.append({name: value.clone() for name, value in model.state_dict().items()})

    start = {name: value.clone() for name, value in network().state_dict().items()}
    train(model, images, recipe, 5, seed=0, on_epoch=note)
    expected = start["6.weight"]
    for step, state in enumerate(states, 1):
        decay = min(0.9, step / (step + 9))
        expected = decay * expected + (1 - decay) * state["6.weight"]
    torch.testing.assert_close(model.state_dict()["6.weight"], expected)
    assert not torch.equal(model.state_dict()["6.weight"], states[-1]["6.weight"])
    assert int(model[2].num_batches_tracked) == 5  # type: ignore[arg-type, union-attr]


class Stop(Exception):
    """Ends a training from outside."""


@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_average_ends_like_one_never_interrupted(stop_after: int, tmp_path: Path) -> None:
    images, recipe = digits(200), Standard(lr=0.1, batch_size=32, ema=0.95)
    whole = network()
    train(whole, images, recipe, 4, seed=1)
    assert not _same(whole, _trained(images, chz.replace(recipe, ema=None)))
    file = tmp_path / "checkpoint.safetensors"

    def stop(log: Any) -> None:
        if log.epoch == stop_after:
            raise Stop

    with pytest.raises(Stop):
        train(network(), images, recipe, 4, seed=1, checkpoint=file, on_epoch=stop)
    torn = network()
    train(torn, images, recipe, 4, seed=1, checkpoint=file)
    assert _same(torn, whole)
    again = network()
    train(again, images, recipe, 4, seed=1, checkpoint=file)  # nothing is left to do
    assert _same(again, whole)


def _trained(images: Images, recipe: Recipe) -> nn.Module:
    model = network()
    train(model, images, recipe, 4, seed=1)
    return model


def _same(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_supernets_weights_are_not_averaged() -> None:
    space = RobNet(channels=4, layers=3)
    supernet = space.supernet(10, (1, 8, 8))
    with pytest.raises(ValueError, match="expected no average of a supernet's weights, got ema=0.9"):
        train(supernet, digits(), Standard(ema=0.9), 1, seed=0, paths=lambda epoch: iter(()))


def test_settings_that_came_later_change_no_digest() -> None:
    # as the code before them gave
    assert digest(Standard()) == "94838635c0c26d3b"
    assert digest(TRADES()) == "f54b7eaeee2cfc5b"
    for changed in (Standard(ema=0.9), Standard(label_smoothing=0.1)):
        assert digest(changed) != digest(Standard())
    for other in (TRADES(attack_mode="eval"), TRADES(start_noise=0.001)):
        assert digest(other) != digest(TRADES())


@pytest.mark.parametrize("given", [{"ema": 1.0}, {"ema": math.nan}, {"label_smoothing": 1.0}])
def test_values_out_of_range_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Standard(**given)  # type: ignore[arg-type]


def test_the_balls_of_a_recipe_are_known() -> None:
    assert Standard().threats == ()
    assert PGDTraining().threats == (Threat(),) == FastTraining().threats == TRADES().threats
    assert [threat.eps for threat in MultiStrengthTraining().threats] == list(MultiStrengthTraining().eps)
