"""Command: judge trained networks. ``evo_robust judge networks=DIR,… attacks=compact``."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import chz

from evo_robust.adversarial_set.making import AdversarialSet
from evo_robust.attacks.base import Norm
from evo_robust.attacks.curve import check_strengths
from evo_robust.attacks.fast import Precision
from evo_robust.commands.cli import TRUST, command
from evo_robust.commands.helping import help_text, wrapped
from evo_robust.data.base import DataSet
from evo_robust.device import choose_device
from evo_robust.judging.asked import TRANSFERRED, judging_of
from evo_robust.judging.named import KINDS, SAMPLES, SETS
from evo_robust.judging.report import write_report
from evo_robust.judging.subjects import Subject, named_apart, place_of, subjects_of
from evo_robust.judging.transfer_report import write_transfers
from evo_robust.judging.work import JUDGE_FOLDER, judge
from evo_robust.parts.base import Fraction, Part, UserError, digest
from evo_robust.parts.making import HelpRequested, parse
from evo_robust.parts.paths import PATH, folders_of, refuse_odd_path
from evo_robust.parts.typed import as_typed
from evo_robust.progress import Say, output

USAGE = """usage: evo_robust judge networks=DIR,… [attacks=compact] [eps=8/255,…] [steps=20,…] [images=1000] [out=DIR]
       evo_robust judge run=DIR [pick=front|knee|best:OBJECTIVE] …      networks of a search
       evo_robust judge networks=resnet-18@FILE data=cifar10 …          a network of the zoo with your weights
       evo_robust judge networks=mine.py:make@FILE data=cifar10 …       your own: make() gives a torch module
       evo_robust judge networks=DIR,… sources=DIR,…|networks …         images made on sources judge networks;
                                                                        copies=yes: each by its own copy's alone
       evo_robust judge --help                                          every key, every attack

DIR is a folder that retrain, export or run wrote. Nothing is trained. What was judged before is not judged again."""


@chz.chz
class Judge(Part):
    """Attack trained networks on test images, and say how many images stay right."""

    networks: str | None = chz.field(
        default=None,
        doc="folders of retrain, export or run; NAME@FILE of the zoo with weights; MODULE:FUNCTION@FILE or "
        "FILE.py:FUNCTION@FILE of your own; several with commas",
        metadata=PATH,
    )
    run: str | None = chz.field(default=None, doc="a search's folder; see pick", metadata=PATH)
    pick: str = chz.field(
        default="front", doc="networks of a search: front (all of it), knee, INDEX or best:OBJECTIVE, with commas"
    )
    sources: str | None = chz.field(
        default=None,
        doc="networks on which adversarial images are made that judge the others too (black box by transfer), named as "
        "networks are; networks: all of them against each other",
        metadata=PATH,
    )
    copies: bool = chz.field(
        default=False, doc="judge each network by the images of its copies alone: sources of the same layers"
    )
    attacks: str | None = chz.field(
        default=None,
        doc=f"attacks and sets, with commas: {', '.join([*SETS, *KINDS])}. A number behind a name is that of its steps "
        "(pgd-20); settings follow with colons (pgd-20:step=2/255:eps=.03:.1); + joins attacks to one worst case; "
        f"compact when not given, and {TRANSFERRED} with sources",
    )
    eps: tuple[Fraction, ...] | None = chz.field(
        default=None,
        doc="strengths, ascending, in units of the pixel range 0..1; when not given: the one that the networks were "
        "trained at, else 8/255 (linf) or .5 (l2)",
    )
    steps: tuple[int, ...] = chz.field(default=(), doc="numbers of steps for attacks without one: each gives a column")
    step: str | None = chz.field(default=None, doc="step length: a number such as 2/255, or a multiple such as eps/10")
    norm: Norm = chz.field(default="linf", doc="norm of the ball: linf or l2")
    data: DataSet | None = chz.field(
        default=None, doc="whose test images judge; that of the networks when not given; by name (cifar10) or class"
    )
    images: int | None = chz.field(default=None, doc="how many test images, classes in proportion; all when not given")
    adversarial_set: AdversarialSet | None = chz.field(
        default=None,
        blueprint_unspecified=AdversarialSet,
        doc="settings of the adversarial set that the attack adversarial-set names; the search's when not given",
    )
    signs: bool = chz.field(
        default=True, doc="look for signs of masked gradients on the first 200 images, beside the figures"
    )
    seed: int = chz.field(default=0, doc="seed of random starts; >= 0")
    precision: Precision = chz.field(
        default="float32",
        doc="precision in which gradient attacks search: float32, bf16 or auto; what counts is classified in float32",
    )
    out: str | None = chz.field(
        default=None,
        doc="folder that keeps everything; DIR/judge of a search, else runs/judge-NAME, when not given",
        metadata=PATH,
    )
    device: str = chz.field(default="auto", doc="auto (CUDA where there is one), cpu, cuda or cuda:INDEX")
    trust: bool = chz.field(default=False, doc=TRUST)

    @chz.validate
    def _sound(self) -> None:
        for key in ("networks", "run", "sources", "out"):
            refuse_odd_path(key, getattr(self, key))
        if self.eps is not None:
            check_strengths(self.eps, self.norm)
        if any(steps < 1 for steps in self.steps):
            raise ValueError(f"expected steps >= 1, got {self.steps}")
        if self.images is not None and self.images < 1:
            raise ValueError(f"expected images >= 1, got {self.images}")
        if self.seed < 0:
            raise ValueError(f"expected seed >= 0, got {self.seed}")


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    if not argv:
        print(as_typed(USAGE))
        return 0
    try:
        options = parse(Judge, argv, "judge")
    except HelpRequested as asked:
        print("\n\n".join([as_typed(USAGE), help_text(asked), attacks_told()]))
        return 0
    device = choose_device(options.device)
    console = output()

    def say(text: str) -> None:
        console.print(text, markup=False)

    subjects = _subjects(options, device, say)
    folder = Path(options.out) if options.out else _folder(options, subjects)
    subjects, sources = named_apart(subjects, _sources(options, subjects, device, say))
    judging = judging_of(
        *(
            subjects,
            sources,
            options.data,
            options.attacks,
            options.eps,
            options.steps,
            options.step,
            options.norm,
            say,
        ),
        images=options.images,
        seed=options.seed,
        precision=options.precision,
        adversarial_set=options.adversarial_set,
        copies=options.copies,
        signs=options.signs,
    )
    line = "python -m evo_robust.judge " + shlex.join(argv)
    judgement = judge(judging, folder, device=device, command=line, say=say)
    for made in [*write_report(judgement, folder), *write_transfers(judgement, folder)]:
        console.print(made, markup=False) if not isinstance(made, Path) else say(f"wrote {made}")
    return 0


def attacks_told() -> str:
    """Every attack and set that ``attacks=`` takes, with what it is."""
    wide = max(map(len, [*KINDS, *SETS, SAMPLES])) + 2
    lines = ["attacks by name", *(f"  {name:<{wide}}{kind.doc}" for name, kind in KINDS.items())]
    lines.append(f"  {SAMPLES:<{wide}}images of an adversarial set, made of test images")
    lines += ["", "sets of attacks"]
    for name, text in SETS.items():
        lines += wrapped(f"{name:<{wide}}{text.replace(',', ', ')}", wide)
    return "\n".join(lines)


def _subjects(options: Judge, device: str, say: Say) -> list[Subject]:
    """The networks that the command names."""
    runs, texts = ([text for text in (key or "").split(",") if text.strip()] for key in (options.run, options.networks))
    if not runs and not texts:
        raise UserError("expected networks=DIR,… or run=DIR: which networks are to be judged?")
    if absent := [run for run in folders_of(runs) if not Path(run).expanduser().is_dir()]:
        raise UserError(f"run={absent[0]}: there is no such folder: expected the folder of a search")
    found = subjects_of([*runs, *texts], options.data, options.pick, device, say, trust=options.trust)
    if options.pick != "front" and not any(subject.group for subject in found):
        raise UserError(f"pick={options.pick} belongs to the folder of a search: expected run=DIR, or no pick")
    return found


def _sources(options: Judge, subjects: Sequence[Subject], device: str, say: Say) -> list[Subject]:
    """The networks on which images are made; of those that are judged too, the same objects."""
    found: dict[str, Subject] = {}
    for text in folders_of([text for text in (options.sources or "").split(",") if text.strip()]):
        if text.strip().lower() in ("networks", "all") and not Path(text).is_dir():
            more = list(subjects)
        else:
            try:
                more = subjects_of([text], options.data, options.pick, device, say, trust=options.trust)
            except UserError as error:
                raise UserError(re.sub(r"^networks=", "sources=", str(error))) from None
        found |= {place_of(source): source for source in more if place_of(source) not in found}
    if options.sources is not None and not found:
        raise UserError(f"sources={options.sources}: expected networks as in networks=, or sources=networks for these")
    known = {place_of(subject): subject for subject in reversed(subjects)}
    return [known.get(place, source) for place, source in found.items()]


def _folder(options: Judge, subjects: Sequence[Subject]) -> Path:
    """Where everything is kept, so that the same networks come back to the same folder."""
    if options.run and not options.networks and "," not in options.run:
        return Path(options.run) / JUDGE_FOLDER
    if len(subjects) == 1:
        return Path("runs") / f"judge-{subjects[0].name.replace('/', '-')}"
    return Path("runs") / f"judge-{digest([subject.origin for subject in subjects], length=6)}"


if __name__ == "__main__":
    sys.exit(main(None))
