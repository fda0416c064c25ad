"""Evaluates networks, without leaving changes in them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from evo_robust.data.images import Images
from evo_robust.inference.checks import checked_images

NOT_A_NUMBER = -1
"""Predicted class of an image whose logits are not finite; it equals no label, so it counts as an error."""


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode; on leaving, restore every module's mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def without_parameter_gradients(model: nn.Module) -> Iterator[None]:
    """Switch ``requires_grad`` of all parameters off; on leaving, restore it."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Let an attack use ``model`` in its present mode, without parameter gradients or changes of running statistics.

    Layers in train mode normalise by the batch's statistics, but do not add them to the running ones.
    """
    tracking = [m for m in model.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        with without_parameter_gradients(model):
            yield
    finally:
        for module in tracking:
            module.track_running_stats = True


def classes(logits: Tensor) -> Tensor:
    """Predicted class of each row of logits ``(n, n_classes)``; ``NOT_A_NUMBER`` where a logit is not finite."""
    return torch.where(logits.isfinite().all(1), logits.argmax(1), NOT_A_NUMBER)


@torch.no_grad()
def predictions(model: nn.Module, images: Images, batch_size: int = 1000) -> Tensor:
    """Classes ``(n,)`` that ``model`` in eval mode gives to ``images``; -1 where a logit is not finite.

    The model keeps its mode; running statistics and gradients do not change.

    Raises:
        ValueError: there are no images, the batch size is below 1, the network gives no logits ``(n, classes)`` for
            such images, or it has fewer classes than the images.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"expected a batch size >= 1, got {batch_size}")
    with checked_images(model, images) as images, eval_mode(model):
        order = torch.arange(len(images), device=images.y.device)
        return torch.cat([classes(model(images.floats(part))) for part in order.split(batch_size)])


def correct_mask(model: nn.Module, images: Images, batch_size: int = 1000) -> Tensor:
    """Which images ``model`` in eval mode classifies correctly, bool ``(n,)``; see :func:`predictions`."""
    return predictions(model, images, batch_size) == images.y


def clean_error(model: nn.Module, images: Images, batch_size: int = 1000) -> float:
    """Fraction in [0, 1] of ``images`` that ``model`` in eval mode misclassifies."""
    return correct_mask(model, images, batch_size).logical_not().double().mean().item()
