"""What images of one network do to another: tables for a terminal, CSV, Markdown, LaTeX, and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from evo_robust.files import write_csv, write_text
from evo_robust.judging.judgement import Judgement, Transfer
from evo_robust.judging.published import printed_transfer
from evo_robust.judging.report import PER_TABLE, Grid, latex, markdown, with_interval
from evo_robust.judging.transfer import CLEAN, as_matrices, by_column
from evo_robust.progress import table


def write_transfers(judgement: Judgement, folder: Path) -> list[Table | Path]:
    """Write every form of the tables into a folder; returns what a terminal shows, in order."""
    if not judgement.transfers:
        return []
    made = grids(judgement)
    files = [folder / f"transfer.{end}" for end in ("csv", "md", "tex", "png")]
    write_cells(judgement, files[0])
    told = caption(judgement)
    write_text(files[1], "\n".join(markdown(grid, f"{title}. {told}") for title, grid in made))
    write_text(files[2], "\n".join(latex(grid, f"{title}. {told}") for title, grid in made))
    from evo_robust.judging.transfer_picture import draw_transfers  # a judgement without sources needs no matplotlib

    draw_transfers(judgement, files[3])
    return [*_tables(made, told), *files]


def grids(judgement: Judgement) -> list[tuple[str, Grid]]:
    """Tables with their titles: a matrix for each attack and strength, or one table where pairs show it best."""
    found = judgement.transfers
    if not as_matrices(found):
        return [("Networks on images that were made on another", _pairs(judgement))]
    return [
        (f"{column}: images made on the row's network judge the column's", _matrix(judgement, cells))
        for column, cells in by_column(found).items()
    ]


def caption(judgement: Judgement) -> str:
    """What the numbers of all tables are, in a few sentences."""
    white = " * white-box: both are one network." if any(t.kinship == "same" for t in judgement.transfers) else ""
    tables = dict.fromkeys(found[0] for t in judgement.transfers if (found := printed_transfer(t, judgement)))
    printed = f" In brackets: as printed ({'; '.join(tables)})." if tables else ""
    return (
        f"Accuracy in percent on all {judgement.n:,} test images of {judgement.data}, ± half of its 95 % "
        f"interval.{white}{printed}"
    )


def _cell(transfer: Transfer, judgement: Judgement) -> str:
    printed = printed_transfer(transfer, judgement)
    white = "* " if transfer.kinship == "same" else ""
    return f"{white}{with_interval(transfer.figure)}{f' ({printed[1]:.2f})' if printed else ''}"


def _matrix(judgement: Judgement, cells: Sequence[Transfer]) -> Grid:
    """A row for each source, a column for each target; the first row is without attack."""
    targets = tuple(dict.fromkeys(transfer.target for transfer in cells))
    clean = {verdict.name: with_interval(verdict.figure("clean")) for verdict in judgement.verdicts}
    rows = [(CLEAN, *(clean[target] for target in targets))]
    for source in dict.fromkeys(transfer.source for transfer in cells):
        own = {transfer.target: _cell(transfer, judgement) for transfer in cells if transfer.source == source}
        rows.append((source, *(own[target] for target in targets)))
    return Grid(("images made on",), targets, tuple(rows), fixed=0)


def _pairs(judgement: Judgement) -> Grid:
    """A row for each network and source, a column for each attack and strength."""
    clean = {verdict.name: with_interval(verdict.figure("clean")) for verdict in judgement.verdicts}
    columns = by_column(judgement.transfers)
    cells = {(t.target, t.source, column): _cell(t, judgement) for column, found in columns.items() for t in found}
    pairs = dict.fromkeys((t.target, t.source) for t in judgement.transfers)
    order = [verdict.name for verdict in judgement.verdicts]
    rows = [
        (target, source, clean[target], *(cells[target, source, column] for column in columns))
        for target, source in sorted(pairs, key=lambda pair: order.index(pair[0]))
    ]
    return Grid(("network", "images made on"), (CLEAN, *columns), tuple(rows), fixed=0)


def _tables(made: Sequence[tuple[str, Grid]], told: str) -> list[Table]:
    """The tables for a terminal; the first one says what the numbers are."""
    found: list[Table] = []
    for title, grid in made:
        for number, part in enumerate(grid.parts(PER_TABLE)):
            head = title if number == 0 else ""
            shown = table(head if found else f"{head}. {told}", words=part.words, numbers=part.numbers)
            for row in part.rows:
                shown.add_row(*row)
            found.append(shown)
    return found


def write_cells(judgement: Judgement, path: Path) -> None:
    """Write a line for each source, target, attack and strength as CSV; accuracies are shares in [0, 1].

    ``kinship`` is what the source is to the target: ``same`` (white-box), ``copy`` (same layers) or ``other``.
    ``printed`` is what a paper prints, as a share too.
    """
    found = judgement.transfers
    heads = ("source", "source_origin", "target", "kinship", "trial", "norm", "eps")
    rows = []
    for transfer in found:
        figure, printed = transfer.figure, printed_transfer(transfer, judgement)
        shares = [f"{share:.6f}" for share in (figure.accuracy, *figure.interval)]
        whence = (transfer.source, transfer.origin, transfer.target, transfer.kinship)
        what = (figure.trial, figure.norm, figure.eps, figure.right, figure.n)
        told = ("", "") if printed is None else (f"{printed[1] / 100:.4f}", printed[0])
        rows.append([*whence, *what, *shares, round(figure.seconds, 2), *told])
    write_csv(path, [*heads, "right", "n", "accuracy", "low", "high", "seconds", "printed", "printed_in"], rows)
