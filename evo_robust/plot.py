"""Command: pictures and tables of a run, of a run beside its random baseline, or of several runs over each other."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import chz
from rich.console import Console

from evo_robust.commands import cli
from evo_robust.files import make_folder
from evo_robust.judging.pictures import draw as draw_judgement
from evo_robust.judging.report import tables as tables_of
from evo_robust.judging.work import JUDGE_FOLDER, RESULT_FILE, read_judgement
from evo_robust.parts.base import Part, changed, dotted
from evo_robust.parts.making import parse
from evo_robust.parts.paths import PATH, folders_of, refuse_odd_path, refuse_odd_paths
from evo_robust.parts.plain import first_of
from evo_robust.parts.typed import as_typed
from evo_robust.plotting import compare, fronts, networks, progress, size, tables, terminal
from evo_robust.plotting.answers import beats
from evo_robust.plotting.groups import Group, alone, groups_of, write_groups
from evo_robust.progress import output
from evo_robust.record.ending import unfinished
from evo_robust.record.quantity import Quantity, words
from evo_robust.record.reading import IMAGES, load_run
from evo_robust.record.spent import spent
from evo_robust.record.view import COSTS, View, names_of, view_of

USAGE = """usage: evo_robust plot run=DIR [out=DIR]                   all pictures of a run
       evo_robust plot run=DIR baseline=DIR [out=DIR]      beside a random search of equal budget
       evo_robust plot run=DIR,DIR,… [tolerance=0.02] …    several runs over each other, by search figures
       evo_robust plot --help                              every key with its type, default and meaning

DIR is the run folder of a search, or a folder of the command judge."""


@chz.chz
class PlotCommand:
    """Draw a run: evo_robust plot run=DIR [baseline=DIR], or run=DIR,DIR to lay runs over each other."""

    run: tuple[str, ...] = chz.field(
        default=(), doc="run folder; several, separated by commas, are laid over each other", metadata=PATH
    )
    baseline: str | None = chz.field(
        default=None, doc="run folder of a random search of equal budget, beside the run", metadata=PATH
    )
    out: str | None = chz.field(
        default=None, doc="folder for the pictures; the (first) run folder when not given", metadata=PATH
    )
    tolerance: float = chz.field(
        default=0.02, doc="largest relative difference of two networks' FLOPs to count as equal; in [0, 1)"
    )

    trust: bool = chz.field(default=False, doc=cli.TRUST)

    @chz.validate
    def _sound(self) -> None:
        if not self.run or not all(self.run):
            raise ValueError("expected run=DIR, or run=DIR,DIR to lay runs over each other")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"expected tolerance in [0, 1), got {self.tolerance}")
        if self.baseline is not None and len(self.folders) > 1:
            raise ValueError("expected one run beside a baseline; lay several over each other without baseline=")
        refuse_odd_paths("run", self.folders)
        refuse_odd_path("baseline", self.baseline)
        refuse_odd_path("out", self.out)

    @property
    def folders(self) -> tuple[str, ...]:
        """The run folders, those whose own name has a comma among them."""
        return folders_of(self.run)


def draw_run(folder: str | Path, out: str | Path | None = None) -> list[Path]:
    """Draw all pictures of a run folder into it (or into ``out``); the files written.

    Raises:
        UserError: no run folder, or no successful evaluation in it.
    """
    return _draw_view(view_of(load_run(folder)), Path(out or folder))


def draw_baseline(folder: str | Path, baseline: str | Path, out: str | Path | None = None) -> list[Path]:
    """Draw a run's front and hypervolume beside those of a baseline, with the numbers as CSV; the files written.

    Raises:
        UserError: a folder cannot be drawn, or the runs have no objective in common.
    """
    views = _views([folder, baseline])
    return _draw_baseline(views, tables.common_objectives(views), Path(out or folder))


def draw_comparison(
    folders: Sequence[str | Path], out: str | Path | None = None, tolerance: float = 0.02
) -> list[Path]:
    """Lay two or more runs over each other: fronts, hypervolume, tables in RoCo-NAS's form; the files written.

    All figures are those of the searches (``tables.SEARCH_TIME``).

    Raises:
        UserError: a folder cannot be drawn, the runs have no objective in common, or one holds no FLOPs.
    """
    views = _views(folders)
    return _draw_comparison(views, tables.common_objectives(views), Path(out or folders[0]), tolerance)


def _views(folders: Sequence[str | Path], trust: bool = False) -> list[View]:
    paths = [Path(folder) for folder in folders]
    runs = [load_run(path, trust=trust) for path in paths]
    return [view_of(run, name) for run, name in zip(runs, names_of(paths), strict=True)]


def _draw_view(view: View, out: Path) -> list[Path]:
    make_folder(out)
    files = [out / "front.png", out / "hypervolume.png"]
    fronts.draw_front(view, files[0])
    progress.draw_hypervolume(view, files[1])
    if view.run.problem.space.stand_in is None:  # only the space itself can draw its networks
        files.append(out / "networks.png")
        networks.draw_networks(view, files[-1])
    parallel = out / "parallel.png"
    if view.F.shape[1] > 1 and len(view.front) > 1:
        files.append(parallel)
        fronts.draw_parallel(view, parallel)
    else:
        parallel.unlink(missing_ok=True)  # of a front that had more networks
    if found := size.correlations(view):
        files += [out / "size.png", out / "size.csv"]
        size.draw_size(view, found, files[-2])
        size.write_sizes(found, files[-1])
    return files


def _draw_baseline(views: list[View], names: list[str], out: Path) -> list[Path]:
    n, m = (view.n_asked for view in views)
    budget = f"{n} evaluations each" if n == m else f"{n} against {m} evaluations"
    make_folder(out)
    files = [out / f"baseline_{name}" for name in ("front.png", "hypervolume.png", "hypervolume.csv", "table.csv")]
    groups, found = alone(views), compare.standings(views, names)
    search, other = compare.group_standings(groups, found)
    answer = beats(search, other, min(n, m))
    compare.draw_fronts(groups, names, files[0], f"Does the search beat chance? {budget}", answer)
    compare.draw_hypervolumes(groups, names, files[1], found)
    compare.write_hypervolumes(views, names, files[2])
    compare.write_standings(found, files[3])
    return files


def _draw_comparison(views: list[View], names: list[str], out: Path, tolerance: float) -> list[Path]:
    columns = tables.common_columns(views)
    top = tables.top_tables(views, columns)
    pairs = tables.equal_flops_pairs(views, tolerance)
    shown = _read_columns(views, names, columns)
    make_folder(out)
    files = [out / f"compare_{name}" for name in ("fronts.png", "hypervolume.png", "top.png", "hypervolume.csv",
                                                  "table.csv", "top.csv", "pairs.csv")]  # fmt: skip
    groups, found = groups_of(views), compare.standings(views, names)
    several = len(groups) > 1 or not groups[0].repeated
    title = "Fronts of several searches on one scale" if several else "Fronts of the same search with other seeds"
    compare.draw_fronts(groups, names, files[0], title)
    compare.draw_hypervolumes(groups, names, files[1], found)
    compare.draw_top(top, shown, files[2], groups)
    compare.write_hypervolumes(views, names, files[3])
    compare.write_standings(found, files[4])
    tables.write_top(top, columns, files[5])
    tables.write_pairs(pairs, columns, files[6])
    if len(groups) < len(views):
        files.append(out / "compare_groups.csv")
        write_groups(compare.group_standings(groups, found), files[-1])
    return files


def _read_columns(views: list[View], names: list[str], columns: list[str]) -> list[Quantity]:
    """The columns that people read: common objectives, then costs; the CSV files hold all."""
    return compare.shown_columns(views, [*names, *(n for n in COSTS if n in columns and n not in names)])


def _notes(groups: list[Group], names: list[str], *, baseline: bool) -> Iterator[str]:
    """What a reader of a comparison must know."""
    views = compare.runs_of(groups)
    yield from dict.fromkeys(view.run.missing for view in views if view.run.missing)
    datas = {group.name: group.views[0].run.problem.data.name for group in groups}
    if len(set(datas.values())) > 1:
        yield "different data: " + ", ".join(f"{run} on {data}" for run, data in datas.items())
    first, *others = (_how_measured(view, names) for view in views)
    lines = list(dict.fromkeys(line for other in others for line in changed(first, other)))
    if lines and len(set(datas.values())) == 1:
        yield f"not measured alike, so that figures compare with care: {first_of(lines, 3)}"
    if len(names) == 1:
        yield f"{words(names[0])} alone compares these runs: hypervolume and dominance say how low it gets, no more"
    left_out = [n for view in views for n in view.run.objectives if n not in names]
    if left_out:
        yield f"not in both runs, left out: {', '.join(dict.fromkeys(left_out))}"
    budgets = {group.name: group.budget for group in groups}
    if len({view.n_asked for view in views}) > 1:
        yield "unequal budgets: " + ", ".join(f"{run} {n} evaluations" for run, n in budgets.items())
    algorithm = type(views[-1].run.problem.algorithm).__name__
    if baseline and not algorithm.startswith("Random"):
        yield f"the baseline {views[-1].name} was made by {algorithm}, not by a random search"


def _how_measured(view: View, names: Sequence[str]) -> dict[str, Any]:
    """What figures in the columns ``names`` depend on beside the network, seeds left out."""
    problem = view.run.problem
    parts: dict[str, Part] = {"data": problem.data, "evaluator": problem.evaluator}
    parts |= {o.name: o for o in (*problem.recorded, *problem.objectives) if o.name in names}
    return {IMAGES: problem.data.content} | {
        f"{name}.{key}" if key else name: value
        for name, part in parts.items()
        for key, value in {"": type(part).__name__, **dotted(part, identity=True)}.items()
        if not key.endswith("seed")
    }


def _show_run(console: Console, command: PlotCommand) -> list[Path]:
    folder = Path(command.folders[0])
    if (folder / RESULT_FILE).is_file():
        return _show_judgement(console, folder, Path(command.out or folder))
    files = _show_search(console, command)
    if (folder / JUDGE_FOLDER / RESULT_FILE).is_file():
        files += _show_judgement(console, folder / JUDGE_FOLDER, Path(command.out or folder / JUDGE_FOLDER))
    return files


def _show_judgement(console: Console, folder: Path, out: Path) -> list[Path]:
    """Tables and pictures of what a judge found, the front as searched beside as judged among them."""
    make_folder(out)
    judgement = read_judgement(folder)
    for shown in tables_of(judgement):
        console.print(shown)
    return draw_judgement(judgement, out)


def _show_search(console: Console, command: PlotCommand) -> list[Path]:
    view = view_of(load_run(command.folders[0], trust=command.trust))
    if view.run.missing:
        console.print(f"note: {view.run.missing}", markup=False, soft_wrap=True)
    files = _draw_view(view, Path(command.out or command.folders[0]))
    console.print(terminal.front_table(view))
    console.print(view.attacked(), markup=False, soft_wrap=True)
    console.print(spent(view.run).words, markup=False, soft_wrap=True)
    if note := unfinished(view.run):
        console.print(f"note: {note}", markup=False)
    if found := size.correlations(view):
        console.print(terminal.size_table(found))
    else:
        console.print("no parameter counts in the record: size.png is left out")
    return files


def _show_several(console: Console, command: PlotCommand) -> list[Path]:
    beside = command.baseline is not None
    folders = [*command.folders, command.baseline] if command.baseline is not None else list(command.folders)
    views = _views(folders, command.trust)
    names = tables.common_objectives(views)
    out = Path(command.out or folders[0])
    files = _draw_baseline(views, names, out) if beside else _draw_comparison(views, names, out, command.tolerance)
    groups, found = alone(views) if beside else groups_of(views), compare.standings(views, names)
    for text in (*filter(None, (unfinished(view.run) for view in views)), *_notes(groups, names, baseline=beside)):
        console.print(f"note: {text}", markup=False)
    repeated = len(groups) < len(views)
    if repeated:
        budget = min(view.n_asked for view in views)
        console.print(terminal.groups_table(compare.group_standings(groups, found), budget))
    console.print(terminal.standings_table(found, compare.shown_columns(views, names)))
    if repeated:
        console.print("run by run: compare_top.csv (networks with the fewest FLOPs), compare_pairs.csv (equal FLOPs)")
        console.print(f"note: {tables.SEARCH_TIME}", markup=False)
    elif not beside:
        columns = tables.common_columns(views)
        shown = _read_columns(views, names, columns)
        console.print(terminal.top_table(tables.top_tables(views, columns), shown))
        pairs = tables.equal_flops_pairs(views, command.tolerance)
        if pairs:
            console.print(terminal.pairs_table(pairs, shown))
        else:
            console.print(f"no two networks of the fronts have FLOPs within {command.tolerance:.3g} of each other")
    return files


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Run the command with ``argv``; the exit status."""
    if not argv:
        print(as_typed(USAGE))
        return 0
    command = parse(PlotCommand, argv, "plot")
    # a pipe has no width: wide enough that no figure is folded
    console = output()
    files = []
    if command.baseline is not None or len(command.folders) > 1:
        files += _show_several(console, command)
    if len(command.folders) == 1:
        files += _show_run(console, command)
    for path in files:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(None))
