"""FSP distance of cells between clean and adversarial images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chz
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evo_robust import zoo
from evo_robust.attacks.base import Threat
from evo_robust.attacks.gradient import FGSM, PGD
from evo_robust.data.sets import Digits
from evo_robust.objectives import fsp
from evo_robust.objectives.base import Candidate, Context
from evo_robust.objectives.fsp import FSPDistance, fsp_distances, squared_distances
from evo_robust.parts.base import Fraction
from evo_robust.spaces import NSGAPhases, RobNet, SearchSpace
from evo_robust.training.loop import train
from evo_robust.training.recipes import Standard

DATA = Digits()
SPLITS = DATA.load()


def candidate(space: SearchSpace, text: str, folder: Path = Path("unused")) -> Candidate:
    """A network after one epoch of training, so that its running statistics are real."""
    architecture = space.from_text(text)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = space.build(architecture, DATA.n_classes, DATA.in_shape)
    train(model, SPLITS.train, Standard(), 1, seed=0)
    context = Context(space, DATA, seed=0, device="cpu", workers=1, cache=folder)
    return Candidate(context, architecture, text, seed=5, splits=SPLITS, model=model.eval())


@pytest.fixture(scope="module")
def robnet() -> Candidate:
    """Four cells, of which 1 and 2 are reductions; cell 2 is empty, for cell 3 reads cell 1 alone."""
    return candidate(
        RobNet(cells="free", channels=4, layers=4, nodes=2),
        "01 11 00 00 01 / 11 01 10 00 11 / 00 00 00 00 00 / 11 00 01 00 10",
    )


@torch.no_grad()
def by_hand(model: nn.Module, x: torch.Tensor, adversarial: torch.Tensor) -> list[float | None]:
    """The distances of a RobNet, cell by cell as the formula is written, in double precision."""

    def grams(images: torch.Tensor) -> list[torch.Tensor | None]:
        found: list[torch.Tensor | None] = []
        earlier = before = model.stem(model.normalize(images))
        for cell in model.cells:
            output = cell(earlier, before)
            given = earlier if before is None else before
            if output is None:
                found.append(None)
            else:
                h, w = output.shape[-2:]
                if given.shape[-1] != w:  # 8×8 → 4×4 → 2×2: means of squares of four
                    given = F.avg_pool2d(given, given.shape[-1] // w)
                found.append(torch.einsum("nihw,nohw->nio", given.double(), output.double()) / (h * w))
            earlier, before = before, output
        return found

    pairs = zip(grams(x), grams(adversarial), strict=True)
    return [None if a is None or b is None else (a - b).square().sum((1, 2)).mean().item() for a, b in pairs]


def distances(one: Candidate, *given: Any) -> list[float | None]:
    return fsp_distances(one.network(), one.context.space.cells_of(one.network()), *given)


def test_distances_are_those_of_the_formula(robnet: Candidate) -> None:
    objective = FSPDistance(attack=FGSM(), eps=Fraction(0.2), limit=40)
    value = objective.measure(robnet)
    images = SPLITS.val.take(slice(40))
    x, model = images.floats(), robnet.network()
    adversarial = FGSM().perturb(model, x, images.y, Threat(eps=0.2), torch.Generator(), keep_going=True)
    expected = by_hand(model, x, adversarial)
    figures = robnet.figures["fsp_distance"]
    assert figures["n"] == 40 and [d is None for d in figures["cells"]] == [False, False, True, False]
    for got, right in zip(figures["cells"], expected, strict=True):
        assert got == (None if right is None else pytest.approx(right, rel=1e-3))
    assert value == figures["cells"][3]  # deep: cells 2 and 3, of which 2 is empty
    assert json.loads(json.dumps(robnet.figures)) == robnet.figures


def test_all_is_the_mean_over_cells_that_are_not_empty(robnet: Candidate) -> None:
    everywhere = FSPDistance(cells="all", label="everywhere", limit=20)
    value = everywhere.measure(robnet)
    cells = robnet.figures["everywhere"]["cells"]
    assert value == pytest.approx(sum(cells[i] for i in (0, 1, 3)) / 3)
    assert chz.replace(everywhere, cells="deep").measure(robnet) == cells[3] != value


def test_deep_cells_begin_at_two_thirds() -> None:
    one = candidate(RobNet(channels=1, layers=7, nodes=1), "01 11")
    value = FSPDistance(limit=8).measure(one)
    cells = one.figures["fsp_distance"]["cells"]
    assert len(cells) == 7 and value == pytest.approx(sum(cells[4:]) / 3)


def test_images_that_did_not_move_have_no_distance(robnet: Candidate) -> None:
    @chz.chz
    class Nothing(FGSM):
        def perturb(self, model: nn.Module, x: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
            return x

    images = SPLITS.val.take(slice(300))  # three batches
    still = distances(robnet, images, Nothing(), Threat(), torch.Generator())
    moved = distances(robnet, images, FGSM(), Threat(eps=0.1), torch.Generator())
    for distance, far in zip(still, moved, strict=True):
        if distance is not None and far is not None:
            assert 0 <= distance < 1e-9 * far


def test_a_stronger_attack_moves_features_further_and_misclassified_images_are_attacked_too(robnet: Candidate) -> None:
    values = [FSPDistance(eps=Fraction(e), attack=PGD(steps=3), limit=64).measure(robnet) for e in (0.02, 0.1)]
    assert 0 < values[0] < values[1]
    with torch.no_grad():
        wrong = robnet.network()(SPLITS.val.floats()).argmax(1) != SPLITS.val.y
    assert wrong.any()
    found = distances(robnet, SPLITS.val.take(wrong), PGD(steps=2), Threat(), torch.Generator())
    assert found[3] is not None and found[3] > 0


@pytest.mark.parametrize("room", [1, 10_000, 2**26])
def test_few_or_many_matrices_at_once_make_no_difference(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    given, output = torch.rand(14, 3, 8, 6, generator=generator), torch.rand(14, 5, 4, 3, generator=generator)
    monkeypatch.setattr(fsp, "_GRAM_BYTES", room)
    gram = torch.einsum("nihw,nohw->nio", F.avg_pool2d(given, 2), output) / 12
    expected = (gram[:7] - gram[7:]).square().sum((1, 2)).double()
    torch.testing.assert_close(squared_distances(given, output), expected, rtol=1e-5, atol=0)


def test_measuring_repeats_and_leaves_the_network_as_it_was(robnet: Candidate) -> None:
    model = robnet.network()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [p.grad for p in model.parameters()]
    objective = FSPDistance(limit=20)
    model.train()
    try:
        assert objective.measure(robnet) == objective.measure(robnet)
        assert all(module.training for module in model.modules())
    finally:
        model.eval()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    assert not any(module._forward_hooks for module in model.modules())
    assert objective.measure(robnet) != objective.measure(_with_seed(robnet, 6))  # another random start


def _with_seed(one: Candidate, seed: int) -> Candidate:
    return Candidate(one.context, one.architecture, one.text, seed, one.splits, one.model)


def test_hooks_go_even_where_an_attack_fails(robnet: Candidate) -> None:
    @chz.chz
    class Broken(FGSM):
        def perturb(self, *arguments: Any, **more: Any) -> torch.Tensor:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        distances(robnet, SPLITS.val.take(slice(4)), Broken(), Threat(), torch.Generator())
    assert not any(module._forward_hooks for module in robnet.network().modules())


def test_phases_are_cells_too() -> None:
    space = NSGAPhases(phases=2, nodes=3, channels=4)
    one = candidate(space, "[1][01][0] / [1][10][1]")
    value = FSPDistance(limit=30).measure(one)
    cells = one.figures["fsp_distance"]["cells"]
    assert len(cells) == 2 and all(d > 0 for d in cells)
    assert value == cells[1]


def test_a_network_without_cells_is_refused(robnet: Candidate) -> None:
    plain = _with_seed(robnet, 5)
    plain.model = zoo.build("lenet", 10, DATA.in_shape).eval()
    with pytest.raises(ValueError, match="expected a network with cells for the FSP distance, got Sequential"):
        FSPDistance().measure(plain)
    with pytest.raises(ValueError, match="expected at least 1 image, got 0"):
        distances(robnet, SPLITS.val.take(slice(0)), FGSM(), Threat(), torch.Generator())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"limit": 0}, "expected limit >= 1 images, got 0"),
        ({"eps": Fraction(0)}, r"expected eps in \(0, 1\] .* got 0"),
        ({"cells": "last"}, "cells to be 'deep' or 'all', got 'last'"),
    ],
)
def test_bad_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FSPDistance(**values)


def test_the_name_is_that_of_the_record() -> None:
    assert FSPDistance().name == "fsp_distance"
    assert FSPDistance().attack == PGD(steps=7, step=Fraction(2 / 255))
