"""Weights of a search's best candidates, kept until the reported objectives of its front have been measured."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from torch import nn

from evo_robust.files import DamagedFile, read_tensors, write_tensors
from evo_robust.parts.base import digest

FOLDER = "weights"


def keep(folder: Path, text: str, model: nn.Module) -> None:
    """Keep the weights of the architecture with the notation ``text``."""
    with contextlib.suppress(OSError):  # weights that could not be written are made again
        folder.mkdir(exist_ok=True)
        write_tensors(_file(folder, text), model.state_dict(), {"architecture": text})


def restore(folder: Path, text: str, model: nn.Module) -> bool:
    """Load the kept weights into a network; False where there are none, or where they are damaged."""
    try:
        tensors, info = read_tensors(_file(folder, text))
    except DamagedFile:  # or missing: the weights are made again
        return False
    fits = {name: (t.dtype, t.shape) for name, t in model.state_dict().items()}
    if info.get("architecture") != text or {name: (t.dtype, t.shape) for name, t in tensors.items()} != fits:
        return False
    model.load_state_dict(tensors)
    return True


def forget_others(folder: Path, texts: Collection[str]) -> None:
    """Keep only the weights of these architectures; without any, remove the folder too."""
    wanted = {_file(folder, text) for text in texts}
    with contextlib.suppress(OSError):  # a folder with other files stays
        for path in folder.glob("*.safetensors"):
            if path not in wanted:
                path.unlink()
        if not wanted:
            folder.rmdir()


def _file(folder: Path, text: str) -> Path:
    return folder / f"{digest(text)}.safetensors"
