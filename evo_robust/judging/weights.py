"""Weights from files, put into a network that must fit them exactly."""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from evo_robust.files import DamagedFile, read_tensors
from evo_robust.parts.base import UserError, digest

OURS = ".safetensors"
"""End of the names of files that this package writes, with a checksum inside."""

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Keys under which training scripts keep the weights beside other things."""


def expect_weights(path: Path) -> None:
    """Raise ``UserError`` where there is no file of weights."""
    if not path.is_file():
        raise UserError(f"no weights at {path}: expected a file of weights, .safetensors or of torch.save")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a safetensors file, or of a ``torch.save`` file that holds tensors alone.

    A checkpoint's ``state_dict`` is found inside it, and the prefix ``module.`` of wrapped networks is taken off.

    Raises:
        UserError: the file is missing or damaged, or holds Python objects, which are never loaded.
    """
    expect_weights(path)
    found: Any
    found = _safetensors(path) if path.suffix == OURS or _looks_safe(path) else _of_torch(path)
    for key in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()) or not found:
        got = "none at all" if isinstance(found, Mapping) and not found else type(found).__name__
        raise UserError(f"{path}: expected weights by name (a state_dict), got {got}")
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def _of_torch(path: Path) -> Any:
    """What a ``torch.save`` file holds, where that is tensors and plain values alone."""
    if not path.stat().st_size:
        raise DamagedFile(path, "it is empty", "save the weights again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on protocols of pickle
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = re.search(r"GLOBAL \S+|Unsupported [^.]*", str(error))
        raise UserError(
            f"{path} holds more than tensors, or is no file of torch.save{f' ({what[0]})' if what else ''}; objects "
            "could run code and are never loaded: save model.state_dict() alone"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, IndexError, TypeError) as error:
        reason = f"it is no file of torch.save: {type(error).__name__} {str(error).splitlines()[:1]}"
        raise DamagedFile(path, reason, "save the weights again") from None


def _looks_safe(path: Path) -> bool:
    """Whether a file begins as one of safetensors does: the length of a text, and the text's brace."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path)[0]
    except DamagedFile:
        try:
            foreign = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise DamagedFile(path, error, "save the weights again") from None
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            if "sha256" in (file.metadata() or {}):  # ours, and its checksum is wrong
                raise
        return foreign


def fitted(network: nn.Module, path: Path, what: str) -> nn.Module:
    """The network with the weights of a file, in eval mode.

    Raises:
        UserError: names or shapes differ, or a weight is not finite; the message names both sides.
    """
    tensors = read_weights(path)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != got:
        name = next(name for name in [*wanted, *got] if wanted.get(name) != got.get(name))
        expected = f"{name} {wanted[name]}" if name in wanted else f"no {name}"
        raise UserError(f"{path} does not fit {what}: expected {expected}, got {got.get(name, 'none')}")
    if odd := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise UserError(f"{path}: expected finite weights, got NaN or infinity in {odd[0]}")
    network.load_state_dict(tensors)
    return network.eval()


def structure(network: nn.Module) -> str:
    """A digest of a network's layers and of the shapes of its weights, whatever their values."""
    shapes = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in network.state_dict().items()]
    return digest([str(network), shapes], length=16)


def identity(network: nn.Module) -> str:
    """A digest of a network: its layers and its weights, wherever they lie."""
    total = hashlib.sha256(str(network).encode())
    for name, tensor in network.state_dict().items():
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest(total.hexdigest(), length=16)
