"""Command: search a problem. ``python -m evo_robust.run problem=roco [scale=paper] [key.path=value …]``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import chz

from evo_robust.algorithms.adapter import SearchFailed
from evo_robust.commands.cli import TRUST, command
from evo_robust.commands.helping import NAMES, help_text, plain_words
from evo_robust.device import choose_device
from evo_robust.parts.base import Part, UserError, dotted, nearest
from evo_robust.parts.making import HelpRequested, make, refuse_nothing, split
from evo_robust.parts.paths import PATH, refuse_odd_path
from evo_robust.parts.plain import message
from evo_robust.parts.typed import as_typed, line
from evo_robust.plotting.terminal import front_table
from evo_robust.problem.files import is_record, load, origin_of, problem_files, scales, summary
from evo_robust.problem.value import Problem
from evo_robust.progress import Printed, output
from evo_robust.record.reading import PROBLEM_FILE, Run, read_problem
from evo_robust.record.run import PROGRESS_FILE, past_seconds
from evo_robust.record.view import view_of
from evo_robust.search import search

USAGE = """usage: evo_robust run problem=NAME [scale=demo|paper] [out=DIR] [device=auto|cpu|cuda] [workers=N]
           [cluster=dask://HOST:PORT] [plot=false] [key.path=value …]
       evo_robust run problem=NAME --help      every key with its type, default and meaning

problems:"""


@chz.chz
class RunOptions(Part):
    """What the command itself takes; all other keys belong to the problem."""

    problem: str = chz.field(
        doc="name of a problem, path of a problem file, or problem.json of a run folder, whose settings are run again",
        metadata=PATH,
    )
    scale: str | None = chz.field(
        default=None, doc="which of the problem's values: demo (minutes on two cores; when not given), paper, …"
    )
    out: str | None = chz.field(
        default=None,
        doc="run folder; runs/PROBLEM-SCALE when not given, and runs/FOLDER-again of a problem.json in FOLDER",
        metadata=PATH,
    )
    device: str = chz.field(default="auto", doc="auto (CUDA where there is one), cpu, cuda or cuda:INDEX")
    workers: int | None = chz.field(
        default=None, doc="candidates evaluated at a time; all cores, or one per CUDA device, when not given"
    )
    cluster: str | None = chz.field(
        default=None,
        doc="whose workers evaluate candidates, workers= of them at most: dask://HOST:PORT or ray://HOST:PORT "
        "(docs/clusters.md)",
    )
    plot: bool = chz.field(default=True, doc="draw the pictures at the end")
    trust: bool = chz.field(default=False, doc=f"of a problem.json: {TRUST}")

    @chz.validate
    def _sound(self) -> None:
        refuse_odd_path("problem", self.problem)
        refuse_odd_path("out", self.out)


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    argv = argv or []
    given = split(argv, "problem")
    if not given or (set(given) == {"--help"}):
        print(usage())
        return 0
    own = {k: v for k, v in given.items() if k in chz.chz_fields(RunOptions)}
    rest = {k: v for k, v in given.items() if k not in own}
    if "problem" not in own:
        raise UserError(f"missing: problem=NAME\n{usage()}")
    if "--help" in rest:
        print(help_of(own, rest))
        return 0
    refuse_nothing(RunOptions, own)
    options = make(RunOptions, own, {}, "run")
    if options.trust and not is_record(options.problem):
        raise UserError(
            f"trust=yes goes with the problem.json of a run: expected no trust, since {options.problem} is run"
        )
    if options.cluster is not None and rest.get("evaluator.backend") == "loky":
        raise UserError(f"evaluator.backend=loky contradicts cluster={options.cluster}: leave one of them out")
    try:
        problem = load(options.problem, options.scale, rest, trust=options.trust)
    except UserError as error:
        raise UserError(_with_own_keys(str(error), rest)) from error
    run = _search(options, problem, argv)
    show(run, options)
    return 0


def _with_own_keys(message: str, rest: dict[str, str]) -> str:
    """An unknown key may be a misspelt option of the command itself."""
    for key in rest:
        suggestion = nearest(key, {**chz.chz_fields(RunOptions), **chz.chz_fields(Problem)})
        own = suggestion.removeprefix("did you mean ").strip("?'") in chz.chz_fields(RunOptions)
        if f"unknown key {key!r}" in message and own and "." not in key:
            return f"unknown key {key!r}: {suggestion}"
    return message


def _search(options: RunOptions, problem: Problem, argv: list[str]) -> Run:
    choose_device(options.device)  # said before anything else is
    origin = origin_of(options.problem, options.scale)
    info = {**origin.info, "command": "python -m evo_robust.run " + shlex.join(argv)}
    out = Path(options.out or origin.folder)
    reporter = Printed()
    reporter.say(f"searching {origin.title} into {out}")
    if note := other_length(problem, out):
        reporter.say(note)
    try:
        return search(
            problem,
            out,
            device=options.device,
            workers=options.workers,
            cluster=options.cluster,
            info=info,
            reporter=reporter,
        )
    except SearchFailed as error:
        reporter.stop()
        print(f"error: {message(error)}", file=sys.stderr)
        raise SystemExit(1) from error
    except BaseException:
        reporter.stop()
        raise


def other_length(problem: Problem, out: Path) -> str | None:
    """A sentence where ``out`` holds this search for another number of generations; None elsewhere."""
    if not (out / PROBLEM_FILE).is_file():
        return None
    info, key = read_problem(out / PROBLEM_FILE), "algorithm.n_gen"
    present, before, now = dotted(problem, identity=True), info["values"].get(key), problem.algorithm.n_gen
    if not isinstance(before, int) or before == now or any(present.get(k, v) != v for k, v in info["identity"].items()):
        return None  # where anything else differs, the search refuses and says what
    done = max(past_seconds(out / PROGRESS_FILE), default=0)
    known = f"{out} holds this search, {done} of {before} generations done"
    if now > before:
        return f"{known}: it is enlarged from {before} to {now} generations"
    return f"{known}: the first {now} are asked for, and what is there stays"


def show(run: Run, options: RunOptions) -> None:
    """Print the front and draw the pictures."""
    console = output()
    if run.front:
        console.print(front_table(view_of(run)))
    failed = sum(row["status"] == "failed" for row in run.evaluations)
    rejected = sum(row["status"] == "rejected" for row in run.evaluations)
    if failed or rejected:
        console.print(f"{failed} candidates failed, {rejected} were rejected; reasons are in the ledger")
    if not run.front:
        first = next((row["error"] for row in run.evaluations if row["error"]), "no candidate meets the constraints")
        console.print(f"no network on the front; the first reason: {first}")
        return
    if options.plot:
        from evo_robust.plot import draw_run  # and matplotlib, a quarter of the time that starting would take

        for path in draw_run(run.folder):
            console.print(f"wrote {path}", soft_wrap=True)
    console.print(view_of(run).attacked(), soft_wrap=True)
    console.print(f"next: {line('export', f'run={run.folder}', 'pick=knee')}", soft_wrap=True)


def usage() -> str:
    """Usage and one line per problem."""
    files = problem_files()
    width = max(map(len, files), default=0)
    return "\n".join(
        [as_typed(USAGE), *(f"  {name:<{width}}  {plain_words(summary(path))}" for name, path in files.items())]
    )


def help_of(own: dict[str, str], rest: dict[str, str]) -> str:
    """All keys of the command and of the problem."""
    texts = []
    try:
        options = make(RunOptions, {key: text for key, text in own.items() if key != "--help"}, {}, "run")
        make(RunOptions, {**own, "--help": ""}, {}, "run")
    except HelpRequested as asked:
        texts.append(help_text(asked, "keys of the command itself"))
    try:
        load(options.problem, options.scale, rest, trust=options.trust)
    except HelpRequested as asked:
        texts.append(help_text(asked, "further keys of the problem"))
    if not is_record(options.problem):
        texts.append(f"scales of {options.problem}: {', '.join(sorted(scales(options.problem)))}")
    return "\n\n".join([*texts, NAMES])


if __name__ == "__main__":
    sys.exit(main(None))
