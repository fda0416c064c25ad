"""What public calls refuse: radii, norms, images, labels and networks that would give nonsense without a word."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import chz
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evo_robust import (
    DARTS,
    NSGA2,
    CleanError,
    Digits,
    FromScratch,
    OneShot,
    Problem,
    RobNet,
    RobustError,
    SupernetLoss,
    zoo,
)
from evo_robust.adversarial_set.making import AdversarialSet
from evo_robust.attacks import calls
from evo_robust.attacks.ball import project, steepest, unit_noise
from evo_robust.attacks.base import Attack, Threat, check_eps, check_norm
from evo_robust.attacks.curve import check_strengths, robust_curve
from evo_robust.attacks.fast import for_attack
from evo_robust.attacks.gradient import BIM, FGSM, MIFGSM, PGD
from evo_robust.attacks.level.attack import CMAES, DE
from evo_robust.attacks.losses import attack_loss
from evo_robust.data.images import Images
from evo_robust.estimators import AverageANE, Strengths
from evo_robust.estimators.learner import MemoryLearner
from evo_robust.estimators.measure import Source, measure_spectrum
from evo_robust.estimators.memory import NoiseLearner, NoiseMemory
from evo_robust.estimators.noises import real_noises
from evo_robust.final_training.settings import Retraining
from evo_robust.inference.checks import is_known, known_good
from evo_robust.inference.predictions import clean_error, correct_mask, predictions
from evo_robust.lipschitz.operations import lipschitz_constant
from evo_robust.objectives.cost import count_flops
from evo_robust.objectives.fsp import FSPDistance
from evo_robust.parts.base import Fraction, check_shapes
from evo_robust.spaces.ops import Normalize, fit_normalization
from evo_robust.training.loop import train
from evo_robust.training.recalibration import recalibrate
from evo_robust.training.recipes import TRADES, FastTraining, MultiStrengthTraining, PGDTraining, Standard

# ---- one rule for ε


EIGHT = r"eps in \(0, 1\] with norm=linf .*got 8: did you mean 8/255\?"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Threat(eps=8), EIGHT),
        (lambda: PGDTraining(threat=Threat(eps=8)), EIGHT),
        (lambda: RobustError(eps=(Fraction(0.1), Fraction(8))), EIGHT),
        (lambda: FSPDistance(eps=8), EIGHT),
        (lambda: MultiStrengthTraining(eps=(8,)), "recipe." + EIGHT),
        (lambda: Retraining(network="lenet", data=Digits(), eps=(8,)), EIGHT),
        (lambda: Strengths(values=(8,)), r"strengths.values in \(0, 1\]"),
        (lambda: check_strengths([0.1, 8]), EIGHT),
        (lambda: Threat(eps=math.inf), r"Threat\.eps to be a finite number"),
        (lambda: Threat(eps=math.nan), r"Threat\.eps to be a finite number"),
        (lambda: Threat(eps=10**400), r"Threat\.eps to be a finite number"),
        (lambda: Threat(norm="l2", eps=math.inf), r"Threat\.eps .*a finite number"),
        (lambda: Threat(norm="l2", eps=math.nan), r"Threat\.eps .*a finite number"),
        (lambda: RobustError(norm="l2", eps=(math.inf,)), r"RobustError\.eps .*a finite number"),
        (lambda: MultiStrengthTraining(norm="l2", eps=(math.inf,)), r"MultiStrengthTraining\.eps .*a finite number"),
        (lambda: check_strengths(0.1), "sequence of numbers .*got 0.1"),
        (lambda: check_strengths("0.1"), "sequence of numbers .*got '0.1'"),
        (lambda: check_eps("8/255"), "number such as 8/255, got '8/255'"),
        (lambda: check_eps(True), "number such as 8/255, got True"),
    ],
)
def test_a_radius_is_held_to_one_rule(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_good_radii_pass() -> None:
    assert (
        check_strengths(np.array([0.1, 1.0]))
        == check_strengths(torch.tensor([0.1, 1.0], dtype=torch.float64))
        == (0.1, 1.0)
    )
    assert check_eps(1) == 1.0 and check_eps(math.sqrt(64), "l2", (1, 8, 8)) == 8.0
    assert Threat(norm="l2", eps=Fraction(3)).eps == 3


BEYOND = (
    r"eps in \(0, 8\] with norm=l2 and images \(1, 8, 8\), whose diagonal that is .*got 128: did you mean 128/255\?"
)
WIDE = Threat(norm="l2", eps=Fraction(128))


def problem(**settings: object) -> Problem:
    usual = {
        "space": DARTS(),
        "data": Digits(),
        "objectives": (CleanError(),),
        "evaluator": FromScratch(),
        "algorithm": NSGA2(),
    }
    return Problem(**{**usual, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: check_shapes(WIDE, (1, 8, 8)), ""),
        (lambda: problem(objectives=(RobustError(norm="l2", eps=(Fraction(128),)),)), "objectives.0."),
        (lambda: problem(recorded=(FSPDistance(norm="l2", eps=Fraction(128)),)), "recorded.0."),
        (lambda: problem(evaluator=FromScratch(recipe=PGDTraining(threat=WIDE))), "evaluator.recipe.threat."),
        (lambda: problem(evaluator=OneShot(recipe=FastTraining(threat=WIDE))), "evaluator.recipe.threat."),
        (lambda: Retraining(network="lenet", data=Digits(), norm="l2", eps=(Fraction(128),)), ""),
        (lambda: Retraining(network="lenet", data=Digits(), recipe=TRADES(threat=WIDE)), "recipe.threat."),
        (lambda: check_shapes(AdversarialSet(recipe=PGDTraining(threat=WIDE)), (1, 8, 8)), "recipe.threat."),
        (lambda: check_shapes(SupernetLoss(threat=WIDE), (1, 8, 8)), "threat."),
    ],
)
def test_no_radius_exceeds_the_diagonal_of_known_images(make: Callable[[], object], key: str) -> None:
    with pytest.raises(ValueError, match=f"expected {key}{BEYOND}"):
        make()


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("Linf", "linf"),
        ("L_inf", "linf"),
        ("inf", "linf"),
        (math.inf, "linf"),
        ("l∞", "linf"),
        ("L2", "l2"),
        (2, "l2"),
        (2.0, "l2"),
        ("l1", None),
        (None, None),
    ],
)
def test_another_spelling_of_a_norm_is_refused_with_the_right_one(given: object, right: str | None) -> None:
    message = f"expected norm linf or l2, got {given!r}" + (f": did you mean {right!r}" if right else "$")
    x, one = torch.zeros(1, 1, 2, 2), torch.ones(1)
    for make in (
        lambda: check_norm(given),
        lambda: unit_noise((1, 1, 2, 2), given, torch.Generator()),  # type: ignore[arg-type]
        lambda: steepest(x, given),  # type: ignore[arg-type]
        lambda: project(x, x, one, given),  # type: ignore[arg-type]
        lambda: check_strengths([0.1], given),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_parts_refuse_another_spelling_of_a_norm() -> None:
    for make in (
        lambda: Threat(norm="Linf"),  # type: ignore[arg-type]
        lambda: RobustError(norm="Linf"),  # type: ignore[arg-type]
        lambda: FSPDistance(norm="Linf"),  # type: ignore[arg-type]
        lambda: MultiStrengthTraining(norm="Linf"),  # type: ignore[arg-type]
        lambda: CMAES(norm="Linf"),  # type: ignore[arg-type]
        lambda: Retraining(network="lenet", data=Digits(), norm="Linf"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match="norm"):
            make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGD(step=Fraction(math.inf)), r"PGD\.step to be a finite number"),
        (lambda: BIM(step=Fraction(math.nan)), r"BIM\.step to be a finite number"),
        (lambda: MIFGSM(decay=math.inf), r"MIFGSM\.decay to be a finite number"),
        (lambda: CMAES(sigma=math.inf), r"CMAES\.sigma to be a finite number"),
        (lambda: Standard(lr=math.inf), r"Standard\.lr to be a finite number"),
        (lambda: Standard(weight_decay=math.inf), r"Standard\.weight_decay to be a finite number"),
        (lambda: Standard(clip=math.inf), r"Standard\.clip to be a finite number"),
        (lambda: TRADES(beta=math.inf), r"TRADES\.beta to be a finite number"),
        (lambda: FastTraining(step_ratio=math.inf), r"FastTraining\.step_ratio to be a finite number"),
        (lambda: FGSM(loss="sharpness"), "loss"),  # type: ignore[arg-type]
        (lambda: PGD(loss="sharpness"), "loss"),  # type: ignore[arg-type]
        (
            lambda: attack_loss("sharpness", torch.zeros(1, 2), torch.zeros(1).long(), torch.ones(1, 2)),
            "ce, margin, kl",
        ),  # type: ignore[arg-type]
    ],
)
def test_infinite_steps_and_rates_and_unknown_losses_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_strengths_of_estimators_are_held_to_the_rule_too() -> None:
    x, noises = torch.rand(2, 1, 4, 4), torch.zeros(2, 2, 1, 4, 4)
    estimator = AverageANE().build((1, 4, 4))
    with pytest.raises(ValueError, match=r"each target in \(0, 1\].*got 16"):
        estimator.estimate(x, noises, (0.1, 0.2), 16)
    with pytest.raises(ValueError, match=r"eps in \(0, 1\].*got 16"):
        estimator.estimate(x, noises, (8 / 255, 16), 0.1)
    with pytest.raises(ValueError, match=r"strengths in \(0, 1\] for every image"):
        estimator.estimate(x, noises, torch.tensor([[0.1, 0.1], [16.0, 16.0]]), 0.1)
    with pytest.raises(ValueError, match=r"strengths in \(0, 1\], got 0.1 to 16"):
        NoiseMemory(10).push(x, noises, torch.tensor([[0.1, 0.1], [16.0, 16.0]]))
    with pytest.raises(ValueError, match=r"each strength in \(0, 1\].*got 8: did you mean 8/255"):
        real_noises(torch.nn.Flatten(), x, torch.zeros(2).long(), [0.1, 8], PGD(), torch.Generator())


def test_extra_strengths_stay_inside_the_pixel_range() -> None:
    learner = NoiseLearner(AverageANE(), (1, 4, 4), Strengths(values=(Fraction(0.5), Fraction(1)), n_real=1), seed=0)
    assert isinstance(learner, MemoryLearner)
    drawn = [learner.extra_strength() for _ in range(200)]
    assert min(drawn) > 0 and 0.98 < max(drawn) <= 1


# ---- what a network is given, and what it gives


SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return zoo.build("lenet", 10, SHAPE).eval()


@pytest.fixture(scope="module")
def images() -> Images:
    return Digits().load().val.take(slice(12))


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


Call = Callable[[nn.Module, Tensor, Tensor], object]
OF_TENSORS: dict[str, Call] = {
    "FGSM": lambda m, x, y: FGSM().perturb(m, x, y, Threat(), draw()),
    "BIM": lambda m, x, y: BIM(steps=2).perturb(m, x, y, Threat(), draw()),
    "PGD": lambda m, x, y: PGD(steps=2).perturb(m, x, y, Threat(), draw()),
    "PGD that goes on": lambda m, x, y: PGD(steps=2).perturb(m, x, y, Threat(), draw(), keep_going=True),
    "PGD kl": lambda m, x, y: PGD(steps=2, loss="kl").perturb(m, x, y, Threat(), draw()),
    "PGD margin": lambda m, x, y: PGD(steps=2, loss="margin").perturb(m, x, y, Threat(), draw()),
    "PGD l2": lambda m, x, y: PGD(steps=2).perturb(m, x, y, Threat(norm="l2", eps=Fraction(0.5)), draw()),
    "MIFGSM": lambda m, x, y: MIFGSM(steps=2).perturb(m, x, y, Threat(), draw()),
    "CMAES": lambda m, x, y: CMAES(max_iter=1).perturb_levels(m, x, y, draw()),
    "DE": lambda m, x, y: DE(max_iter=1, pop_size=8).perturb_levels(m, x, y, draw()),
    "Standard": lambda m, x, y: Standard().loss(m, x, y, draw()),
    "PGDTraining": lambda m, x, y: PGDTraining().loss(m, x, y, draw()),
    "FastTraining": lambda m, x, y: FastTraining().loss(m, x, y, draw()),
    "TRADES": lambda m, x, y: TRADES().loss(m, x, y, draw()),
    "MultiStrengthTraining": lambda m, x, y: MultiStrengthTraining().loss(m, x, y, draw()),
    "real_noises": lambda m, x, y: real_noises(m, x, y, [0.1], PGD(steps=2), draw()),
    "NoiseLearner": lambda m, x, y: learner().observe(m, x, y, PGD(steps=2)),
}
OF_IMAGES: dict[str, Callable[[nn.Module, Images], object]] = {
    "predictions": predictions,
    "correct_mask": correct_mask,
    "clean_error": clean_error,
    "robust_curve": lambda m, i: robust_curve(m, i, PGD(steps=2), [0.1], generator=draw()),
    "robust_curve of a known mask": lambda m, i: robust_curve(
        m, i, PGD(steps=2), [0.1], generator=draw(), correct=torch.ones(len(i), dtype=torch.bool), keep_going=True
    ),
    "measure_spectrum": lambda m, i: measure_spectrum(
        m, i, Source(PGD(steps=2), Strengths(n_real=3), AverageANE()), AverageANE().build(SHAPE), draw()
    ),
    "train": lambda m, i: train(copied(m), i, PGDTraining(batch_size=8), 1, seed=0),
    "train without attack": lambda m, i: train(copied(m), i, Standard(batch_size=8), 1, seed=0),
}
GRADIENTS = [name for name in OF_TENSORS if name not in ("CMAES", "DE", "Standard")]


def learner() -> NoiseLearner:
    return NoiseLearner(AverageANE(), SHAPE, Strengths(n_real=3), seed=0)


def copied(model: nn.Module) -> nn.Module:
    with torch.inference_mode(False):
        return copy.deepcopy(model)


def on_images(call: Call) -> Callable[[nn.Module, Images], object]:
    return lambda m, images: call(m, images.floats(), images.y)


EVERY = OF_IMAGES | {name: on_images(call) for name, call in OF_TENSORS.items()}


@pytest.mark.parametrize("name", OF_TENSORS)
def test_images_that_are_none_are_refused(name: str, net: nn.Module, images: Images) -> None:
    call, x, y = OF_TENSORS[name], images.floats(), images.y
    spoiled = x.clone()
    spoiled[3, 0, 2, 2] = math.nan
    for given, message in {
        "grey": (x * 255, "from 0 to 255: divide by 255"),
        "bytes": (images.x, "torch.uint8: divide by 255"),
        "normalised": ((x - 0.5) / 0.25, "from -2 to 2: give them before normalisation"),
        "spoiled": (spoiled, r"NaN"),
        "half": (x.half(), r"float16, .*give x.float\(\)"),
        "bfloat16": (x.bfloat16(), r"bfloat16, .*give x.float\(\)"),
        "flat": (x.flatten(1), r"\(n, c, h, w\), got \(12, 64\)"),
        "one": (x[0], r"\(n, c, h, w\), got \(1, 8, 8\)"),
        "array": (x.numpy(), "got ndarray"),
    }.values():
        with pytest.raises(ValueError, match=message):
            call(net, given, y)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OF_TENSORS)
def test_labels_that_are_none_are_refused(name: str, net: nn.Module, images: Images) -> None:
    call, x, y = OF_TENSORS[name], images.floats(), images.y
    for given, message in (
        (y.int(), r"int64 labels, got torch.int32: give class indices"),
        (y.float(), r"int64 labels, got torch.float32"),
        (y[:-1], r"labels \(12,\), one for each image, got \(11,\)"),
        (torch.eye(10)[y], r"got \(12, 10\): give class indices \(y.argmax\(1\)\)"),
        (y - 12, "labels >= 0, got -12"),
        (torch.where(y == y[0], 10, y), r"labels in 0..9, the network's 10 classes, got 10"),
        (y.tolist(), "got list"),
    ):
        with pytest.raises(ValueError, match=message):
            call(net, x, given)  # type: ignore[arg-type]


class Through(nn.Module):
    """What ``make`` makes of a network's logits."""

    def __init__(self, net: nn.Module, make: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.net, self.make = net, make

    def forward(self, x: Tensor) -> object:
        return self.make(self.net(x))


OUTPUTS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "a tuple": (lambda z: (z, z), r"got tuple: let its forward return the logits alone"),
    "a dictionary": (lambda z: {"logits": z}, r"got dict"),
    "maps": (lambda z: z[..., None, None], r"got \(\d+, 10, 1, 1\)"),
    "one logit": (lambda z: z[:, :1], r"got \(\d+, 1\)"),
    "one number each": (lambda z: z.sum(1), r"logits \(n, classes\), here \(\d+, 2 or more\), got \(\d+,\)"),
    "one number": (lambda z: z.sum(), r"got \(\)"),
    "the batch's mean": (lambda z: z.mean(0, keepdim=True), r"got \(1, 10\)"),
    "the batch's mean for all": (lambda z: z.mean(0, keepdim=True).expand_as(z), "one row for all images"),
    "classes": (lambda z: z.argmax(1), r"got \(\d+,\)"),
    "integers": (lambda z: (1000 * z).long(), "torch.int64: predicted classes are no logits"),
    "too few classes": (lambda z: z[:, :4], "labels in 0..3, the network's 4 classes, got 9"),
}


@pytest.mark.parametrize("name", EVERY)
def test_networks_that_give_no_logits_are_refused(name: str, net: nn.Module, images: Images) -> None:
    for make, message in OUTPUTS.values():
        odd = Through(net, make).eval()
        with pytest.raises(ValueError, match=message):
            EVERY[name](odd, images)
        assert not odd._forward_hooks


@pytest.mark.parametrize("name", [*GRADIENTS, "robust_curve", "measure_spectrum"])
def test_networks_without_a_gradient_are_refused_by_gradient_attacks(name: str, net: nn.Module, images: Images) -> None:
    for make in (
        lambda z: z.detach(),
        lambda z: torch.from_numpy(z.detach().numpy()),
        lambda z: (z * 99).int().float(),
    ):
        with pytest.raises(ValueError, match="cuts it off .* level attacks"):
            EVERY[name](Through(net, make).eval(), images)


def test_level_attacks_need_no_gradient(net: nn.Module, images: Images) -> None:
    rounded = Through(net, lambda z: (z * 1e5).int().float()).eval()
    found = CMAES(level=10, max_iter=20).perturb_levels(
        rounded, images.floats(), rounded(images.floats()).argmax(1), draw()
    )  # type: ignore[operator]
    assert found.success.any()


def test_a_saturated_network_is_attacked_as_ever(net: nn.Module, images: Images) -> None:
    sure = Through(net, lambda z: z * 1e6).eval()
    x, y = images.floats(), predictions(sure, images)
    found = PGD(steps=2, random_start=False).perturb(sure, x, y, Threat(), draw(), keep_going=True)
    assert torch.equal(found, x), "cross-entropy has no slope there"


@pytest.mark.parametrize("name", EVERY)
def test_networks_of_another_type_than_the_images_are_refused(name: str, net: nn.Module, images: Images) -> None:
    others = [copy.deepcopy(net).half(), copy.deepcopy(net).bfloat16()]
    if not name.startswith("train"):
        others.append(copy.deepcopy(net).to("meta"))
    for other in others:
        with pytest.raises(ValueError, match=r"network for torch.float32 images on cpu, got weights of torch"):
            EVERY[name](other, images)
    with pytest.raises(ValueError, match="torch.nn.Module as network, got function"):
        EVERY[name](lambda x: x, images)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", EVERY)
def test_calls_inside_inference_mode_give_the_same(name: str, net: nn.Module, images: Images) -> None:
    outside = EVERY[name](net, images)
    with torch.inference_mode():
        inside = EVERY[name](net, Images(images.x.clone(), images.y.clone()))
        assert torch.is_inference_mode_enabled()
    for one, other in zip(figures(outside), figures(inside), strict=True):
        assert torch.equal(one, other), name


def figures(found: object) -> list[Tensor]:
    """The tensors of a result, clocks left out."""
    if isinstance(found, Tensor):
        return [found.detach()]
    if isinstance(found, (list, tuple)):
        return [tensor for item in found for tensor in figures(item)]
    if dataclasses.is_dataclass(found):
        return [t for f in dataclasses.fields(found) if f.name != "seconds" for t in figures(getattr(found, f.name))]
    return [torch.tensor(found)] if isinstance(found, (int, float)) else []


def test_weights_made_in_inference_mode_are_refused_where_gradients_are_taken(images: Images) -> None:
    with torch.random.fork_rng(), torch.inference_mode():
        made = zoo.build("lenet", 10, SHAPE).eval()
    for name in (*GRADIENTS, "robust_curve"):
        with pytest.raises(ValueError, match="made inside torch.inference_mode"):
            EVERY[name](made, images)
    with pytest.raises(ValueError, match="made inside torch.inference_mode"):
        train(made, images, Standard(), 1, seed=0)
    assert len(predictions(made, images)) == 12


def test_a_model_without_weights() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten())
    images = Images(torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
    curve = robust_curve(model, images, PGD(steps=2), [0.1], generator=draw())
    assert curve.n == 4
    recalibrate(model, [(images.floats(), images.y)])
    assert count_flops(model, SHAPE) >= 0
    for one in (model, zoo.build("lenet", 2, SHAPE).requires_grad_(False)):
        with pytest.raises(ValueError, match="expected a network with weights to train, got none"):
            train(one, images, Standard(), 1, seed=0)


def test_other_arguments_that_are_none_are_refused(net: nn.Module, images: Images) -> None:
    x, y = images.floats(), images.y
    for make, message in (
        (lambda: PGD().perturb(net, x, y, 8 / 255, draw()), "expected a Threat, such as"),  # type: ignore[arg-type]
        (lambda: PGD().perturb(net, x, y, WIDE, draw()), "in .0, 8. with norm=l2"),
        (lambda: PGD().perturb(net, x, y, Threat(), 0), "expected a torch.Generator, got int"),  # type: ignore[arg-type]
        (lambda: robust_curve(net, x, PGD(), [0.1], generator=draw()), "expected Images, got Tensor"),  # type: ignore[arg-type]
        (lambda: robust_curve(net, images, PGD, [0.1], generator=draw()), "expected an attack"),  # type: ignore[arg-type]
        (lambda: robust_curve(net, images, PGD(), [9], "l2", generator=draw()), "in .0, 8. with norm=l2 and images"),
        (lambda: robust_curve(net, images, PGD(), [0.1], generator=draw(), precision="fp16"), "precision float32 or"),  # type: ignore[arg-type]
        (lambda: for_attack(net, images.x), "divide by 255"),
        (lambda: clean_error(net, (x, y)), "expected Images, got tuple"),  # type: ignore[arg-type]
        (lambda: train(net, (x, y), Standard(), 1, seed=0), "expected Images, got tuple"),  # type: ignore[arg-type]
        (lambda: train(net, images, "pgd", 1, seed=0), "expected a recipe, such as PGDTraining"),  # type: ignore[arg-type]
        (lambda: clean_error(net, Images(images.x, y - 10)), "labels >= 0"),
        (lambda: recalibrate(net, []), "at least 1 batch"),
        (lambda: recalibrate(net, [(x[:1], y[:1])]), "at least 2 images in a batch"),
        (lambda: recalibrate(net, [(images.x, y)]), "divide by 255"),
        (lambda: recalibrate(net, [(255 * x, y)]), "divide by 255"),
        (lambda: AverageANE().build(SHAPE).estimate(255 * x, torch.zeros(1, 12, *SHAPE), [0.1], 0.05), "divide by 255"),
        (lambda: count_flops(net, (8, 8)), "expected in_shape"),  # type: ignore[arg-type]
        (lambda: count_flops(net, (1, 8, 0)), "expected in_shape"),
        (lambda: zoo.build("lenet", 10, (1, 8.5, 8)), "expected in_shape"),  # type: ignore[arg-type]
        (lambda: zoo.build("lenet", 7.5, SHAPE), "expected n_classes"),  # type: ignore[arg-type]
        (lambda: zoo.build("lenet", 10, SHAPE, width=math.inf), "width > 0 and finite"),
        (lambda: fit_normalization(net, x), "expected uint8 images"),
        (lambda: PGD().perturb(net, x, y, Threat(), None), "torch.Generator for random starts"),  # type: ignore[arg-type]
        (lambda: PGD().perturb(net, x.repeat(1, 3, 1, 1), y, Threat(), draw()), "images of 1 channels.*got 3"),
        (lambda: PGD().perturb(colour(), x, y, Threat(), draw()), "images of 3 channels.*got 1"),
        (lambda: clean_error(colour(), images), "images of 3 channels.*got 1"),
        (lambda: clean_error(net, images, 2.5), "batch size >= 1, got 2.5"),  # type: ignore[arg-type]
        (lambda: train(net, images, Standard(), 1.5, seed=0), "whole numbers.*got 1.5"),  # type: ignore[arg-type]
        (lambda: train(net, images, Standard(), 1, seed=-1), "whole numbers.*and -1"),
        (lambda: Images([1], [2]), "expected two tensors, got list"),  # type: ignore[arg-type]
        (lambda: lipschitz_constant(nn.Conv2d(1, 2, 3), (8, 8)), "expected in_shape"),  # type: ignore[arg-type]
        (lambda: lipschitz_constant(broken(), SHAPE), "expected finite weights"),
        (lambda: RobNet(channels=4, layers=3).supernet(10, SHAPE).choose("0"), "architecture of RobNet, got '0'"),
        (lambda: DARTS(channels=4, layers=3).supernet(10, SHAPE).choose(None), "architecture of DARTS or a mixture"),
    ):
        with torch.random.fork_rng(), pytest.raises(ValueError, match=message):
            make()


def colour() -> nn.Module:
    return nn.Sequential(
        Normalize(3), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    ).eval()


def broken() -> nn.Module:
    layer = nn.Conv2d(1, 2, 3)
    nn.init.constant_(layer.weight, math.nan)
    return layer


@pytest.mark.parametrize("rule", ["thop", "macs", "nsga"])
def test_operations_are_counted_in_inference_mode_too(rule: Any, net: nn.Module) -> None:
    with torch.inference_mode():
        inside = count_flops(net, SHAPE, rule)
    assert inside == count_flops(net, SHAPE, rule) > 0


def test_what_has_been_looked_at_is_not_looked_at_again(
    net: nn.Module, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    look = calls.check_values
    monkeypatch.setattr(calls, "check_values", lambda *given: looked.append(given) or look(*given))
    train(copy.deepcopy(net), images, PGDTraining(batch_size=4), 2, seed=0)
    train(copy.deepcopy(net), images, TRADES(batch_size=4), 2, seed=0)
    assert not looked, "training images come from bytes"
    real_noises(net, images.floats(), images.y, [0.1, 0.2, 0.3], PGD(steps=2), draw())
    assert len(looked) == 1
    x, y = images.floats(), images.y
    with known_good(x, y):
        assert is_known(x, y) and not is_known(x.clone(), y)
        x.mul_(255)
        assert not is_known(x, y), "changed since"
        with pytest.raises(ValueError, match="divide by 255"):
            PGD().perturb(net, x, y, Threat(), draw())
    assert not is_known(x, y)


@chz.chz
class Straying(Attack):
    """An attack of somebody's own, which leaves what it should stay in."""

    how: str = chz.field(doc="what it does")

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
        if self.how == "far":
            return (x + 2 * threat.eps).clamp(0, 1)
        if self.how == "outside":
            return x + threat.eps
        if self.how == "nothing":
            return x.log() - x.log()
        return x[:1] if self.how == "one" else x.double()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("far", r"Straying to stay in \[0,1\] and within 0.1 \(linf\) of the images, .* up to 0.2 away"),
        ("outside", "from 0.1 to 1.1, up to 0.1 away"),
        ("nothing", "from nan to nan"),
        ("one", r"to give torch.float32 images \(\d+, 1, 8, 8\), got torch.float32 \(1, 1, 8, 8\)"),
        ("double", "got torch.float64"),
    ],
)
def test_an_attack_that_leaves_the_ball_gives_no_figures(
    how: str, message: str, net: nn.Module, images: Images
) -> None:
    known = Images(images.x, predictions(net, images))
    with pytest.raises(ValueError, match=message):
        robust_curve(net, known, Straying(how=how), [0.1], generator=draw())


@chz.chz
class Normalising(Standard):
    """A recipe of somebody's own, which attacks images that it has normalised itself."""

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        seen = PGD(steps=1).perturb(model, (x - 0.5) / 0.25, y, Threat(), generator)
        return super().loss(model, seen, y, generator)


def test_a_recipe_of_ones_own_is_looked_at_in_training(net: nn.Module, images: Images) -> None:
    with pytest.raises(ValueError, match="before normalisation"):
        train(copy.deepcopy(net), images, Normalising(batch_size=4), 1, seed=0)
