"""Checks that a user's own part changes neither the network, nor the images, nor torch's settings while it measures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from evo_robust.data.base import forget_images
from evo_robust.objectives.base import Candidate, Objective
from evo_robust.parts.base import is_ours, parts_in


@contextlib.contextmanager
def torch_settings() -> Iterator[None]:
    """On leaving, restore the torch settings that parts may have changed, so that the next candidate has the same."""
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)


@contextlib.contextmanager
def left_alone(candidate: Candidate, objective: Objective) -> Iterator[None]:
    """Check that a user's own objective leaves network and images as they were, for the figures that follow.

    The package's own objectives and attacks do so, and are not checked. Changes of images are found by torch's version
    counter, which does not see writes through ``numpy()`` or ``data``.

    Raises:
        ValueError: the objective changed the network's weights or mode, or images that all candidates share.
    """
    if all(is_ours(part) for part in parts_in(objective)):
        yield
        return
    shared, model = _images(candidate), candidate.model
    versions = [tensor._version for tensor in shared]
    weights = {name: tensor.clone() for name, tensor in _state(model).items()}
    modes = _modes(model)
    try:
        yield
    finally:
        spoilt = [tensor._version for tensor in shared] != versions
        if spoilt:
            forget_images()  # the next candidate reads them again
    if spoilt:
        raise ValueError(
            f"{objective.name} changed the images, which all candidates share: expected it to work on a copy"
        )
    after = _state(model)
    if after.keys() != weights.keys() or any(not torch.equal(after[name], weights[name]) for name in weights):
        raise ValueError(
            f"{objective.name} changed the network's weights, which other objectives use: expected it to put them "
            "back, or to work on a copy (copy.deepcopy)"
        )
    if _modes(model) != modes:
        raise ValueError(
            f"{objective.name} changed the network's mode (train or eval): expected it to end with model.eval()"
        )


def _images(candidate: Candidate) -> list[Tensor]:
    splits = candidate.splits
    found = [tensor for part in (splits.train, splits.val, splits.test) for tensor in (part.x, part.y)]
    return [tensor for tensor in found if not tensor.is_inference()]  # inference tensors have no version counter


def _state(model: nn.Module | None) -> dict[str, Tensor]:
    return {} if model is None else dict(model.state_dict())


def _modes(model: nn.Module | None) -> list[bool]:
    return [] if model is None else [module.training for module in model.modules()]
