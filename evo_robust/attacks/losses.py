"""Losses that an attacker raises: one value per image, so that each image is attacked on its own."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor

LossName = Literal["ce", "margin", "kl"]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy ``(n,)`` of logits ``(n, n_classes)`` and true classes ``(n,)``, in nats."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best other logit minus the true one, ``(n,)``; positive where the image is misclassified.

    Unlike cross-entropy its gradient does not fade with the network's confidence
    (Carlini & Wagner, Towards Evaluating the Robustness of Neural Networks, 2017).
    """
    true = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - true.squeeze(1)


def kl_divergence(logits: Tensor, clean: Tensor) -> Tensor:
    """KL divergence ``(n,)`` from the probabilities ``clean`` ``(n, n_classes)`` to those of the logits, in nats.

    What TRADES raises (Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, 2019).
    """
    return F.kl_div(F.log_softmax(logits, 1), clean, reduction="none").sum(1)


def check_loss(name: object) -> None:
    """Raise ``ValueError`` for a loss that there is not: an unknown one must not be taken for whatever comes last."""
    if name not in get_args(LossName):
        raise ValueError(f"expected loss {', '.join(get_args(LossName))}, got {name!r}")


def attack_loss(name: LossName, logits: Tensor, y: Tensor, clean: Tensor | None) -> Tensor:
    """Loss ``(n,)`` of that name; ``clean`` (probabilities without attack) is needed by ``kl`` alone.

    Raises:
        ValueError: an unknown loss, or ``kl`` without the clean probabilities.
    """
    if name == "ce":
        return cross_entropy(logits, y)
    if name == "margin":
        return margin(logits, y)
    check_loss(name)
    if clean is None:
        raise ValueError("expected the clean probabilities for the kl loss, got None")
    return kl_divergence(logits, clean)
