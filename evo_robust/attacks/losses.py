"""Losses that an attacker maximises: one value per image, so that images are attacked independently."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor

LossName = Literal["ce", "margin", "kl", "dlr", "targeted-dlr", "probability-margin"]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy ``(n,)`` of logits ``(n, n_classes)`` and true classes ``(n,)``, in nats."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest other logit minus the true one, ``(n,)``; positive where the image is misclassified.

    Unlike that of cross-entropy, its gradient does not vanish when the network is confident (Carlini & Wagner, Towards
    Evaluating the Robustness of Neural Networks, 2017).
    """
    true = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - true.squeeze(1)


def kl_divergence(logits: Tensor, clean: Tensor) -> Tensor:
    """KL divergence ``(n,)`` from the probabilities ``clean`` ``(n, n_classes)`` to those of the logits, in nats.

    TRADES maximises it (Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, 2019).
    """
    return F.kl_div(F.log_softmax(logits, 1), clean, reduction="none").sum(1)


def probability_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best other probability minus the true one, ``(n,)`` in [-1, 1]; positive where the image is misclassified.

    Reported to be the strongest single loss in L∞ (Xie et al., Towards Million-Scale Adversarial Robustness Evaluation
    With Stronger Individual Attacks, 2025).
    """
    return margin(logits.softmax(1), y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, ``(n,)`` in [-1, 1]: the margin over the distance of the first logit to the third.

    Neither shifting nor scaling the logits changes it (Croce & Hein, Reliable Evaluation of Adversarial Robustness,
    2020, eq. 6).

    Raises:
        ValueError: fewer than three classes.
    """
    _enough("dlr", logits)
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    return margin(logits, y) / (first - third + _TINY)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Logit of the class ``target`` ``(n,)`` minus the true one, on the scale of the largest logits, ``(n,)``.

    Croce & Hein, 2020, eq. 7.

    Raises:
        ValueError: fewer than four classes.
    """
    _enough("targeted-dlr", logits)
    first, _, third, fourth = logits.topk(4, dim=1).values.unbind(1)
    ahead = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    return ahead / (first - 0.5 * (third + fourth) + _TINY)


_TINY = 1e-12
"""Keeps a ratio of logits finite where all of them are equal."""


NEEDED_CLASSES = {"dlr": 3, "targeted-dlr": 4}
"""Least number of classes of losses that look at a third logit, or a fourth."""


def _enough(name: str, logits: Tensor) -> None:
    if logits.shape[1] < (least := NEEDED_CLASSES[name]):
        raise ValueError(
            f"expected at least {least} classes for loss {name}, got {logits.shape[1]}: loss=margin serves any number"
        )


def check_loss(name: object) -> None:
    """Raise ``ValueError`` for the name of an unknown loss."""
    if name not in get_args(LossName):
        raise ValueError(f"expected loss {', '.join(get_args(LossName))}, got {name!r}")


def attack_loss(name: LossName, logits: Tensor, y: Tensor, reference: Tensor | None) -> Tensor:
    """Loss ``(n,)`` of that name.

    ``kl`` compares with the probabilities ``(n, n_classes)`` without attack. ``targeted-dlr`` needs the classes to
    reach, ``(n,)``.

    Raises:
        ValueError: an unknown loss, one without the reference that it needs, or too few classes for it.
    """
    check_loss(name)
    if name in _PLAIN:
        return _PLAIN[name](logits, y)
    if reference is None:
        wanted = "the probabilities without attack" if name == "kl" else "the classes to reach"
        raise ValueError(f"expected {wanted} as the reference of loss {name}, got None")
    return kl_divergence(logits, reference) if name == "kl" else targeted_dlr(logits, y, reference)


_PLAIN = {"ce": cross_entropy, "margin": margin, "dlr": dlr, "probability-margin": probability_margin}
