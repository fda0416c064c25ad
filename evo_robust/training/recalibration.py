"""Statistics of batch normalisation for a network whose weights were trained together with others.

A supernet's running statistics average over all paths and fit none of them. A network that inherits its weights gets
new ones: the average over a few batches (Yu & Huang, Universally slimmable networks, 2019).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from evo_robust.data.images import Augment, Images, batches
from evo_robust.inference.checks import check_images, check_network, check_values, is_known
from evo_robust.training.loop import reproducible
from evo_robust.training.steps import TimeLimit

Batches = tuple[tuple[Tensor, Tensor], ...]
"""Images ``(b, c, h, w)`` in [0,1] and labels ``(b,)``, on the device."""


def draw_batches(images: Images, batch_size: int, augment: Augment | None, count: int, seed: int) -> Batches:
    """The first ``count`` shuffled and augmented batches of at least 2 images; in several passes if needed."""
    generator = torch.Generator(images.x.device).manual_seed(seed)
    passes = itertools.chain.from_iterable(batches(images, batch_size, generator, augment) for _ in itertools.count())
    return tuple(itertools.islice(((x, y) for x, y in passes if len(y) >= 2), count))


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    given: Iterable[tuple[Tensor, Tensor]],
    forward: Callable[[nn.Module, Tensor, Tensor], object] | None = None,
    *,
    seed: int = 0,
    deadline: float | None = None,
) -> None:
    """Replace the running statistics of all batch normalisation by their mean over ``given``; ends in eval mode.

    Weights, gradients and torch's global generators do not change, nor do the statistics of layers that no image
    reaches. Every batch has the same weight, whatever its size.

    Args:
        model: network from images in [0,1] to logits.
        given: batches of images and labels, at least 2 images each.
        forward: passes a batch through the model in train mode, for example after an attack; by default the images
            are passed as they are.
        seed: seed of dropout.
        deadline: ``time.monotonic`` seconds.

    Raises:
        TimeLimit: the deadline passed.
        ValueError: no batch, a batch of fewer than 2 images, or wrong images or labels.
    """
    check_network(model)
    layers = [m for m in model.modules() if isinstance(m, _NormBase) and m.track_running_stats]
    before = [(m.momentum, {name: value.clone() for name, value in m.named_buffers(recurse=False)}) for m in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean of all batches
    seen = 0
    model.train()
    try:
        with reproducible(_device(model), seed):
            for x, y in given:
                _check(x, y, first=seen == 0)
                seen += 1
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeLimit("time limit reached while statistics were recalibrated")
                if forward is None:
                    model(x)
                else:
                    forward(model, x, y)
        if seen == 0:
            raise ValueError("expected at least 1 batch of images for the statistics, got none")
    finally:
        model.eval()
        for layer, (momentum, buffers) in zip(layers, before, strict=True):
            layer.momentum = momentum
            if layer.num_batches_tracked is not None and layer.num_batches_tracked == 0:
                for name, value in buffers.items():
                    getattr(layer, name).copy_(value)


def _check(x: Tensor, y: Tensor, first: bool) -> None:
    """Refuse a batch of wrong shape or type; values are checked in the first one only."""
    if first and not is_known(x, y):
        check_values(x, y)
    if len(check_images(x)) < 2:
        raise ValueError(f"expected at least 2 images in a batch, for its statistics, got {len(x)}")


def _device(model: nn.Module) -> torch.device:
    """A network's device; the CPU where it has no tensors."""
    some = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if some is None else some.device
