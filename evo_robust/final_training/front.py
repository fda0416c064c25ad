"""Trains networks of a search's front from scratch, one folder each, with an index of them all."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from evo_robust.device import choose_device
from evo_robust.evaluators.candidates import worker_device
from evo_robust.files import FolderLock, make_folder, write_csv, write_json
from evo_robust.final_training.settings import RESULT_FILE, Result, Retraining, load_result
from evo_robust.final_training.work import refuse_other, retrain
from evo_robust.networks.found import genotype_of
from evo_robust.networks.genotype import Genotype
from evo_robust.objectives.figures import figures_of
from evo_robust.parts.base import UserError
from evo_robust.parts.plain import first_of, shortened
from evo_robust.parts.strict_json import fault, is_object, is_text, read_json
from evo_robust.progress import Say, silent, table
from evo_robust.record.quantity import quantity
from evo_robust.record.run import Run
from evo_robust.record.view import folder_name, view_of
from evo_robust.workers import Died, LocalStaff, Pool

INDEX_FILE = "front.json"
TABLE_FILE = "front.csv"
SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Picked:
    """A network of a search that is trained from scratch.

    Attributes:
        folder: name of its folder, such as ``front-3``.
        index: its place on the front; None where it is not on it.
        genotype: the network, with its figures and origin.
    """

    folder: str
    index: int | None
    genotype: Genotype

    def entry(self) -> dict[str, Any]:
        """Its entry in ``front.json``."""
        return {
            "folder": self.folder,
            "index": self.index,
            "evaluation": self.genotype.provenance["evaluation"],
            "architecture": self.genotype.text,
            "objectives": dict(self.genotype.objectives),
            "figures": dict(self.genotype.figures),
        }


@dataclasses.dataclass(frozen=True)
class Job:
    """One of the networks with the settings of its training."""

    picked: Picked
    settings: Retraining


def picked_from(run: Run, pick: str) -> list[Picked]:
    """The networks that a pick names, each once, in the order of the front.

    Args:
        run: a search.
        pick: ``front`` (all of it), ``knee``, an index, ``best:OBJECTIVE`` or ``derived``; several with commas.

    Raises:
        UserError: the run has no front, or a pick names nothing on it.
    """
    view_of(run)  # says why there is no front
    place = {row["id"]: index for index, row in enumerate(run.front)}
    found: dict[int, Picked] = {}
    for spec in map(str.strip, pick.split(",")):
        rows = run.front if spec.lower() == "front" else [run.chosen(spec)]
        for row in rows:
            index = place.get(row["id"])
            name = f"evaluation-{row['id']}" if index is None else f"front-{index}"
            found.setdefault(
                row["id"], Picked(name, index, genotype_of(run, row, spec if index is None else str(index)))
            )
    return sorted(found.values(), key=lambda one: (one.index is None, one.index))


def read_front(folder: Path) -> dict[str, Any]:
    """Content of the index of a folder that :func:`retrain_front` wrote.

    Raises:
        UserError: it is absent or damaged.
    """
    path = folder / INDEX_FILE
    content = read_json(path, f"an index of retrained networks of schema {SCHEMA}")
    expected = {
        "schema": (lambda schema: schema == SCHEMA, f"{SCHEMA}"),
        "run": (is_text, "the name of a run folder"),
        "networks": (lambda found: isinstance(found, list) and all(map(_is_entry, found)), "a list of networks"),
    }
    if wrong := fault(content, expected, {}):
        raise UserError(f"{path} is damaged: {wrong}")
    return content


def _is_entry(value: object) -> bool:
    """Whether a value can be a network of an index; its folder is inside the index's own."""
    if not isinstance(value, dict):
        return False
    name, index = value.get("folder"), value.get("index")
    return (
        isinstance(name, str)
        and Path(name).name == name
        and name not in ("", ".", "..")
        and (index is None or (isinstance(index, int) and not isinstance(index, bool) and index >= 0))
        and is_text(value.get("architecture"))
        and is_object(value.get("objectives"))
    )


def retrain_front(
    run: Run,
    jobs: Sequence[Job],
    out: Path,
    *,
    device: str = "auto",
    workers: int = 1,
    command: str = "",
    recipe: str = "",
    say: Say = silent,
) -> dict[str, Result]:
    """Train and evaluate every network in a folder of its own; what is finished is kept, what was begun goes on.

    A network that cannot be trained does not stop the others. The last bits of weights depend on the CPU threads of a
    process, and so on ``workers``.

    Args:
        run: the search.
        jobs: the networks, all with one recipe.
        out: outer folder; it gets the index ``front.json`` and the table ``front.csv``.
        device: as of :func:`~evo_robust.final_training.work.retrain`; several workers share all CUDA devices.
        workers: networks at a time, >= 1, each in a process of its own where there are several.
        command: the command line, for the record.
        recipe: the name of the recipe as it was given, for the record.
        say: called with each line of progress text.

    Returns:
        Results by folder name, in the order of ``jobs``.

    Raises:
        UserError: a folder holds something else; or some networks could not be trained, after all others were.
    """
    device = choose_device(device)
    for job in jobs:  # before anything is written
        refuse_other(job.settings, out / job.picked.folder, device)
    make_folder(out)
    with FolderLock(out):
        _write_index(run, [job.picked for job in jobs], out, recipe, command)
        results, failed = _trained(jobs, out, device, workers, command, recipe, say)
        _write_table(run, jobs, results, out)
    if failed:
        told = [f"{name}: {reason}" for name, reason in failed.items()]
        raise UserError(f"{len(failed)} of {len(jobs)} networks could not be trained: {first_of(told, 3)}")
    return results


def _write_index(run: Run, picked: Sequence[Picked], out: Path, recipe: str, command: str) -> None:
    """Write the index of these networks, and of those that an earlier pick put there.

    Raises:
        UserError: the folder has an index of another search, or something that is no index.
    """
    new, old = {one.folder: one.entry() for one in picked}, {}
    if (out / INDEX_FILE).exists():
        content = read_front(out)
        old = {entry["folder"]: entry for entry in content["networks"]}
        if content["run"] != folder_name(run.folder):
            raise UserError(f"{out} holds networks of {content['run']}: expected another out=, or that run")
        for name in new.keys() & old.keys():
            if new[name]["architecture"] != old[name]["architecture"]:
                raise UserError(
                    f"{out} was begun with another front: {name} was {shortened(old[name]['architecture'])}, is "
                    f"{shortened(new[name]['architecture'])} now. Choose another out="
                )
    networks = sorted((old | new).values(), key=lambda e: (e["index"] is None, e["index"] or 0, e["folder"]))
    units = {o.name: o.unit for o in run.problem.objectives if o.unit}
    content = {
        "schema": SCHEMA,
        "run": folder_name(run.folder),
        "run_folder": str(run.folder),
        "problem": run.info.get("problem"),
        "scale": run.info.get("scale"),
        "objectives": list(run.objectives),
        "units": units,
        "recipe": recipe,
        "command": command,
        "networks": networks,
    }
    write_json(out / INDEX_FILE, content)


def _trained(
    jobs: Sequence[Job], out: Path, device: str, workers: int, command: str, recipe: str, say: Say
) -> tuple[dict[str, Result], dict[str, str]]:
    """Results by folder, and why the others could not be trained."""
    found: dict[str, Result | str] = {}
    left = []
    for job in jobs:
        if (out / job.picked.folder / RESULT_FILE).is_file():
            found[job.picked.folder] = load_result(out / job.picked.folder)
        else:
            left.append(job)
    if found:
        say(f"{len(found)} of {len(jobs)} networks are finished already")
    tasks: Iterator[tuple[str, Any]] = (
        (job.picked.folder, functools.partial(_one, job, out, device, command, recipe, say if workers == 1 else None))
        for job in left
    )
    with Pool(workers, LocalStaff(min(workers, len(left))) if workers > 1 and left else None, say) as pool:
        for name, outcome in pool.run(tasks):
            found[name] = f"its process {outcome.reason}" if isinstance(outcome, Died) else outcome
            say(f"{name}: {_told(found[name])}   {len(found)} of {len(jobs)} done")
    order = [job.picked.folder for job in jobs]
    results = {name: one for name in order if isinstance(one := found[name], Result)}
    return results, {name: one for name in order if isinstance(one := found[name], str)}


def _one(job: Job, out: Path, device: str, command: str, recipe: str, say: Say | None) -> Result | str:
    """Train one network; the reason where a person must mend something first. Without ``say``, in a worker process."""
    name = job.picked.folder
    if say is None:
        device = worker_device(device)
    told = functools.partial(_tell, name, say)
    try:
        return retrain(
            job.settings,
            out / name,
            genotype=job.picked.genotype,
            device=device,
            command=command,
            recipe=recipe,
            say=told,
        )
    except UserError as error:
        return str(error)


def _tell(name: str, say: Say | None, text: str) -> None:
    """Say a line of a network's training; a worker process prints it at once."""
    line = f"{name}: {text}"
    if say is None:
        print(line, flush=True)
    else:
        say(line)


def _told(outcome: Result | str) -> str:
    """How a training ended, in words."""
    if isinstance(outcome, str):
        return f"not trained: {outcome}"
    strongest = f", {_percent(outcome.error[-1])} under {outcome.attack} at {outcome.eps[-1]:.4g}"
    return f"accuracy {_percent(outcome.clean_error)}{strongest}"


def _percent(error: float) -> str:
    return f"{100 * (1 - error):.2f} %"


def _write_table(run: Run, jobs: Sequence[Job], results: Mapping[str, Result], out: Path) -> None:
    """Write ``front.csv``: what the search measured beside what the trained networks do, one line per network."""
    rows = [(job.picked, results[job.picked.folder]) for job in jobs if job.picked.folder in results]
    if not rows:
        return
    eps = rows[0][1].eps
    names = ["folder", "index", "evaluation", *(f"searched.{name}" for name in run.objectives)]
    names += ["recipe", "epochs", "params", "flops", "clean_error", *(f"error.{value:.6g}" for value in eps)]
    lines = [
        [
            *(picked.folder, "" if picked.index is None else picked.index, picked.genotype.provenance["evaluation"]),
            *(picked.genotype.objectives.get(name, "") for name in run.objectives),
            *(result.recipe, result.epochs, result.params, result.flops, result.clean_error, *result.error),
            picked.genotype.text,
        ]
        for picked, result in rows
    ]
    write_csv(out / TABLE_FILE, [*names, "architecture"], lines)


def front_table(run: Run, jobs: Sequence[Job], results: Mapping[str, Result]) -> Table:
    """The networks as searched and as trained: figures of the search, then accuracies on the test images."""
    done = [(job.picked, results[job.picked.folder]) for job in jobs if job.picked.folder in results]
    first = done[0][1]
    view = view_of(run)
    values = np.array([[figures_of(row).get(n, math.nan) for n in run.objectives] for row in run.front])
    shown = [quantity(name, view.unit(name), values[:, j]) for j, name in enumerate(run.objectives)]
    searched = ["searched\n" + q.label.replace(" (", "\n(", 1) for q in shown]
    trained = ["trained\naccuracy\n(%)", *(f"{first.attack}\nat\n{eps:.3g}" for eps in first.eps)]
    made = table(
        f"{folder_name(run.folder)}, trained from scratch: {first.how()}; {first.n_test:,} test images",
        words=("network",),
        numbers=(*searched, *trained, "parameters"),
    )
    for picked, result in done:
        found = [q.number(picked.genotype.objectives.get(q.name, math.nan)) for q in shown]
        accuracies = [f"{100 * (1 - error):.2f}" for _, error in result.points()]
        made.add_row(picked.folder, *found, *accuracies, f"{result.params:,}")
    return made
