"""Command: take networks out of a run. ``evo_robust export run=DIR pick=knee|INDEX|best:OBJECTIVE|…``."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import shutil
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chz
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from evo_robust.commands.cli import TRUST, command
from evo_robust.device import choose_device
from evo_robust.files import DamagedFile, make_folder, naming, read_tensors, write_tensors
from evo_robust.final_training.settings import SETTINGS_FILE, load_result, read_settings
from evo_robust.inference.predictions import clean_error
from evo_robust.networks.found import genotype_of
from evo_robust.networks.genotype import FILE_NAME, Genotype, load_genotype, save_genotype
from evo_robust.networks.model_card import CARD_NAME, WEIGHTS_NAME, model_card, probe
from evo_robust.objectives.figures import figures_of
from evo_robust.parts.base import Part, UserError
from evo_robust.parts.making import parse
from evo_robust.parts.paths import PATH, refuse_odd_path
from evo_robust.parts.typed import as_typed, line
from evo_robust.plotting.terminal import add_quantities, shown_figures
from evo_robust.progress import output, table
from evo_robust.record.budget import WithinBudget, parse_budget, spelt_as_in, structure_of, within
from evo_robust.record.ending import unfinished
from evo_robust.record.indicators import spelt_pick
from evo_robust.record.reading import load_run
from evo_robust.record.rebuild import rebuild
from evo_robust.record.run import Run, comparable
from evo_robust.record.view import folder_name, view_of

ONNX_NAME = "model.onnx"
_OURS = frozenset({FILE_NAME, WEIGHTS_NAME, CARD_NAME, ONNX_NAME})

USAGE = """usage: evo_robust export run=DIR [pick=knee|INDEX|best:OBJECTIVE|derived,…]
           [budget=small|medium|large|"params<5e6,flops<=1e9"] [out=DIR]
           [weights=true|false] [onnx=true|false] [device=auto|cpu|cuda]
       evo_robust export --help      every key with its meaning

DIR is the run folder of a search, or the folder of a network that the command retrain trained."""


@chz.chz
class Export(Part):
    """Write chosen networks as genotype file, weights, model card (Python, needs only torch) and ONNX."""

    run: str = chz.field(doc="run folder of a search, or folder of a retrained network", metadata=PATH)
    pick: str | None = chz.field(
        default=None,
        doc="which networks of the front: knee (when not given), INDEX or best:OBJECTIVE; or derived, the one that the "
        "distribution of a GradientHybrid stands for; several with commas",
    )
    budget: str | None = chz.field(
        default=None,
        doc="pick from the front of all evaluated networks within it: small, medium or large (class by convolutions "
        "per cell), or conditions on recorded figures such as 'params<5e6' or 'flops<=1e9'; several with commas",
    )
    out: str | None = chz.field(
        default=None,
        doc="folder to write, one inside it for each of several picks; RUN/export/PICK[-BUDGET] when not given",
        metadata=PATH,
    )
    weights: bool = chz.field(default=True, doc="write weights and model card too; a search's are trained again")
    onnx: bool | None = chz.field(default=None, doc="write ONNX too; where its packages are installed, when not given")
    device: str = chz.field(default="auto", doc="where weights are trained again: auto (as the search), cpu, cuda …")
    trust: bool = chz.field(default=False, doc=TRUST)

    @chz.validate
    def _sound(self) -> None:
        refuse_odd_path("run", self.run)
        refuse_odd_path("out", self.out)


@dataclasses.dataclass(frozen=True)
class Exported:
    """A network to be exported.

    Attributes:
        genotype: the network with its figures and origin.
        folder: the folder to write.
        model: the network with weights, in eval mode on the CPU; None where no weights are wanted.
        notes: sentences about the origin of the weights.
    """

    genotype: Genotype
    folder: Path
    model: nn.Module | None = None
    notes: tuple[str, ...] = ()


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    if not argv:
        print(as_typed(USAGE))
        return 0
    options = parse(Export, argv, "export")
    choose_device(options.device)  # a wrong device is reported before a network is trained
    onnx = _wants_onnx(options)
    console = output()
    for exported in _prepared(options, console):
        names = write(exported, onnx=onnx)
        console.print(f"wrote {exported.folder}: {', '.join(names)}")
        if exported.model is not None and CARD_NAME not in names:
            kind = type(exported.genotype.space).__name__
            console.print(f"{CARD_NAME} was left out: {kind} gives no network_arguments", markup=False)
        if exported.model is not None and not onnx and options.onnx is None:
            console.print("ONNX was left out: it needs pip install 'evo_robust[export]'", markup=False)
        if "retrained" not in exported.genotype.provenance:
            console.print(_next(exported), markup=False, soft_wrap=True)
    return 0


def _next(exported: Exported) -> str:
    """The command that trains the network: at the paper's size after a paper's search, else as it was searched."""
    paper = exported.genotype.provenance.get("scale") == "paper"
    recipe, smaller = exported.genotype.space.final_recipe, () if paper else ("decoder=search", "epochs=24")
    return f"next: {line('retrain', f'genotype={exported.folder / FILE_NAME}', f'recipe={recipe}', *smaller)}"


def _wants_onnx(options: Export) -> bool:
    """Whether ONNX is written.

    Raises:
        UserError: it was asked for and its packages are missing, or without weights.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if options.onnx and missing:
        raise UserError(f"onnx=true needs {' and '.join(missing)}: pip install 'evo_robust[export]'")
    if options.onnx and not options.weights:
        raise UserError("onnx=true needs the weights: expected weights=true")
    return options.weights and (options.onnx is None or options.onnx) and not missing


def _prepared(options: Export, console: Console) -> list[Exported]:
    """What is to be written, without weights of a search: those come when all folders are known to be free."""
    source = Path(options.run)
    if (source / SETTINGS_FILE).is_file():
        for name in ("pick", "budget"):
            if (given := getattr(options, name)) is not None:
                raise UserError(f"{source} holds one retrained network: expected no {name}, got {name}={given}")
        folder = Path(options.out) if options.out else source / "export"
        check_target(folder)
        return [retrained(source, folder, weights=options.weights, trust=options.trust)]
    budget = parse_budget(options.budget) if options.budget is not None else None
    whole = load_run(source, trust=options.trust)
    if whole.missing:
        raise UserError(whole.missing)
    budget = spelt_as_in(whole, budget) if budget else None
    run = within(whole, budget) if budget else whole
    specs = [spelt_pick(text.strip(), run.objectives) for text in (options.pick or "knee").split(",")]
    if budget and "derived" in specs:
        raise UserError(f"pick=derived is one network, whatever its size: expected no budget, got {budget.text}")
    rows = [run.chosen(spec) for spec in specs]
    folders = _folders(options, specs, budget)
    for folder in folders:
        check_target(folder)
    if budget:
        console.print(
            f"within budget={budget.text}: {len(run.evaluations)} of {len(comparable(whole.evaluations))} networks, "
            f"{len(run.front)} on their front",
            markup=False,
        )
    console.print(_table(whole, specs, rows, budget))
    if note := unfinished(whole):
        console.print(f"note: {note}", markup=False)
    found = [
        Exported(genotype_of(run, row, spec, budget), folder)
        for spec, row, folder in zip(specs, rows, folders, strict=True)
    ]
    if not options.weights:
        return found
    return [_with_weights(run, row, e, options.device, console) for row, e in zip(rows, found, strict=True)]


def _folders(options: Export, specs: list[str], budget: WithinBudget | None) -> list[Path]:
    labels = [re.sub(r"\W+", "-", spec) if not spec.isdecimal() else f"front-{spec.lstrip('0') or 0}" for spec in specs]
    if len(set(labels)) < len(labels):
        raise UserError(f"expected different picks, got pick={options.pick}")
    if budget:
        labels = [f"{label}-{budget.label}" for label in labels]
    if options.out and len(specs) == 1:
        return [Path(options.out)]
    parent = Path(options.out) if options.out else Path(options.run) / "export"
    return [parent / label for label in labels]


def check_target(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, or that holds anything but an earlier export.

    Raises:
        UserError: saying why, or naming what is there.
    """
    try:
        refuse_odd_path("out", str(folder))  # its name may come from a long budget
    except ValueError as error:
        raise UserError(str(error)) from None
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in _OURS)
    # whether it can be made is known by making it; an export that fails later leaves nothing behind
    with contextlib.suppress(OSError):  # another export may have written there meanwhile
        for path in missing:
            path.rmdir()
    if foreign:
        raise UserError(f"{folder} holds other files ({', '.join(foreign[:3])}): expected a new or exported folder")


def _with_weights(run: Run, row: Mapping[str, Any], exported: Exported, device: str, console: Console) -> Exported:
    """The same with its weights, and how they compare with the record."""
    console.print(f"making the weights of evaluation {row['id']} again, as in the search …")
    model, shared = rebuild(run, row, device, lambda text: console.print(text, markup=False, soft_wrap=True))
    images = run.problem.data.load().val.to(next(model.parameters()).device)
    notes = [f"trained as in the search: {run.problem.evaluator.words} on {run.problem.data.name}"]
    error = clean_error(model, images)
    notes.append(f"clean error on the {len(images)} validation images: {error:.2%}".replace("%", " %"))
    recorded = {**row.get("recorded", {}), **row["objectives"]}.get("clean_error")
    if recorded is not None and abs(recorded - error) > 1e-9:
        notes.append(
            f"the search recorded {recorded:.4f}: on another machine, or with other versions, weights are similar, "
            "but not identical"
        )
    for note in notes[1:]:
        console.print(f"  {note}")
    genotype = exported.genotype
    if shared:
        genotype = dataclasses.replace(genotype, provenance={**genotype.provenance, "supernet": shared})
    return dataclasses.replace(exported, genotype=genotype, model=model.cpu().eval(), notes=tuple(notes))


def retrained(source: Path, folder: Path, *, weights: bool = True, trust: bool = False) -> Exported:
    """The network of a retraining's folder.

    Raises:
        UserError: it is not finished, is a reference network without genotype, or is damaged.
    """
    result = load_result(source)
    if not (source / FILE_NAME).is_file():
        raise UserError(f"{source} holds a reference network, which has no genotype to export")
    genotype = load_genotype(source, trust=trust)
    # versions are those of the retraining, which made the weights, and not those of the search
    settings = read_settings(source)
    identity = settings["identity"]
    how = {key.removeprefix("recipe."): value for key, value in identity.items() if key.startswith("recipe.")}
    told = {**result.summary(), "training": how, "seed": identity.get("seed")}
    training = {"retrained": told, "versions": settings.get("versions", {})}
    genotype = dataclasses.replace(genotype, provenance={**genotype.provenance, **training})
    if not weights:
        return Exported(genotype, folder)
    if (kind := identity.get("denoise", "none")) != "none":
        raise UserError(
            f"{source} holds a network with denoise={kind}, which model.py cannot build: expected weights=false, for "
            "its genotype alone"
        )
    model = genotype.build()
    tensors, _ = read_tensors(source / WEIGHTS_NAME)
    # numbers of another type would be rounded silently
    wanted, found = ({name: (t.dtype, t.shape) for name, t in kind.items()} for kind in (model.state_dict(), tensors))
    if found != wanted:
        raise UserError(f"{source / WEIGHTS_NAME} does not fit the network of {source / FILE_NAME}")
    if odd := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise DamagedFile(source / WEIGHTS_NAME, f"{odd[0]} holds NaN or infinity", "train the network again")
    model.load_state_dict(tensors)
    return Exported(genotype, folder, model.eval(), tuple(result.sentences()))


def write(exported: Exported, *, onnx: bool) -> list[str]:
    """Write a network's folder, whole or not at all; the names of its files."""
    folder = exported.folder
    check_target(folder)
    make_folder(folder.parent)
    new, old = (folder.with_name(f".{folder.name}.{kind}.{os.getpid()}") for kind in ("new", "old"))
    try:
        with naming(folder, *(new / name for name in (FILE_NAME, WEIGHTS_NAME, CARD_NAME, ONNX_NAME))):
            new.mkdir()
            save_genotype(exported.genotype, new / FILE_NAME)
            if exported.model is not None:
                write_tensors(new / WEIGHTS_NAME, exported.model.state_dict())
                if (card := model_card(exported.genotype, exported.model, exported.notes)) is not None:
                    (new / CARD_NAME).write_text(card, encoding="utf-8")
                if onnx:
                    write_onnx(exported.model, exported.genotype.in_shape, new / ONNX_NAME)
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return sorted(p.name for p in folder.iterdir())


def write_onnx(model: nn.Module, in_shape: tuple[int, int, int], path: Path) -> None:
    """Write ``model`` as ONNX: input ``images (n, *in_shape)`` in [0,1], output ``logits (n, n_classes)``, any n."""
    with warnings.catch_warnings():
        # the exporter and the libraries below it warn about their own internals
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (probe(in_shape),),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _table(whole: Run, specs: list[str], rows: list[dict[str, Any]], budget: WithinBudget | None) -> Table:
    """What was picked, its figures as in the table of the front, with those that the budget limits."""
    shown = shown_figures(view_of(whole), [limit.name for limit in (budget.limits if budget else ())])
    sized = budget is not None and budget.size is not None
    made = table("Picked from " + folder_name(whole.folder), words=("pick",), numbers=("evaluation",))
    add_quantities(made, shown)
    if sized:
        made.add_column("convolutions\nper cell", justify="right")
    made.add_column("architecture")
    for spec, row in zip(specs, rows, strict=True):
        figures = figures_of(row)
        values = [q.number(figures.get(q.name, math.nan)) for q in shown]
        values += [f"{structure_of(whole, row).convolutions:.3g}"] if sized else []
        made.add_row(spec, str(row["id"]), *values, Text(row["architecture"]))
    return made


if __name__ == "__main__":
    sys.exit(main(None))
