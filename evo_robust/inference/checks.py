"""Checks of the network, images and labels given to public calls: once per call, before any work.

Values are checked once (one pass, one wait for the device). A network is checked at its first output, whose shape costs
nothing. Checked tensors are marked, so that inner calls, such as those of a training loop, do not check them again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from evo_robust.data.images import Images
from evo_robust.spaces.ops import Normalize

SLACK = 1e-5
"""How far float images may be outside [0,1]; rounding of an image plus a perturbation stays below it."""

_known: ContextVar[tuple[tuple[Tensor, int], ...]] = ContextVar("known", default=())


@contextlib.contextmanager
def known_good(*tensors: Tensor) -> Iterator[None]:
    """Inside, no call checks the values of these tensors again, as long as they do not change."""
    # tensors of inference mode have no version counter, so they are never marked, and every call checks them
    token = _known.set(tuple((t, t._version) for t in tensors if not t.is_inference()))
    try:
        yield
    finally:
        _known.reset(token)


def is_known(*tensors: object) -> bool:
    """Whether all of these tensors were checked, and have not changed since."""
    known = _known.get()
    return all(any(t is good and good._version == version for good, version in known) for t in tensors)


@contextlib.contextmanager
def checked_images(
    model: nn.Module, images: Images, *, gradient: bool = False, device: torch.device | None = None
) -> Iterator[Images]:
    """Check a call with a network and at least one labelled uint8 image.

    Args:
        model: network from images in [0,1] to logits ``(n, classes)``; its first output is checked.
        images: images that the network will get, as floats.
        gradient: whether gradients will be taken, which weights made in inference mode do not allow.
        device: device on which the network will get the images; their own device when not given.

    Raises:
        ValueError: there are no images, or the arguments are not a network and :class:`Images`; the message says what
            to do.
    """
    check_network(model, gradient=gradient)
    highest = highest_label(images)
    check_channels(model, images.x.shape[1])
    with ordinary_mode(), watched(model, highest, torch.float32, device or images.x.device):
        yield Images(ordinary(images.x), ordinary(images.y))


def check_network(model: object, *, gradient: bool = False) -> None:
    """Raise ``ValueError`` where ``model`` is no network, or a needed gradient cannot be taken of it."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a torch.nn.Module as network, got {type(model).__name__}")
    if gradient and any(tensor.is_inference() for tensor in model.parameters()):
        raise ValueError(
            "expected a network that gradients can flow through, got weights made inside torch.inference_mode(): "
            "build or load it outside"
        )


def check_channels(model: nn.Module, channels: int) -> None:
    """Raise ``ValueError`` where the network normalises another number of channels; broadcasting would hide that."""
    first = getattr(model, "normalize", next(model.children(), None))
    if isinstance(first, Normalize) and first.mean.shape[1] != channels:
        raise ValueError(f"expected images of {first.mean.shape[1]} channels, as the network's, got {channels}")


def check_trainable(model: nn.Module) -> torch.device:
    """The device of a network that has weights to train.

    Raises:
        ValueError: the network has no weights, or all of them are frozen.
    """
    check_network(model, gradient=True)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        what = "none that requires a gradient" if next(model.parameters(), None) is not None else "none"
        raise ValueError(f"expected a network with weights to train, got {what} in {type(model).__name__}")
    return weights[0].device


def check_images(x: object) -> Tensor:
    """The images, checked to be float32 or float64 ``(n, c, h, w)``; their values are not checked.

    Raises:
        ValueError: they are not; the message says what to do.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"expected images as a float32 tensor (n, c, h, w) in [0,1], got {type(x).__name__}")
    if not x.is_floating_point():
        raise ValueError(f"expected float32 images in [0,1], got {x.dtype}: divide by 255 (x.float() / 255)")
    if x.dtype not in (torch.float32, torch.float64):
        # rounding would change a perturbation of 8/255 by up to a tenth, so that it leaves the ball
        raise ValueError(f"expected float32 images, got {x.dtype}, too coarse for perturbations: give x.float()")
    if x.ndim != 4:
        raise ValueError(f"expected images (n, c, h, w), got {tuple(x.shape)}")
    return x


def check_labels(y: object, x: Tensor) -> Tensor:
    """The labels, checked to be int64 ``(n,)``, one for each image; their values are not checked.

    Raises:
        ValueError: they are not; the message says what to do.
    """
    if not isinstance(y, Tensor):
        raise ValueError(f"expected labels as an int64 tensor ({len(x)},), got {type(y).__name__}")
    if y.shape != x.shape[:1]:
        hint = ": give class indices (y.argmax(1))" if y.ndim == 2 and len(y) == len(x) else ""
        raise ValueError(f"expected labels ({len(x)},), one for each image, got {tuple(y.shape)}{hint}")
    if y.dtype != torch.int64:
        raise ValueError(f"expected int64 labels, got {y.dtype}: give class indices (y.long())")
    if y.device != x.device:
        raise ValueError(f"expected labels on the images' device {x.device}, got {y.device}")
    return y


def check_generator(generator: object) -> None:
    """Raise ``ValueError`` where ``generator`` is neither a torch generator nor None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"expected a torch.Generator, got {type(generator).__name__}")


def check_values(x: object, y: object = None) -> int:
    """Check the values of images and labels; returns the highest label (-1 without labels).

    Args:
        x: images, see :func:`check_images`; all values must be in [0,1].
        y: labels, see :func:`check_labels`; none may be negative. None where there are no labels.

    Raises:
        ValueError: a value is wrong; the message says what to do.
    """
    x = check_images(x)
    y = None if y is None else check_labels(y, x)
    if x.numel() == 0:
        return -1
    extremes = [*x.detach().aminmax(), *([] if y is None else (end.to(x.dtype) for end in y.aminmax()))]
    low, high, *labels = torch.stack(extremes).tolist()  # the only wait for the device
    _check_range(low, high)
    if labels and labels[0] < 0:
        raise ValueError(f"expected labels >= 0, got {labels[0]:.0f}")
    return int(labels[1]) if labels else -1


def _check_range(low: float, high: float) -> None:
    if low >= -SLACK and high <= 1 + SLACK:
        return
    if low != low or high != high:
        raise ValueError("expected images in [0,1], got NaN in them")
    if low < -SLACK:
        hint = "give them before normalisation, which is a layer of the network (evo_robust.spaces.ops.Normalize)"
    else:
        hint = "divide by 255" if 2 < high <= 255 else "scale or clip them"
    raise ValueError(f"expected images in [0,1], got values from {low:g} to {high:g}: {hint}")


def highest_label(images: object) -> int:
    """The highest label of labelled images.

    Raises:
        ValueError: they are no :class:`Images`, or there are none.
    """
    if not isinstance(images, Images):
        hint = ": make them by evo_robust.data.images.Images(x, y) of uint8 images and int64 labels"
        raise ValueError(f"expected Images, got {type(images).__name__}{hint}")
    if len(images) == 0:
        raise ValueError("expected at least 1 image, got 0")
    lowest, highest = torch.stack(images.y.aminmax()).tolist()
    if lowest < 0:
        raise ValueError(f"expected labels >= 0, got {lowest}")
    return int(highest)


def check_logits(logits: Any, n: int, highest: int = -1) -> Tensor:
    """A network's output for ``n`` images, checked to be float logits ``(n, classes)``; only the shape is read.

    Args:
        logits: the output.
        n: number of images.
        highest: the highest label, which must be a class.

    Raises:
        ValueError: the output is something else; the message says what to do.
    """
    wanted = f"expected a network that gives logits (n, classes), here ({n}, 2 or more)"
    if not isinstance(logits, Tensor):
        raise ValueError(f"{wanted}, got {type(logits).__name__}: let its forward return the logits alone")
    if logits.ndim != 2 or len(logits) != n or logits.shape[1] < 2:
        raise ValueError(f"{wanted}, got {tuple(logits.shape)}")
    if not logits.is_floating_point():
        raise ValueError(f"{wanted} in floating point, got {logits.dtype}: predicted classes are no logits")
    if n > 1 and logits.stride(0) == 0:
        raise ValueError(f"{wanted}, got one row for all images, which says nothing about each of them")
    if highest >= logits.shape[1]:
        raise ValueError(
            f"expected labels in 0..{logits.shape[1] - 1}, the network's {logits.shape[1]} classes, got {highest}"
        )
    return logits


def slope(total: Tensor, x: Tensor, *, retain: bool = False) -> Tensor:
    """The gradient of ``total`` with respect to the images ``x``, shaped like them; ``retain`` keeps the graph.

    Raises:
        ValueError: ``total`` does not depend on ``x``.
    """
    gradient = None
    if total.requires_grad:
        gradient = torch.autograd.grad(total, x, allow_unused=True, retain_graph=retain)[0]
    if gradient is None:
        raise ValueError(
            "expected a network with a gradient with respect to its images, got one that cuts it off (detach, no_grad, "
            "integers or arrays inside): gradient attacks find nothing there, level attacks (CMAES, DE) need none"
        )
    return gradient


@contextlib.contextmanager
def watched(model: nn.Module, highest: int, dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Check the network's first output, and explain an error where it cannot take the images at all.

    Args:
        model: the network.
        highest: the highest label, see :func:`check_logits`.
        dtype: type of the images.
        device: device of the images.

    Raises:
        ValueError: the output is not logits, or weights have another type or device than the images.
    """
    seen = False

    def look(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal seen
        seen = True
        n = len(inputs[0]) if inputs else len(output)
        if n > 1:  # a single image does not show how the network treats a batch
            handle.remove()
        check_logits(output, n, highest)

    handle = model.register_forward_hook(look)
    try:
        yield
    except RuntimeError as error:
        own = type(error) in (RuntimeError, NotImplementedError)  # torch's own, not errors of memory, time or the loss
        other = _unlike(model, dtype, device) if own and not seen else None
        if other is None:
            raise
        raise ValueError(
            f"expected a network for {dtype} images on {device}, got weights of {other.dtype} on {other.device}: "
            f"move one to the other (model.to(…)) [{str(error).splitlines()[0]}]"
        ) from error
    finally:
        handle.remove()


def _unlike(model: nn.Module, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """A weight with another floating type or device than the images; None if there is none."""
    weights = (*model.parameters(), *model.buffers())
    return next((w for w in weights if w.is_floating_point() and (w.dtype != dtype or w.device != device)), None)


@contextlib.contextmanager
def ordinary_mode() -> Iterator[None]:
    """Inside, leave ``torch.inference_mode``, in which no gradient can be taken."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():  # leaving inference mode would switch gradients on
        yield


def ordinary(tensor: Tensor) -> Tensor:
    """The tensor; if it was made in inference mode, a copy that allows gradients."""
    return tensor.clone() if tensor.is_inference() else tensor
