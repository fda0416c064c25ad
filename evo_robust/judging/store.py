"""What is known of one network under one trial, kept in a folder while it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evo_robust.files import DamagedFile, make_folder, read_tensors, set_aside, write_tensors
from evo_robust.progress import Say, silent


@dataclasses.dataclass
class Kept:
    """The first m images of a judgement.

    Attributes:
        level: index of the smallest strength that breaks each of them, int64 ``(m,)``: -1 where it is misclassified
            without attack, k where none of the k strengths breaks it.
        seconds: time spent on them.
    """

    level: Tensor
    seconds: float


class Store:
    """A folder of judgements, one file each. A file is whole or absent, so that a kill costs one batch.

    A file that is damaged all the same is set aside, and counts as absent.
    """

    def __init__(self, folder: Path, say: Say = silent) -> None:
        """The store in a folder, which is made when something is kept; ``say`` is told of damaged files."""
        self.folder, self.say = folder, say

    def get(self, key: str) -> Kept:
        """What is kept under a key; nothing at all where no file is.

        Raises:
            DamagedFile: the file is not what was written, and cannot be set aside.
        """
        found = self._read(key)
        if found is not None:
            try:
                return Kept(found[0]["level"].long(), float(found[1]["seconds"]))
            except (KeyError, TypeError, ValueError) as error:
                self.say(set_aside(DamagedFile(self._path(key), f"it lacks {error}")))
        return Kept(torch.zeros(0, dtype=torch.long), 0.0)

    def _read(self, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and values under a key; None where no file is, or it was damaged."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            return read_tensors(path)
        except DamagedFile as error:
            self.say(set_aside(error))
            return None

    def put(self, key: str, kept: Kept, about: Mapping[str, Any]) -> None:
        """Keep a judgement, whole or in part; ``about`` says in JSON values what it is of."""
        make_folder(self.folder)
        info = {**about, "seconds": round(kept.seconds, 3)}
        write_tensors(self._path(key), {"level": kept.level.to(torch.int16)}, info)

    def masks(self, key: str) -> dict[str, Tensor] | None:
        """What is known of each image, bool ``(m,)`` by name, as :meth:`put_masks` kept it; None where no file is.

        Raises:
            DamagedFile: the file is not what was written, and cannot be set aside.
        """
        found = self._read(key)
        return None if found is None else {name: mask.bool() for name, mask in found[0].items()}

    def put_masks(self, key: str, masks: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Keep what is known of each image, bool ``(m,)`` by name."""
        make_folder(self.folder)
        write_tensors(self._path(key), {name: mask.to(torch.uint8).cpu() for name, mask in masks.items()}, about)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
