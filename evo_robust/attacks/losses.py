"""Losses that an attacker maximises: one value per image, so that images are attacked independently."""

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


def check_loss(name: object) -> None:
    """Raise ``ValueError`` for the name of an unknown loss."""
    if name not in get_args(LossName):
        raise ValueError(f"expected loss {', '.join(get_args(LossName))}, got {name!r}")


def attack_loss(name: LossName, logits: Tensor, y: Tensor, clean: Tensor | None) -> Tensor:
    """The loss ``(n,)`` of this name; only ``kl`` needs ``clean`` (probabilities without attack).

    Raises:
        ValueError: the loss is unknown, or is ``kl`` and ``clean`` is missing.
    """
    if name == "ce":
        return cross_entropy(logits, y)
    if name == "margin":
        return margin(logits, y)
    check_loss(name)
    if clean is None:
        raise ValueError("expected the clean probabilities for the kl loss, got None")
    return kl_divergence(logits, clean)
