"""The cards of docs/reproduction: every command reads as the command itself reads it, and every table has a verdict.

Nothing is run at its scale. Bash expands the cards' loops, and each command's keys, parts, attacks and folders are
checked by the code that the command itself checks them with.
"""

from __future__ import annotations

import csv
import dataclasses
import re
import subprocess
from collections.abc import Callable

import chz
import numpy as np
import pytest
from places import ROOT

from evo_robust.analyze import AnalyzeCommand
from evo_robust.data.base import DataSet
from evo_robust.judge import Judge
from evo_robust.judging.published import FILE, published
from evo_robust.judging.trials import trials
from evo_robust.networks.genotype import Genotype
from evo_robust.objectives.cost import count_flops, count_params
from evo_robust.parts.base import Fraction, UserError, dotted
from evo_robust.parts.making import make, parse, split
from evo_robust.parts.paths import folders_of
from evo_robust.plot import PlotCommand
from evo_robust.problem.files import load
from evo_robust.problem.value import Problem
from evo_robust.retrain import RetrainOptions, settings_from
from evo_robust.run import RunOptions
from evo_robust.zoo import Network

PAPERS = ("robnet", "wsr", "racl", "roco")
FOLDER = ROOT / "docs" / "reproduction"
VERDICT = re.compile(r"^\*\*Verdict: (same|different|not testable at this scale)\.\*\* (\S.*)", re.M)
FENCE = re.compile(r"^```bash\n(.*?)^```", re.M | re.S)

# commands print their words instead of running; nothing else is found, and what is not found ends the shell
_SHELL = """
evo_robust() { printf '%s\\0' evo_robust "$@"; printf '\\n'; }
python() { printf '%s\\0' python "$@"; printf '\\n'; }
command_not_found_handle() { echo "neither evo_robust nor python: $*" >&2; exit 1; }
PATH=/nowhere
set -eu
"""


def commands(script: str) -> list[list[str]]:
    """Words of every command of a text in bash, loops expanded."""
    done = subprocess.run(["bash", "-c", _SHELL + script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split("\0")[:-1] for line in done.stdout.splitlines()]


def text_of(paper: str) -> str:
    return (FOLDER / f"{paper}.md").read_text(encoding="utf-8")


@dataclasses.dataclass
class Followed:
    """What the commands so far would have written.

    Attributes:
        searched: the problem of each run folder.
        trained: the data set of each folder of networks.
        judged: folders of the judge.
    """

    searched: dict[str, Problem] = dataclasses.field(default_factory=dict)
    trained: dict[str, DataSet] = dataclasses.field(default_factory=dict)
    judged: set[str] = dataclasses.field(default_factory=set)

    def take(self, words: list[str]) -> None:
        """Check one command, and remember what it writes.

        Raises:
            UserError: a key, part, name, value or attack is unknown; or a folder that no earlier command writes.
        """
        if words[0] == "python":
            _check_script(words[1:])
            return
        kinds: dict[str, Callable[[list[str]], None]] = {
            "run": self._run,
            "retrain": self._retrain,
            "judge": self._judge,
            "plot": self._plot,
            "analyze": self._analyze,
        }
        if words[1] not in kinds:
            raise UserError(f"no check for the command {words[1]}")
        kinds[words[1]](words[2:])

    def _expect(self, folders: list[str], known: set[str]) -> None:
        for folder in folders:
            if folder not in known:
                raise UserError(f"no earlier command of this card writes {folder}")

    def _run(self, argv: list[str]) -> None:
        own, rest = _parted(RunOptions, split(argv, "problem"))
        options = make(RunOptions, own, {}, "run")
        assert options.out is not None, f"expected out= in a card: {argv}"
        self.searched[options.out] = load(options.problem, options.scale, rest)

    def _retrain(self, argv: list[str]) -> None:
        own, rest = _parted(RetrainOptions, split(argv, "genotype"))
        options = make(RetrainOptions, own, {}, "retrain")
        assert options.out is not None, f"expected out= in a card: {argv}"
        found = data = None
        if options.run is not None:
            self._expect([options.run], set(self.searched))
            problem = self.searched[options.run]
            data, space = problem.data, problem.space
            architecture = space.decode(space.sample(np.random.default_rng(0)))
            found = Genotype(space, architecture, data.name, data.n_classes, data.in_shape)
        settings, _ = settings_from(options, rest, found, data)
        self.trained[options.out] = settings.data

    def _judge(self, argv: list[str]) -> None:
        options = parse(Judge, argv, "judge")
        named = folders_of([*(options.networks or "").split(","), *(options.run or "").split(",")])
        sources = folders_of((options.sources or "").split(","))
        folders = [name for name in (*named, *sources) if name and name != "networks"]
        assert [name for name in named if name] and options.out is not None, f"expected networks and out=: {argv}"
        self._expect(folders, {*self.trained, *self.searched})
        data = options.data or self._data(folders[0])
        trials(
            *(options.attacks or "compact", options.eps or (Fraction(8 / 255),), options.steps, options.step),
            options.norm,
            n_classes=data.n_classes,
        )
        self.judged.add(options.out)

    def _data(self, folder: str) -> DataSet:
        return self.trained[folder] if folder in self.trained else self.searched[folder].data

    def _plot(self, argv: list[str]) -> None:
        found = parse(PlotCommand, argv, "plot")
        self._expect([*found.folders, *([found.baseline] if found.baseline else [])], {*self.searched, *self.judged})

    def _analyze(self, argv: list[str]) -> None:
        found = parse(AnalyzeCommand, argv, "analyze")
        self._expect([*folders_of(found.run), *folders_of(found.truth)], set(self.searched))


def _parted(cls: type, given: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Keys of a command itself, and all others."""
    own = {key: value for key, value in given.items() if key in chz.chz_fields(cls)}
    return own, {key: value for key, value in given.items() if key not in own}


def _check_script(words: list[str]) -> None:
    """A script of the benchmarks, whose options it declares."""
    script = ROOT / words[0]
    if not (words[0].startswith("tests/benchmarks/") and script.is_file()):
        raise UserError(f"no such script: {words[0]}")
    text = script.read_text(encoding="utf-8")
    for word in words[1:]:
        if word.startswith("--") and f'"{word}"' not in text:
            raise UserError(f"{words[0]} has no option {word}")


@pytest.mark.parametrize("paper", PAPERS)
def test_commands_of_a_card_are_real(paper: str) -> None:
    found = commands("\n".join(FENCE.findall(text_of(paper))))
    assert len(found) >= 10
    followed = Followed()
    for words in found:
        try:
            followed.take(words)
        except (UserError, ValueError) as error:
            pytest.fail(f"{' '.join(words)}\n{error}")
    assert followed.judged and followed.searched and followed.trained


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("evo_robust run problem=robnet evaluator.finetunes=3 out=runs/a", "evaluator.finetunes"),
        ("evo_robust run problem=robnets out=runs/a", "robnets"),
        ("evo_robust retrain network=robnet-smal data=cifar10 out=runs/a", "robnet-smal"),
        ("evo_robust retrain network=racl data=cifar10 recipe=raacl out=runs/a", "raacl"),
        ("evo_robust retrain network=racl data=cifar10 epoch=3 out=runs/a", "epoch"),
        ("evo_robust retrain run=runs/none out=runs/a", "runs/none"),
        ("evo_robust judge networks=runs/none out=runs/a", "runs/none"),
        ("evo_robust retrain network=racl data=cifar10 out=a; evo_robust judge networks=a attacks=pgdd out=b", "pgdd"),
        ("evo_robust retrain network=racl data=cifar10 out=a; evo_robust judge networks=a steps=0 out=b", "steps"),
        ("evo_robust analyze run=runs/none", "runs/none"),
        ("evo_robust plot run=runs/none", "runs/none"),
        ("evo_robust search problem=robnet", "search"),
        ("python tests/benchmarks/bench_none.py", "bench_none"),
        ("python tests/benchmarks/bench_wsr.py --no-such", "--no-such"),
    ],
)
def test_a_command_that_is_not_real_is_found(script: str, message: str) -> None:
    followed = Followed()
    with pytest.raises((UserError, ValueError), match=message):
        for words in commands(script):
            followed.take(words)


def test_loops_are_expanded_and_other_programs_refused() -> None:
    found = commands("for s in 0 1; do\n  evo_robust judge networks=a-$s \\\n    out='b c'\ndone")
    assert found == [["evo_robust", "judge", f"networks=a-{s}", "out=b c"] for s in "01"]
    with pytest.raises(AssertionError, match="neither evo_robust nor python: rm"):
        commands("rm -r runs")
    with pytest.raises(AssertionError, match="unbound"):
        commands("evo_robust judge networks=$nobody")


def sections(paper: str) -> dict[str, str]:
    """Text of each section by its heading."""
    _, *parts = re.split(r"^## ", text_of(paper), flags=re.M)
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


@pytest.mark.parametrize("paper", PAPERS)
def test_every_table_and_figure_has_one_verdict_with_a_reason(paper: str) -> None:
    found = sections(paper)
    for heading, text in found.items():
        if re.match(r"(Table|Fig|Search)", heading):
            verdicts = VERDICT.findall(text)
            assert len(verdicts) == 1, heading
            assert len(FENCE.findall(text)) >= 1 or "no figure" in text, f"{heading}: no command"
    headings = " ".join(found)
    with FILE.open(encoding="utf-8", newline="") as file:
        printed = {row["where"] for row in csv.DictReader(file) if row["paper"] == paper}
    for where in printed:
        if re.fullmatch(r"(Table|Fig\.) \S+", where):
            assert re.search(rf"{re.escape(where)}\b", headings), f"{paper}: no section for {where}"


@pytest.mark.parametrize("paper", PAPERS)
def test_links_of_a_card_lead_somewhere(paper: str) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", text_of(paper))
    for target in targets:
        name, _, anchor = target.partition("#")
        path = FOLDER / name if name else FOLDER / f"{paper}.md"
        assert path.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.M)
            anchors = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
            assert anchor in anchors, target


def test_networks_that_are_printed_only_are_named_as_such() -> None:
    names = {"amoebanet": "AmoebaNet", "amoeba-net": "AmoebaNet", "nasnet": "NASNet", "nas-net": "NASNet"}
    names |= {"e2r-nas": "E2RNAS", "nas-ood": "NAS-OOD"}
    rows = [p for p in published() if p.model.lower() in names]
    assert len(rows) > 5
    for row in rows:
        card = text_of({"RobNet": "robnet", "Wsr-NAS": "wsr", "RACL": "racl", "RoCo-NAS": "roco"}[row.paper])
        line = next((line for line in card.splitlines() if line.startswith("Printed only:")), "")
        assert names[row.model.lower()] in line, row


def test_settings_of_the_search_are_those_of_table_2() -> None:
    with FILE.open(encoding="utf-8", newline="") as file:
        printed = {r["metric"]: int(r["value"]) for r in csv.DictReader(file) if r["where"] == "Table II"}
    values = dotted(load("roco", "paper"))
    own = {
        "computational_blocks": values["space.phases"],
        "max_computational_units": values["space.nodes"],
        "generations": values["algorithm.n_gen"],
        "population": values["algorithm.pop_size"],
        "epochs": values["evaluator.epochs"],
    }
    assert own == printed


@pytest.mark.parametrize(
    ("network", "channels", "classes", "size", "params"),
    [
        ("robnet-large", None, 100, 32, 6_894_640),
        ("robnet-small", None, 100, 32, 4_411_504),
        ("roco-table5", 16, 10, 32, 338_394),
        ("roco-table5", 32, 10, 32, 1_348_522),
        ("racl", None, 10, 32, 3_571_174),
        ("racl", 64, 1000, 224, 11_950_472),
        ("advrush", 60, 1000, 224, 12_179_710),
        ("wsr-basic", 74, 1000, 224, 13_161_567),
    ],
)
def test_numbers_of_parameters_in_the_cards(
    network: str, channels: int | None, classes: int, size: int, params: int
) -> None:
    built = Network(name=network, channels=channels).build(classes, (3, size, size))
    assert count_params(built) == params


@pytest.mark.parametrize(("channels", "flops"), [(16, 32_223_744), (32, 127_373_312)])
def test_flops_on_the_card_of_roco_nass_table_5(channels: int, flops: int) -> None:
    network = Network(name="roco-table5", channels=channels).build(10, (3, 32, 32))
    assert count_flops(network, (3, 32, 32), "nsga") == flops
    assert f"{flops:,}" in text_of("roco")
