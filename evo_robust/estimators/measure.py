"""What a network is worth at all strengths of a search, where some are attacked and the others estimated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from evo_robust.attacks.curve import attacked_together
from evo_robust.attacks.fast import Precision, for_attack
from evo_robust.attacks.gradient import GradientAttack
from evo_robust.data.images import Images
from evo_robust.estimators.base import Estimator, NoiseEstimator
from evo_robust.estimators.noises import real_noises, spectrum
from evo_robust.estimators.state import part
from evo_robust.estimators.strengths import Strengths
from evo_robust.inference.checks import checked_images, known_good
from evo_robust.inference.predictions import classes, eval_mode, undisturbed
from evo_robust.parts.base import Shape, digest

# estimators keep several maps per strength of all images in a batch
_ESTIMATED_TOGETHER = 128


@dataclasses.dataclass(frozen=True)
class Source:
    """Where noises at all strengths come from: an attack at N1 of them and an estimator for the rest.

    Attributes:
        attack: makes the real noises.
        strengths: which are real and which are estimated.
        kind: of the estimator.
    """

    attack: GradientAttack
    strengths: Strengths
    kind: Estimator

    @property
    def learned(self) -> bool:
        """Whether the estimator has weights that must be trained."""
        return bool(self.strengths.estimated) and self.kind.learned

    @property
    def key(self) -> str:
        """Under which its estimator's weights lie among those that candidates share."""
        return f"noise_{digest(self.attack, self.strengths, self.kind)}"

    def estimator(self, in_shape: Shape, shared: Mapping[str, Tensor] | None = None) -> NoiseEstimator:
        """The estimator, with its weights among ``shared`` ones where it has any.

        Raises:
            ValueError: it is a learned one that was not trained.
        """
        estimator = self.kind.build(in_shape)
        if self.learned:
            weights = part(shared or {}, self.key)
            if not weights:
                raise ValueError(
                    f"the noise estimator {type(self.kind).__name__} is learned: expected a search that trains it "
                    "(algorithm=GradientHybrid algorithm.gradient=EstimatedLoss), or estimator=WA"
                )
            estimator.load_state_dict(weights)
        return estimator.eval()


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """A network's figures without attack and at every strength.

    Attributes:
        losses: mean cross-entropy in nats, float64 ``(1 + strengths,)``, without attack first.
        errors: fraction misclassified, float64 ``(1 + strengths,)``. An image that is misclassified at one strength
            counts at every larger one too, since the larger ball holds its adversarial image.
    """

    losses: Tensor
    errors: Tensor


def _spectrum(estimator: NoiseEstimator, x: Tensor, noises: Tensor, strengths: Strengths) -> Tensor:
    """The noises at all strengths for images that are known to be good."""
    with known_good(x):
        return spectrum(estimator, x, noises, strengths)


@torch.no_grad()
def measure_spectrum(
    model: nn.Module,
    images: Images,
    source: Source,
    estimator: NoiseEstimator,
    generator: torch.Generator,
    precision: Precision = "float32",
) -> Spectrum:
    """Losses and errors of a network in eval mode; it is left as it was.

    Every image goes to the last step of every attack, because estimates need all noises and losses are means over all
    images. A fast copy of the network crafts the images, in ``precision``; the network itself judges them.

    Raises:
        ValueError: no images, labels that are no classes of the network, or a network that gives no logits or has no
            gradient.
    """
    losses, wrong = [], []
    with checked_images(model, images, gradient=True) as images, eval_mode(model), undisturbed(model):
        model(images.floats(slice(2)))  # looked at before it is copied
        crafting = for_attack(model, images.floats(slice(16)), precision)
        for index in torch.arange(len(images), device=images.y.device).split(attacked_together(images)):
            x, y = images.floats(index), images.y[index]
            with known_good(x, y):
                real = real_noises(crafting, x, y, source.strengths.real, source.attack, generator)
            few = torch.arange(len(x), device=x.device).split(_ESTIMATED_TOGETHER)
            noises = torch.cat([_spectrum(estimator, x[part], real[:, part], source.strengths) for part in few], 1)
            logits = [model(image).float() for image in (x, *(x + noise for noise in noises))]
            losses.append(torch.stack([F.cross_entropy(z, y, reduction="sum").double() for z in logits]))
            wrong.append(torch.stack([classes(z) != y for z in logits]).cummax(0).values)
    errors = torch.cat(wrong, 1).double().mean(1)
    return Spectrum((torch.stack(losses).sum(0) / len(images)).cpu(), errors.cpu())
