"""A run prepared for a study: errors, costs and structure of its architectures, as columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evo_robust.files import write_csv
from evo_robust.parts.base import UserError, nearest, spelt
from evo_robust.parts.facts import FINETUNING
from evo_robust.spaces.base import SearchSpace
from evo_robust.spaces.structure import Structure

if TYPE_CHECKING:
    from evo_robust.record.view import View


class LeftOut(Exception):
    """A part of the study is not possible with this record; the message says why, in one sentence."""


@dataclasses.dataclass(frozen=True)
class Study:
    """The evaluated architectures of one run and one fingerprint, n of them.

    Attributes:
        name: the run's name.
        space: the search space.
        objective: column of the robust error.
        texts: notation of each architecture.
        genomes: a genome of each architecture, ``(n, genes)``, without operations that carry nothing.
        structures: structure of each architecture; None where the space gives none.
        columns: ``robust``, ``clean``, ``inherited_robust``, ``inherited_clean`` (errors in [0, 1]), ``params``,
            ``flops`` and ``genome_density`` (of the proposed genome, which may have edges that carry nothing), each
            ``(n,)``, with NaN where nothing was recorded.
        fsp: FSP distance of each cell ``(n, cells)``, NaN where a cell is empty; no cells where nothing was recorded.
        finetuned: whether inherited weights were finetuned before architectures were measured.
        fsp_inherited: whether FSP distances were measured with inherited weights, before finetuning.
        fsp_choice: a sentence about which of several recorded FSP distances these are; empty where there is only one.
        caution: a warning about the sample, for readers of correlations; may be empty.
    """

    name: str
    space: SearchSpace
    objective: str
    texts: list[str]
    genomes: np.ndarray
    structures: list[Structure] | None
    columns: dict[str, np.ndarray]
    fsp: np.ndarray
    finetuned: bool
    fsp_inherited: bool
    fsp_choice: str
    caution: str

    def error(self, which: str) -> np.ndarray:
        """A column ``(n,)``, see ``columns``."""
        return self.columns[which]

    def accuracy(self, which: str = "robust") -> np.ndarray:
        """1 − error, ``(n,)``."""
        return 1.0 - self.columns[which]

    def has(self, which: str) -> bool:
        """Whether any row has this column."""
        return bool(np.isfinite(self.columns[which]).any())

    @property
    def robust_words(self) -> str:
        """Name of the accuracy under attack."""
        return accuracy_words(self.objective)

    def structural(self, name: str) -> np.ndarray:
        """Attribute ``name`` of every structure as numbers ``(n,)``.

        Raises:
            LeftOut: the space gives no structure.
        """
        return np.array([getattr(s, name) for s in self.known_structures()], dtype=float)

    def known_structures(self) -> list[Structure]:
        """The structures.

        Raises:
            LeftOut: the space gives none.
        """
        if self.structures is None:
            raise LeftOut(f"{type(self.space).__name__} cannot tell what its architectures are made of")
        return self.structures


def accuracy_words(name: str) -> str:
    """The name of an error's complement: ``robust accuracy`` for ``robust_error``."""
    first, dot, strength = name.partition(".")
    words = first.replace("_", " ")
    words = words.replace("error", "accuracy") if "error" in words else f"{words} accuracy"
    return f"{words} at ε = {float(strength):.3g}" if dot else words


def study_of(view: View, objective: str) -> Study:
    """The study of a run.

    Args:
        view: its usable evaluations, of one fingerprint.
        objective: name of an error in its record, or of one strength of it such as ``robust_error.0.03``.

    Raises:
        UserError: the record holds no such error, with the nearest name, or its architectures cannot be read.
    """
    known = _errors(view)
    objective = spelt(objective, known)
    robust = view.column(objective)
    if objective not in known:
        why = f"expected an error, got {objective}" if np.isfinite(robust).any() else f"no {objective!r} in its record"
        options = nearest(objective, known) if known else "none of its objectives is one (has the unit fraction)"
        raise UserError(f"objective={objective}: {why} ({view.name}): {options}")
    if not ((robust >= 0) & (robust <= 1) | np.isnan(robust)).all():
        raise UserError(f"objective={objective}: expected an error in [0, 1], got up to {np.nanmax(robust):.3g}")
    clean = _clean_name(view)
    keep = np.isfinite(robust)
    shown = {"robust": objective, "clean": clean}
    shown |= {f"inherited_{key}": f"inherited.{name}" for key, name in shown.items()}
    shown |= {"params": "params", "flops": "flops"}
    columns = {key: view.column(name)[keep] for key, name in shown.items()}
    if clean == objective:  # the clean error is no second figure then
        columns["clean"] = np.full(keep.sum(), np.nan)
    rows = [row for row, kept in zip(view.rows, keep, strict=True) if kept]
    space, texts = view.run.problem.space, [row["architecture"] for row in rows]
    densities = [space.genome_density(np.array(row["genome"])) for row in rows]
    columns["genome_density"] = np.array([np.nan if d is None else d for d in densities])
    try:
        architectures = [space.from_text(text) for text in texts]
    except ValueError as error:
        raise UserError(
            f"{view.run.folder}: its architectures cannot be read by {type(space).__name__}: {error}"
        ) from None
    structures = [s for a in architectures if (s := space.structure(a)) is not None]
    names = _fsp_names(rows)
    finetuned = FINETUNING in view.run.problem.evaluator.provides
    return Study(
        name=view.name,
        space=space,
        objective=objective,
        texts=texts,
        genomes=np.array([space.encode(a) for a in architectures]),
        structures=structures if len(structures) == len(rows) else None,
        columns=columns,
        fsp=_fsp(rows, names[0]) if names else np.empty((len(rows), 0)),
        finetuned=finetuned,
        fsp_inherited=bool(names) and finetuned and not _judged(rows, names[0]),
        fsp_choice=f"Shown is {names[0]}; recorded too: {', '.join(names[1:])}." if names[1:] else "",
        caution=_caution(view),
    )


def _caution(view: View) -> str:
    found = [said] if (said := view.run.problem.algorithm.caution) else []
    if view.n_failed:
        found.append(f"{view.n_failed} more failed, were rejected or broke a constraint, and are left out.")
    if view.n_earlier:
        found.append(f"{view.n_earlier} measurements with earlier {view.changing} do not compare, and are left out.")
    return " ".join(found)


def _errors(view: View) -> list[str]:
    """Names of errors in the record, and of each strength of one."""
    problem = view.run.problem
    named = [o.name for o in (*problem.objectives, *problem.recorded) if o.unit == "fraction"]
    strengths = [
        f"{name}.{key}"
        for name in named
        if isinstance(figures := view.rows[0].get("figures", {}).get(name), Mapping)
        for key, value in figures.items()
        if isinstance(value, float) and _is_number(key)
    ]
    return [name for name in (*named, *strengths) if np.isfinite(view.column(name)).any()]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _clean_name(view: View) -> str:
    problem = view.run.problem
    found = (o.name for o in (*problem.objectives, *problem.recorded) if o.is_clean_error)
    return next(found, "clean_error")


def _fsp_names(rows: list[dict[str, Any]]) -> list[str]:
    """Names of FSP distances in the record, as they come."""
    return list(
        dict.fromkeys(
            name
            for row in rows
            for name, value in row.get("figures", {}).items()
            if isinstance(value, Mapping) and isinstance(value.get("cells"), list)
        )
    )


def _fsp(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    """FSP distances ``(n, cells)``."""
    cells = [(row.get("figures", {}).get(name) or {}).get("cells", []) for row in rows]
    found = np.full((len(rows), max(map(len, cells))), np.nan)
    for i, values in enumerate(cells):
        found[i, : len(values)] = [np.nan if v is None else v for v in values]
    return found


def _judged(rows: list[dict[str, Any]], name: str) -> bool:
    """Whether a figure was measured with the final weights; only a gate measures before finetuning."""
    return any(name in {**row["objectives"], **row.get("recorded", {})} for row in rows)


def write_architectures(study: Study, path: Path) -> None:
    """Write all points of the pictures as CSV, one line per architecture, errors as recorded; empty where unknown."""
    columns: dict[str, list[Any]] = {name: [*values] for name, values in study.columns.items()}
    if study.structures is not None:
        for name in ("density", "convolutions", "direct_share", "budget"):
            columns[name] = [getattr(s, name) for s in study.structures]
    columns |= {f"fsp_cell_{i}": [*values] for i, values in enumerate(study.fsp.T)}
    names = {which: f"{which}_error" for which in ("robust", "clean", "inherited_robust", "inherited_clean")}
    header = [names.get(name, name) for name in columns]
    rows = zip(study.texts, *columns.values(), strict=True)
    write_csv(path, ["architecture", *header], [[blank(v) for v in row] for row in rows])


def blank(value: Any) -> Any:
    """A value as a CSV cell: empty where a number is undefined."""
    return "" if isinstance(value, float) and not np.isfinite(value) else value
