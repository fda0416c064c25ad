"""What parts of one's own must leave as it was while they measure: the network, the images, torch's settings."""

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
    """On leaving, put back torch's settings of a process that parts may have changed, before the next candidate."""
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)


@contextlib.contextmanager
def left_alone(candidate: Candidate, objective: Objective) -> Iterator[None]:
    """See to it that what an objective of one's own does to network and images touches no other figure.

    Our own objectives and attacks are known to leave them alone, so that nothing is looked at for them. Images are
    looked at by torch's count of changes, which does not see what goes through ``numpy()`` or ``data``.

    Raises:
        ValueError: it changed the network's weights or mode, or images that all candidates share.
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
            forget_images()  # the next candidate reads them anew
    if spoilt:
        raise ValueError(
            f"{objective.name} changed the images, which all candidates share: expected it to work on a copy"
        )
    after = _state(model)
    if after.keys() != weights.keys() or any(not torch.equal(after[name], weights[name]) for name in weights):
        raise ValueError(
            f"{objective.name} left the network with other weights than it was given, which others would "
            "see: expected it to put them back, or to work on a copy (copy.deepcopy)"
        )
    if _modes(model) != modes:
        raise ValueError(
            f"{objective.name} left the network in another mode than it was given: expected it to end with model.eval()"
        )


def _images(candidate: Candidate) -> list[Tensor]:
    splits = candidate.splits
    found = [tensor for part in (splits.train, splits.val, splits.test) for tensor in (part.x, part.y)]
    return [tensor for tensor in found if not tensor.is_inference()]  # those count no changes


def _state(model: nn.Module | None) -> dict[str, Tensor]:
    return {} if model is None else dict(model.state_dict())


def _modes(model: nn.Module | None) -> list[bool]:
    return [] if model is None else [module.training for module in model.modules()]
