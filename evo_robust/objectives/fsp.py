"""FSP distance: how much an attack changes what a network's cells compute (RobNet, Guo et al., CVPR 2020, §3.5)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import chz
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from evo_robust.attacks.base import Norm, Threat, check_attack, check_eps
from evo_robust.attacks.calls import check_threat
from evo_robust.attacks.fast import for_attack
from evo_robust.attacks.gradient import PGD, GradientAttack
from evo_robust.data.images import Images, batches
from evo_robust.inference.checks import check_generator, checked_images, known_good
from evo_robust.inference.predictions import eval_mode, undisturbed
from evo_robust.objectives.base import Candidate, Objective
from evo_robust.parts.base import Fraction, refuse_unless

_BATCH = 128
"""Images per batch of the attack; fixed, since random starts are drawn batch by batch."""

_GRAM_BYTES = 64 * 2**20


@chz.chz
class FSPDistance(Objective):
    """Mean squared distance between the cells' FSP matrices on clean and on adversarial images.

    The FSP matrix of a cell (flow of the solution procedure) has the products of input and output channels, averaged
    over positions: G = Σ F_in ⊗ F_out / (h·w) (eq. 3). The distance of a cell is the mean over images of
    ‖G(x) − G(x_adv)‖², squared Frobenius norm (eq. 4). In deep cells it correlates with the gap between clean and
    robust accuracy, so it can reject candidates before costly figures are measured. F_in is the cell's last input that
    is not zero (RobNet: the output of cell k−1), averaged to the output's size where a reduction halves it.

    The distances of all cells are recorded in the candidate's figures under the objective's name, null where a cell is
    empty, with the number of images ``n``. Every image is attacked to the last step, even if misclassified before.
    """

    cells: Literal["deep", "all"] = chz.field(
        default="deep", doc="deep: mean over the cells from index 2L//3 of L on (counted from 0); all: over all cells"
    )
    attack: GradientAttack = chz.field(
        default_factory=lambda: PGD(steps=7, step=Fraction(2 / 255)),
        blueprint_unspecified=PGD,
        doc="how adversarial images are found",
    )
    eps: Fraction = chz.field(
        default=Fraction(8 / 255), doc="strength > 0, in units of the pixel range 0..1, such as 8/255"
    )
    norm: Norm = chz.field(default="linf", doc="norm of the ball, linf or l2")
    limit: int | None = chz.field(default=256, doc="validation images used, >= 1; None for all")

    @chz.validate
    def _sensible(self) -> None:
        check_eps(self.eps, self.norm)
        refuse_unless(self, ("limit", self.limit is None or self.limit >= 1, ">= 1 images"))

    def check_shape(self, in_shape: tuple[int, int, int], key: str) -> None:
        """See :meth:`Part.check_shape`: the attack and its balls fit the images."""
        check_attack(self.attack, (self.eps,), self.norm, in_shape, key)

    @property
    def unit(self) -> str:
        """``squared norm``; features have no unit."""
        return "squared norm"

    def measure(self, candidate: Candidate) -> float:
        """Mean distance of the chosen cells that are not empty; 0 where all of them are empty.

        Raises:
            ValueError: the space tells no cells of the network.
        """
        images = candidate.validation(self.limit)
        network = candidate.network()
        distances = fsp_distances(
            network,
            candidate.context.space.cells_of(network),
            images,
            self.attack,
            Threat(norm=self.norm, eps=self.eps),
            candidate.generator(self.name),
        )
        candidate.figures[self.name] = {"cells": distances, "n": len(images)}
        first = 2 * len(distances) // 3 if self.cells == "deep" else 0
        chosen = [distance for distance in distances[first:] if distance is not None]
        return math.fsum(chosen) / len(chosen) if chosen else 0.0


@torch.no_grad()
def fsp_distances(
    model: nn.Module,
    cells: Sequence[nn.Module],
    images: Images,
    attack: GradientAttack,
    threat: Threat,
    generator: torch.Generator,
) -> list[float | None]:
    """FSP distance of every cell of ``model`` in eval mode, None where a cell is empty.

    The adversarial images are made with a fast float32 copy of the model. Model, mode, statistics and gradients do not
    change.

    Args:
        model: network from images in [0,1] to logits, on the images' device.
        cells: modules of ``model`` whose inputs and outputs are compared, see :meth:`SearchSpace.cells_of`.
        images: images to attack, at least one.
        attack: makes the adversarial images.
        threat: the ball.
        generator: source of the random starts.

    Raises:
        ValueError: there are no cells or no images; the network gives no logits or has no gradient; or labels are no
            classes of the network.
    """
    if len(cells) == 0:
        raise ValueError(f"expected a network with cells for the FSP distance, got {type(model).__name__} without")
    with checked_images(model, images, gradient=True) as images, eval_mode(model), undisturbed(model):
        check_threat(threat, images.x)
        check_generator(generator)
        model(images.floats(slice(2)))  # checks the network before it is copied
        crafting = for_attack(model, images.floats(slice(16)))
        with _watched(cells) as sums:
            for x, y in batches(images, _BATCH):
                with known_good(x, y):
                    adversarial = attack.perturb(crafting, x, y, threat, generator, keep_going=True)
                model(torch.cat((x, adversarial)))
    return [None if total is None else total.item() / len(images) for total in sums]


@contextlib.contextmanager
def _watched(cells: Sequence[nn.Module]) -> Iterator[list[Tensor | None]]:
    """Inside, every forward pass over clean and then adversarial images adds to the cells' distances.

    The sums over images stay on the device, float64; None for a cell without output.
    """
    sums: list[Tensor | None] = [None] * len(cells)

    def watch(index: int) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor | None, ...], output: Tensor | None) -> None:
            given = [value for value in inputs if value is not None]
            if output is not None and given:
                total, before = squared_distances(given[-1], output).sum(), sums[index]
                sums[index] = total if before is None else before + total

        return hook

    with contextlib.ExitStack() as hooks:
        for index, cell in enumerate(cells):
            hooks.callback(cell.register_forward_hook(watch(index)).remove)
        yield sums


def squared_distances(given: Tensor, output: Tensor) -> Tensor:
    """‖G(x) − G(x_adv)‖² of every image, float64 ``(n,)``.

    Args:
        given: F_in ``(2n, c_in, H, W)`` of a cell, n clean images before their n adversarial versions.
        output: F_out ``(2n, c_out, h, w)``, in the same order; F_in is averaged to its size.
    """
    size = output.shape[-2:]
    if given.shape[-2:] != size:
        given = F.adaptive_avg_pool2d(given, (size[0], size[1]))
    given, output = given.flatten(2), output.flatten(2).transpose(1, 2) / math.prod(size)
    n = len(output) // 2
    # there are two matrices per image, so for wide cells only a few images fit at once
    at_once = max(1, _GRAM_BYTES // (2 * given.element_size() * given.shape[1] * output.shape[2]))
    found = []
    for start in range(0, n, at_once):
        clean, adversarial = slice(start, min(start + at_once, n)), slice(n + start, n + min(start + at_once, n))
        moved = torch.bmm(given[clean], output[clean]).sub_(torch.bmm(given[adversarial], output[adversarial]))
        found.append(moved.flatten(1).square_().sum(1).double())
    return torch.cat(found)
