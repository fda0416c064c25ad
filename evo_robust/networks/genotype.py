"""Genotype files: one found network as JSON, for users, other programs and ``retrain``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import evo_robust.spaces  # noqa: F401 (loads every space, so that genotype files can name it)
from evo_robust.files import write_json
from evo_robust.parts.base import UserError, dotted, subclasses
from evo_robust.parts.resolve import Unfit, from_dotted
from evo_robust.parts.strict_json import read_json, shown
from evo_robust.parts.typed import line
from evo_robust.problem.files import load_source
from evo_robust.spaces.base import Architecture, InvalidArchitecture, SearchSpace

SCHEMA = 1
FILE_NAME = "genotype.json"

LARGEST_NETWORK = 1_000_000_000
"""Largest number of parameters of a network in a genotype file: 4 GB of weights, thirty times the papers' largest."""

LARGEST_SIDE = 100_000
"""Largest number of classes or channels, and largest height and width, in a genotype file."""

_KEYS = ("schema", "space", "architecture", "data")


@dataclasses.dataclass(frozen=True)
class Genotype:
    """One network of a search space, with its figures and its origin.

    Attributes:
        space: the search space, which builds the network.
        architecture: the canonical architecture.
        data: lower-case name of the data set it was found on.
        n_classes: number of classes.
        in_shape: shape ``(c, h, w)`` of the images.
        objectives: objective values by name, as the search measured them.
        units: unit of each objective, by name.
        figures: further figures of the search, JSON values by name.
        provenance: problem, run, evaluation id, versions …, JSON values by name.
        source: full path of the Python file that defines the user's own parts; None where there are none.
    """

    space: SearchSpace
    architecture: Architecture
    data: str
    n_classes: int
    in_shape: tuple[int, int, int]
    objectives: Mapping[str, float] = dataclasses.field(default_factory=dict)
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: str | None = None

    @property
    def text(self) -> str:
        """Notation of the architecture."""
        return self.space.to_text(self.architecture)

    def build(self) -> nn.Module:
        """The network, with fresh weights: images ``(n, *in_shape)`` in [0,1] → logits ``(n, n_classes)``."""
        return self.space.build(self.architecture, self.n_classes, self.in_shape)

    def to_json(self) -> dict[str, Any]:
        """Content of the genotype file."""
        return {
            "schema": SCHEMA,
            "space": {"class": type(self.space).__name__, **dotted(self.space)},
            "architecture": self.text,
            "data": {"name": self.data, "n_classes": self.n_classes, "in_shape": list(self.in_shape)},
            "objectives": dict(self.objectives),
            "units": dict(self.units),
            "figures": dict(self.figures),
            "provenance": dict(self.provenance),
            **({} if self.source is None else {"source": self.source}),
        }


def save_genotype(genotype: Genotype, path: Path) -> None:
    """Write a genotype file, whole or not at all."""
    write_json(path, genotype.to_json())


def load_genotype(path: Path | str, *, trust: bool = False) -> Genotype:
    """The genotype of a file, or of a folder that holds a ``genotype.json``.

    Args:
        path: the file or folder.
        trust: run the Python file that it names as its source, wherever that is; otherwise only a file that is shipped,
            loaded already, or in the current folder's ``problems/``.

    Raises:
        UserError: the file is missing, is no genotype file or of another schema; its space is defined in a file that
            was not run; or its space or notation cannot be read.
    """
    file = _locate(Path(path))
    content = _read(file)
    if not isinstance(content["architecture"], str):
        raise UserError(f"{file}: expected the architecture's notation as text, got {shown(content['architecture'])}")
    source = content.get("source")
    if source is not None and not isinstance(source, str):
        raise UserError(f"{file}: expected the path of a Python file under 'source', got {shown(source)}")
    try:
        space = _space(content["space"], source, trust)
        architecture = space.from_text(content["architecture"])
    except InvalidArchitecture as error:
        raise UserError(f"{file}: the architecture {content['architecture']!r} cannot be read: {error}") from None
    except ValueError as error:
        raise UserError(f"{file}: space.{error}" if isinstance(error, Unfit) else f"{file}: {error}") from None
    data = _data(file, content["data"])
    extra = {key: content.get(key, {}) for key in ("objectives", "units", "figures", "provenance")}
    for key, value in extra.items():
        if not isinstance(value, dict):
            raise UserError(f"{file}: expected an object under {key!r}, got {shown(value)}")
    genotype = Genotype(space=space, architecture=architecture, source=source, **data, **extra)
    _check_size(file, genotype)
    return genotype


def _check_size(file: Path, genotype: Genotype) -> None:
    """Refuse a network that is too large for any machine, before it is built."""
    try:
        with torch.device("meta"):  # only shapes, which take no memory
            n = sum(parameter.numel() for parameter in genotype.build().parameters())
    except (ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"{file}: its network cannot be built: {str(error).splitlines()[0]}") from None
    if n > LARGEST_NETWORK:
        raise UserError(f"{file}: expected a network of at most {LARGEST_NETWORK:,} parameters, got {n:,}")


def _locate(path: Path) -> Path:
    """The genotype file that ``path`` names."""
    file = path / FILE_NAME if path.is_dir() else path
    if file.is_file():
        return file
    folder = file.parent
    candidates = [p.name for p in folder.glob("*.json")] if folder.is_dir() else []
    if file.name != FILE_NAME and FILE_NAME in candidates:
        hint = f"did you mean {folder / FILE_NAME}?"
    elif candidates:
        hint = f"{folder} has {', '.join(sorted(candidates))}"
    else:
        hint = f"{line('export', 'run=DIR')} writes one"
    raise UserError(f"no genotype file at {file}: {hint}")


def _read(file: Path) -> dict[str, Any]:
    """The JSON object of a genotype file, its schema and keys checked."""
    beside = file.with_name(FILE_NAME)
    hint = f"; did you mean {beside}?" if beside.is_file() and beside != file else ""
    content = read_json(file, f"a genotype file{hint}")
    if missing := [key for key in _KEYS if key not in content]:
        raise UserError(f"{file} is no genotype file: it has no {', '.join(map(repr, missing))}{hint}")
    if content["schema"] != SCHEMA:
        raise UserError(
            f"{file} has genotype schema {content['schema']!r}: expected {SCHEMA}; "
            "read it with the version of evo_robust that wrote it, or export the network again"
        )
    return content


def _space(values: object, source: str | None, trust: bool) -> SearchSpace:
    """The search space that a genotype file describes."""
    if not isinstance(values, dict) or not isinstance(values.get("class"), str):
        raise ValueError(f"expected a space such as {{'class': 'NSGAPhases', 'phases': 3, …}}, got {values!r}")
    values = dict(values)
    name = values.pop("class")
    if source is not None:
        _, why = load_source({"source": source}, trust)
        if name not in subclasses(SearchSpace):
            raise ValueError(f"its space {name} is {why}")
    # the name is that of the subclass
    return from_dotted(SearchSpace, values, name)


def _data(file: Path, values: Any) -> dict[str, Any]:
    """Name, number of classes and image shape of a genotype file's ``data``."""
    try:
        name, n_classes, shape = (values[k] for k in ("name", "n_classes", "in_shape"))
        c, h, w = (int(n) for n in shape)
        if not (1 <= int(n_classes) <= LARGEST_SIDE and all(1 <= n <= LARGEST_SIDE for n in (c, h, w))):
            raise ValueError
    except (TypeError, KeyError, ValueError):
        raise UserError(
            f"{file}: expected data such as {{'name': 'digits', 'n_classes': 10, 'in_shape': [1, 8, 8]}}, "
            f"numbers up to {LARGEST_SIDE}, got {values!r}"
        ) from None
    return {"data": str(name), "n_classes": int(n_classes), "in_shape": (c, h, w)}
