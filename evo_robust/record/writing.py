"""The run folder of a search at work: one process at a time writes it; resume is replay."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import chz
import numpy as np

from evo_robust.evaluators.base import Evaluation, Session
from evo_robust.files import FolderLock, make_folder, naming, write_csv, write_json
from evo_robust.objectives.base import Objective
from evo_robust.objectives.figures import figures_of
from evo_robust.parts.base import UserError, changed, dotted
from evo_robust.parts.plain import first_of
from evo_robust.problem.files import problem_from_dict
from evo_robust.problem.value import Problem, missing_of
from evo_robust.progress import Progress
from evo_robust.record.box import box_of, keep_box, kept_box
from evo_robust.record.indicators import Box, hypervolume, objective_matrix
from evo_robust.record.reading import (
    IMAGES,
    LEDGER_FILE,
    PROBLEM_FILE,
    SCHEMA,
    check_identity,
    read_ledger,
    read_problem,
)
from evo_robust.record.reported import Reports, reported_columns
from evo_robust.record.run import DERIVED_FILE, PROGRESS_FILE, front_of, past_seconds, usable
from evo_robust.spaces.base import Architecture


class Record:
    """The run folder of a running search; a context manager that holds the folder's lock.

    Attributes:
        rows: evaluations that this search asked for, replayed or measured.
        n_measured: how many of them this process measured.
        on_row: called with each row and whether it was replayed.
    """

    def __init__(self, folder: Path, problem: Problem, info: dict[str, Any]) -> None:
        self.folder = folder
        self.names = [o.name for o in problem.objectives]
        self._recorded = [o.name for o in problem.recorded]
        self._reported = problem.reported
        self._reports: Reports | None = None
        self._space = problem.space
        self._info = {"schema": SCHEMA, **info}
        self._lock = FolderLock(folder)
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        self._ids: dict[int, str] = {}
        self._past: dict[int, float] = {}
        self._progress: list[list[Any]] = []
        self._derived: list[list[Any]] = []
        self._box: Box | None = None
        self._ledger: Any = None
        self._good = 0  # bytes of the ledger's whole lines
        self._begun = False
        self.rows: list[dict[str, Any]] = []
        self.n_measured = 0
        self.on_row: Callable[[dict[str, Any], bool], None] | None = None

    def __enter__(self) -> Record:
        """Check the folder, take its lock and read the evaluations in it.

        Raises:
            UserError: the folder belongs to another problem, is in use, or is damaged.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"out={self.folder} is a file: expected a folder, or a name that is free")
        problem_file = self.folder / PROBLEM_FILE
        if not problem_file.exists() and self.folder.is_dir() and any(_visible(self.folder)):
            raise UserError(f"{self.folder} holds other files: expected a new, empty or run folder as out=")
        if not problem_file.exists() and (around := _run_around(self.folder)) is not None:
            raise UserError(f"out={self.folder} lies inside the run folder {around}: expected a folder beside it")
        fresh = not self.folder.exists()
        make_folder(self.folder)
        try:
            self._lock.__enter__()
        except BaseException:
            if fresh:
                self.folder.rmdir()
            raise
        try:
            self._open()
        except BaseException:
            self._lock.__exit__()
            raise
        return self

    def _open(self) -> None:
        path = self.folder / PROBLEM_FILE
        if path.exists():
            old = read_problem(path)
            self._check_same(old, path)
            self._check_draws(old)
            # the versions and device of the first process stay; those of later processes are listed as sessions
            sessions = old.get("sessions", [])
            told = ("command", "versions")  # no command where a program searches
            present = {key: self._info.pop(key) for key in told if key in self._info}
            if present != {key: old.get(key) for key in present} and present not in sessions:
                sessions = [*sessions, present]
            kept = self._info | {key: old[key] for key in told if key in old}
            self._info = {key: kept[key] for key in (*old, *kept) if key in kept}  # in the order that it had
            if sessions:
                self._info["sessions"] = sessions
        ledger = self.folder / LEDGER_FILE
        rows, good = read_ledger(ledger, self._space)
        self._reports = Reports(self.folder, self._reported)
        self._known = {(row["architecture"], row["fingerprint"]): row for row in rows}
        self._ids = {row["id"]: row["architecture"] for row in rows}
        self._past = past_seconds(self.folder / PROGRESS_FILE)
        self._box = kept_box(self.folder, self.names)
        if not path.exists():  # first, so that the folder belongs to this search whatever fails next
            write_json(path, self._info)
            self._begun = True
        # unbuffered: a failed write is reported at once, and closing cannot fail
        self._ledger = open(ledger, "ab", buffering=0)  # noqa: SIM115 (closed in __exit__)
        self._good = good

    def begin(self) -> None:
        """Write ``problem.json``, once. A search refused before its first evaluation changes nothing."""
        if self._begun:
            return
        self._begun = True
        write_json(self.folder / PROBLEM_FILE, self._info)
        with naming(self.folder / LEDGER_FILE):
            self._ledger.truncate(self._good)

    def _check_same(self, old: dict[str, Any], path: Path) -> None:
        try:
            as_written, reason = problem_from_dict(old, stand_ins=True), None
        except (UserError, ValueError, KeyError) as error:
            as_written, reason = None, error
        whole = as_written is not None and missing_of(as_written) is None
        later = dotted(as_written, identity=True) if whole else {}
        # fields added after the file was written have their defaults
        before, now = {**later, **old["identity"]}, self._info["identity"]
        if before.get(IMAGES) != now.get(IMAGES) and before.get("data") == now.get("data"):
            raise UserError(
                f"{self.folder} was searched on images other than the present ones ({path.name}: digest "
                f"{before.get(IMAGES)}, now {now.get(IMAGES)}). Put the former images back, or choose another out="
            )
        differences = changed(before, now)
        if differences:
            shown = first_of(differences, 4)
            raise UserError(
                f"{self.folder} holds another search ({path.name}): {shown}. Choose another out=, or the same settings"
            )
        if as_written is not None:
            check_identity(old, as_written, path)
        elif not isinstance(reason, UserError):  # a moved or broken problem file does not stop the search
            raise UserError(f"{path} cannot be read: {reason}") from reason

    def _check_draws(self, old: dict[str, Any]) -> None:
        """Refuse a search that drew its candidates by another method: its replay would ask for different ones."""
        before = old.get("draws")
        for name, version in self._info.get("draws", {}).items():
            was = before.get(name, 1) if isinstance(before, dict) else 1  # runs older than the entry
            if was != version:
                raise UserError(
                    f"{self.folder} drew its candidates with version {was} of {name}. This is version {version}, "
                    "which draws different ones, so the search cannot go on. It can still be plotted, exported and "
                    "analysed; for a new search choose another out="
                )

    def __exit__(self, *_: object) -> None:
        """Close the ledger and release the folder's lock."""
        try:
            if self._ledger is not None:
                self._ledger.close()
        finally:
            self._lock.__exit__()

    @property
    def n_known(self) -> int:
        """Number of evaluations in the ledger from earlier processes."""
        return len(self._known)

    @property
    def fingerprints(self) -> frozenset[str]:
        """Fingerprints of the evaluations from earlier processes."""
        return frozenset(fingerprint for _, fingerprint in self._known)

    def check_goes_on(self, session: Session) -> None:
        """Refuse to go on where no row of the ledger has the session's fingerprint.

        Raises:
            UserError: the ledger has rows, and all of them have other fingerprints.
        """
        if not self._known or session.fingerprint in self.fingerprints:
            return
        built = f"what was built in the cache ({', '.join(session.built)}) has changed, or "
        raise UserError(
            f"{self.folder / LEDGER_FILE}: new evaluations would not compare with the {self.n_known} that are there: "
            f"{built if session.built else ''}another version of evo_robust made them "
            f"(fingerprint {min(self.fingerprints)}, now {session.fingerprint}). Nothing was changed; "
            "choose another out="
        )

    def known(self, architecture: str, fingerprint: str) -> Evaluation | None:
        """See :class:`evo_robust.algorithms.adapter.Ledger`."""
        row = self._known.get((architecture, fingerprint))
        if row is None:
            return None
        self._take(row, replayed=True)
        fields = {f.name for f in dataclasses.fields(Evaluation)}
        return Evaluation(**{k: v for k, v in row.items() if k in fields})

    def add(self, evaluation: Evaluation, *, id: int, generation: int, genome: np.ndarray, fingerprint: str) -> None:
        """Append one line to the ledger. When this returns, the operating system has it."""
        if id in self._ids:
            raise UserError(
                f"{self.folder / LEDGER_FILE} does not follow from these settings and library versions: "
                f"evaluation {id} was {self._ids[id]!r} there and is {evaluation.architecture!r} now. "
                "Nothing was changed; choose another out="
            )
        row = {
            "id": id,
            "generation": generation,
            "genome": [int(g) for g in genome],
            **dataclasses.asdict(evaluation),
            "fingerprint": fingerprint,
        }
        self._append(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self.n_measured += 1
        self._take(row, replayed=False)

    def _append(self, line: bytes) -> None:
        """Write a whole line, or raise an error with the reason. A line that was half written is removed again."""
        self.begin()
        with naming(self.folder / LEDGER_FILE):
            end = self._ledger.seek(0, os.SEEK_END)
            try:
                written = 0
                while written < len(line):
                    written += self._ledger.write(line[written:])
            except BaseException:
                with contextlib.suppress(OSError):  # a torn last line is dropped when the search goes on
                    self._ledger.truncate(end)
                raise

    def _take(self, row: dict[str, Any], *, replayed: bool) -> None:
        self.rows.append(self._reports.attached(row) if self._reports else row)
        if self.on_row is not None:
            self.on_row(row, replayed)

    def end_generation(
        self,
        generation: int,
        seconds: float,
        derived: str | None = None,
        settled: Mapping[str, float] | None = None,
    ) -> Progress:
        """Write progress and front after a generation.

        Args:
            generation: its number.
            seconds: time of the search, over all processes that worked on it. Replayed evaluations count with their
                original seconds.
            derived: the most likely architecture of the search's distribution, where there is one.
            settled: figures of that distribution; the names are always the same.
        """
        with naming(self.folder / LEDGER_FILE):
            os.fsync(self._ledger.fileno())
        front = front_of(self.rows, self.names)
        seconds = max(seconds, self._past.get(generation, 0.0))
        volume = self._hypervolume(front)
        self._progress.append([generation, len(self.rows), f"{volume:.6g}", len(front), round(seconds, 2)])
        header = ["generation", "evaluations", "own_box_hypervolume", "front", "seconds"]
        write_csv(self.folder / PROGRESS_FILE, header, self._progress)
        self._write_front(front)
        if derived is not None:
            figures = dict(settled or {})
            told = [f"{value:.6g}" for value in figures.values()]
            self._derived.append([generation, derived, *self._figures_of(derived), *told])
            header = ["generation", "architecture", *self.names, *figures]
            write_csv(self.folder / DERIVED_FILE, header, self._derived)
        return Progress(generation, len(self.rows), volume, len(front), seconds)

    def front(self) -> list[dict[str, Any]]:
        """Rows of the present front."""
        return front_of(self.rows, self.names)

    def architecture(self, row: Mapping[str, Any]) -> Architecture:
        """The architecture of a row."""
        return self._space.from_text(row["architecture"])

    def unreported(self) -> list[tuple[dict[str, Any], list[Objective]]]:
        """Rows of the present front with reported objectives not measured yet, and these objectives."""
        assert self._reports is not None, "the folder is open"
        left = ((row, self._reports.missing(row)) for row in self.front())
        return [(row, objectives) for row, objectives in left if objectives]

    def report(self, row: dict[str, Any], objectives: Sequence[Objective], found: Evaluation) -> None:
        """Keep the figures measured on a network of the front, and write the front's files again."""
        assert self._reports is not None, "the folder is open"
        for objective in objectives:
            self._reports.add(row, objective, found)
        place = next(i for i, known in enumerate(self.rows) if known["id"] == row["id"])
        self.rows[place] = self._reports.attached(row)
        self._write_front(self.front())

    def _figures_of(self, architecture: str) -> list[Any]:
        """Objectives of an architecture under the present fingerprint; empty where it was not measured."""
        present = (row for row in self.rows if row["fingerprint"] == self.rows[-1]["fingerprint"])
        row = next((row for row in present if row["architecture"] == architecture), None)
        return [row["objectives"].get(name, "") if row else "" for name in self.names]

    def _hypervolume(self, front: Sequence[dict[str, Any]]) -> float:
        """The front's hypervolume. The first generation with figures fixes its box, so earlier values never change."""
        if not front:
            return 0.0
        if self._box is None:
            box = box_of(self.folder, [row for row in self.rows if usable(row)], self.names)
            assert box is not None, "a front has figures"
            keep_box(self.folder, self.names, box)
            self._box = box
        return hypervolume(objective_matrix(front, self.names), self._box)

    def past_seconds(self, generation: int) -> float:
        """Seconds that earlier runs had spent when ``generation`` ended, 0 if none got there."""
        return self._past.get(generation, 0.0)

    def _write_front(self, front: Sequence[dict[str, Any]]) -> None:
        numbers = [figures_of(row) for row in front]
        beside = dict.fromkeys((*self._recorded, "params", "flops", *reported_columns(self._reported, numbers)))
        beside = {name: None for name in beside if name not in self.names}
        rows = [
            [index, row["id"], row["architecture"]]
            + [row["objectives"][name] for name in self.names]
            + [found.get(name, "") for name in beside]
            for index, (row, found) in enumerate(zip(front, numbers, strict=True))
        ]
        write_csv(self.folder / "front.csv", ["index", "id", "architecture", *self.names, *beside], rows)
        entries = [
            {
                "index": index,
                "id": row["id"],
                "architecture": row["architecture"],
                "genome": row["genome"],
                "objectives": row["objectives"],
                "recorded": row.get("recorded", {}),
                "reported": row.get("reported", {}),
                "figures": row["figures"],
            }
            for index, row in enumerate(front)
        ]
        write_json(self.folder / "front.json", {"schema": SCHEMA, "front": entries})


def with_images(problem: Problem, folder: Path) -> tuple[Problem, list[str]]:
    """The problem, tied to the images that its data set reads now, and warnings about them.

    A run folder from before images were checked goes on as it began. The names of its rows, adversarial sets and
    supernets do not depend on images, so nobody can tell whether the images are still the same.

    Raises:
        UserError: the data is missing or damaged, or ``problem.json`` is.
    """
    data = problem.data.pinned()
    path, lines = folder / PROBLEM_FILE, []
    if data.content and path.is_file() and IMAGES not in read_problem(path).get("identity", {}):
        data = chz.replace(data, content="")
        lines = [
            f"warning: {folder} was begun before images were checked. That data={data.name} still has the images of "
            "this search cannot be verified; the search goes on as if it had"
        ]
    return chz.replace(problem, data=data), lines


def _run_around(folder: Path) -> Path | None:
    """The run folder that a folder lies in; None where there is none."""
    around = folder.resolve().parents
    return next((place for place in around if all((place / name).is_file() for name in _RUNS)), None)


_RUNS = (PROBLEM_FILE, LEDGER_FILE)
"""Files that make a folder a run's."""


def _visible(folder: Path) -> Iterable[Path]:
    # a process killed before its first write leaves only its locks
    return (p for p in folder.iterdir() if not p.name.startswith(".") and p.name != "lock")


def library_versions() -> dict[str, str]:
    """Versions of the libraries that the figures depend on."""
    names = ("evo_robust", "torch", "torchvision", "numpy", "pymoo", "chz", "joblib", "thop", "cma", "scikit-learn")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions
