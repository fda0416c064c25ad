"""Files that are whole or not there at all, tensors in them, and folders held by one process; no pickle is loaded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from evo_robust.parts import UserError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Path to write to; on leaving without an exception it becomes ``path``, which nobody ever sees half written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def only_one(folder: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a folder; the operating system frees it when its holder dies.

    Args:
        folder: it must exist.
        on_wait: called once when another process holds the folder, before waiting for it.
    """
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any] | None = None) -> None:
    """Write tensors by name, and JSON values beside them, as a safetensors file."""
    # channels-last images and views become plain: a safetensors file holds dense arrays only
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {"info": json.dumps(info or {}), "sha256": _checksum(plain)}
    with whole_file(path) as temporary:
        # safetensors' own writer leaves files that only their owner can read
        temporary.write_bytes(save(plain, metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON values of a file that ``write_tensors`` made, in host memory.

    Raises:
        UserError: the file cannot be read or is not what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            metadata = file.metadata() or {}
        if metadata.get("sha256") != _checksum(tensors):
            raise ValueError("its checksum is wrong")
        return tensors, json.loads(metadata["info"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run the command again") from None


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
