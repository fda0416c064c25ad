"""Command: train a found network from scratch. ``evo_robust retrain genotype=FILE recipe=pgd``."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chz

from evo_robust.adversarial_set.making import AdversarialSet
from evo_robust.commands.cli import TRUST, command
from evo_robust.commands.helping import NAMES, help_text, wrapped
from evo_robust.data.base import DataSet
from evo_robust.data.sets import DATA_SETS
from evo_robust.device import choose_device, choose_workers
from evo_robust.final_training import published
from evo_robust.final_training.front import INDEX_FILE, TABLE_FILE, Job, front_table, picked_from, retrain_front
from evo_robust.final_training.published import PUBLISHED
from evo_robust.final_training.settings import SETTINGS_FILE, Retraining
from evo_robust.final_training.work import retrain
from evo_robust.networks.genotype import Genotype, load_genotype
from evo_robust.parts.base import (
    Part,
    UserError,
    classes_called,
    digest,
    named,
    nearest,
    short_names,
)
from evo_robust.parts.chz_inside import is_required
from evo_robust.parts.layers import under
from evo_robust.parts.making import HelpRequested, make, refuse_nothing, split
from evo_robust.parts.paths import PATH, refuse_odd_path
from evo_robust.parts.resolve import from_dotted
from evo_robust.parts.typed import as_typed, line
from evo_robust.problem.files import find, load_source
from evo_robust.progress import fit, output, silent
from evo_robust.record.reading import load_run
from evo_robust.record.view import folder_name
from evo_robust.spaces.base import SearchSpace
from evo_robust.training.recipes import Recipe
from evo_robust.training.together import joined, started_together

USAGE = """usage: evo_robust retrain genotype=FILE [recipe=pgd|standard|trades|fast|robnet|racl|wsr|roco|…]
           [data=cifar10] [epochs=120] [decoder=final|search|dense] [out=DIR] [device=auto|cpu|cuda] [key.path=value …]
       evo_robust retrain network=resnet-18 data=cifar10 …    a reference network instead, with channels=,
           layers=, stem=cifar|imagenet where it has such a choice
       evo_robust retrain … denoise=dot-product|gaussian|mean|median [denoise_after=stages|cells|stage-1,…]
                                                             with blocks that denoise features
       evo_robust retrain run=DIR [pick=front|knee|INDEX|best:OBJECTIVE|derived,…] [workers=1] …
                                                              networks of a search, a folder for each
       evo_robust retrain [genotype=FILE] --help              every key with its type, default and meaning

FILE is a genotype.json that the command export wrote."""


@chz.chz
class RetrainOptions(Part):
    """What the command itself takes; all other keys belong to the training."""

    genotype: str | None = chz.field(
        default=None, doc="genotype file, or a folder that holds a genotype.json", metadata=PATH
    )
    network: str | None = chz.field(default=None, doc="name of a reference network instead, such as resnet-18")
    run: str | None = chz.field(
        default=None, doc="run folder of a search instead, whose networks pick= names", metadata=PATH
    )
    pick: str | None = chz.field(
        default=None,
        doc="with run=: front (all of it, when not given), knee, INDEX, best:OBJECTIVE or derived; several with commas",
    )
    workers: int | None = chz.field(
        default=None, doc="with run=: networks trained at a time, each in a process of its own; 1 when not given"
    )
    decoder: str | None = chz.field(
        default=None,
        doc="with genotype= or run=: final, if not given: the space's networks for training after the search (deeper, "
        "wider; RoCo-NAS's have 32 initial channels); search: as searched; dense: NSGA-Net's final networks, of "
        "NSGAPhases alone; or another that a space of your own names",
    )
    out: str | None = chz.field(
        default=None,
        doc="folder to write; when not given, runs/retrain-RECIPE-DATA-KEY, or with run= runs/retrain-RECIPE-DATA-RUN",
        metadata=PATH,
    )
    device: str = chz.field(default="auto", doc="auto (CUDA where there is one), cpu, cuda or cuda:INDEX")
    source: str | None = chz.field(
        default=None,
        doc="Python file that defines parts of your own (data, recipe, attack), such as problems/mine.py",
        metadata=PATH,
    )
    trust: bool = chz.field(default=False, doc=TRUST)

    @chz.validate
    def _sound(self) -> None:
        refuse_odd_path("genotype", self.genotype)
        refuse_odd_path("run", self.run)
        refuse_odd_path("out", self.out)
        refuse_odd_path("source", self.source)


@command
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    given = split(argv or [], "genotype")
    if not given:
        print(as_typed(USAGE))
        return 0
    own = {k: v for k, v in given.items() if k in chz.chz_fields(RetrainOptions)}
    rest = {k: v for k, v in given.items() if k not in own}
    refuse_nothing(RetrainOptions, own)
    options = make(RetrainOptions, own, {}, "retrain")
    command = "python -m evo_robust.retrain " + shlex.join(argv or [])
    try:
        _refuse_mixed(options, rest)
        if options.run is not None:
            return _front(options, rest, command)
        settings, genotype = settings_from(options, rest)
    except HelpRequested as asked:
        print(_help(own, asked))
        return 0
    console = output()
    say = functools.partial(console.print, markup=False)
    recipe = rest.get("recipe", _own_recipe(genotype, options.network, rest.get("data", ""))).lower()
    if recipe in PUBLISHED and os.environ.get("RANK", "0") == "0":
        why = "" if "recipe" in rest else f"{options.network} is trained as in its paper, since no recipe= is given: "
        say(why + _told(recipe, settings, rest))
    key = digest(settings.network_text, length=6)
    folder = Path(options.out or f"runs/retrain-{recipe}-{settings.data.name}-{key}")
    with joined(choose_device(options.device)) as group:
        trained = functools.partial(retrain, settings, folder, genotype=genotype, device=options.device)
        first = group is None or group.rank == 0
        result = trained(command=command, recipe=recipe, say=say if first else silent, group=group)
    if not first:
        return 0
    console.print(result.table())
    for path in sorted(folder.glob("*.png")):
        say(f"wrote {path}")
    if genotype is not None:
        say(f"next: {line('export', f'run={folder}')}")
    return 0


def _front(options: RetrainOptions, given: Mapping[str, str], command: str) -> int:
    """Train networks of a search, and show them as searched and as trained."""
    folder = Path(str(options.run))
    if (folder / SETTINGS_FILE).is_file():
        raise UserError(f"run={folder} holds one retrained network: expected the run folder of a search")
    if started_together():
        raise UserError("run=DIR trains networks side by side: expected workers=N, got torchrun")
    workers = choose_workers(1 if options.workers is None else options.workers, options.device)
    if options.source is not None:
        load_source({"source": str(find(options.source))}, trust=True)
    run = load_run(folder, trust=options.trust)
    if run.missing:
        raise UserError(run.missing)
    jobs = []
    for picked in picked_from(run, options.pick or "front"):
        jobs.append(Job(picked, settings_from(options, given, picked.genotype, run.problem.data)[0]))
    console = output()
    say = functools.partial(console.print, markup=False)
    recipe = given.get("recipe", _own_recipe(jobs[0].picked.genotype, None, "")).lower()
    data = jobs[0].settings.data
    out = Path(options.out or f"runs/retrain-{recipe}-{data.name}-{folder_name(folder)}")
    if recipe in PUBLISHED:
        say(_told(recipe, jobs[0].settings, given))
    say(f"{len(jobs)} network{'s' * (len(jobs) != 1)} of {folder}, into {out}")
    for name in ("train_limit", "test_limit"):
        if (limit := getattr(run.problem.data, name)) is not None and getattr(data, name) is None:
            say(f"the search had data.{name}={limit}; here all images are used")
    trained = functools.partial(retrain_front, device=options.device, workers=workers, command=command, recipe=recipe)
    results = trained(run, jobs, out, say=say)
    shown = front_table(run, jobs, results)
    fit(shown, console)
    console.print(shown)
    say(f"wrote {out / INDEX_FILE} and {out / TABLE_FILE}")
    return 0


def _told(recipe: str, settings: Retraining, given: Mapping[str, str]) -> str:
    """A paper's recipe in words, with the network that is trained and the keys that go over the recipe."""
    trained = settings.network_text if settings.space is None else settings.space.size_words
    heads = ("recipe.", "attack", "epochs", "eps", "norm")
    beside = [f"{key}={value}" for key, value in given.items() if key.startswith(heads)]
    return PUBLISHED[recipe].told(recipe, trained, beside)


def _refuse_mixed(options: RetrainOptions, given: Mapping[str, str]) -> None:
    """Refuse anything but one of genotype, network and run, and keys that belong to another of them."""
    named = [name for name in ("genotype", "network", "run") if getattr(options, name) is not None]
    if len(named) != 1 and not (not named and "--help" in given):
        got = f", got {' and '.join(named)}" if named else ""
        got = ", got both" if named == ["genotype", "network"] else got
        raise UserError(f"expected genotype=FILE, network=NAME or run=DIR{got}")
    for name, owners in (("pick", ["run"]), ("workers", ["run"]), ("decoder", ["genotype", "run"])):
        if (value := getattr(options, name)) is not None and named and named[0] not in owners:
            places = {"run": "run=DIR", "genotype": "genotype=FILE"}
            whose = " or ".join(places[owner] for owner in owners)
            raise UserError(f"{name}={value} belongs to {whose}: expected no {name} with {named[0]}=")


def settings_from(
    options: RetrainOptions, given: Mapping[str, str], found: Genotype | None = None, data: DataSet | None = None
) -> tuple[Retraining, Genotype | None]:
    """Settings of the command line over those of the genotype, and the genotype.

    Args:
        options: keys of the command itself.
        given: all other keys.
        found: the genotype, where it comes from a search; it is read from the file where it does not.
        data: the search's data set, of which all images are used.

    Raises:
        UserError: neither or both of genotype and network, or an unknown key, part or value.
        HelpRequested: ``--help`` was given.
    """
    given, asked_help = dict(given), "--help" in given
    _refuse_mixed(options, given)
    if options.network is not None and "data" not in given and not asked_help:
        raise UserError(f"missing: data=NAME, one of {', '.join(DATA_SETS)}")
    for key in given:
        if key in ("space", "architecture"):
            raise UserError(f"{key} comes from the genotype file, got {key}={given[key]}")
        if key.startswith("space.final_"):
            own = key.replace("final_", "")
            raise UserError(f"{key} belongs to a search: expected {own}={given[key]}, the size of this network")
    base: dict[str, Any] = {}
    genotype = found
    if options.source is not None and found is None:
        load_source({"source": str(find(options.source))}, trust=True)  # named by the person at the keyboard
    if options.genotype is not None:
        genotype = load_genotype(options.genotype, trust=options.trust)
    if genotype is not None:
        base |= {**under("space", _decoded(genotype.space, options.decoder or "final")), "architecture": genotype.text}
        if data is not None and "data" not in given:
            base |= under("data", chz.replace(data, train_limit=None, test_limit=None))
        else:
            given.setdefault("data", genotype.data)
    else:
        base["network"] = (options.network or "").lower()  # as the zoo writes them
    given.setdefault("recipe", _own_recipe(genotype, options.network, given.get("data", "")))
    if given.get("adversarial_set") == "search":
        del given["adversarial_set"]
        base |= under("adversarial_set", _searched_set(genotype))
    _take_recipe(given, base)
    settings = make(Retraining, given, base, "retrain")
    _refuse_without_effect(settings.space, given)
    return settings, genotype


def _own_recipe(genotype: Genotype | None, network: str | None, data: str) -> str:
    """Name of the recipe where none is given: that of the space's own paper, or of the published network's."""
    if genotype is not None:
        return genotype.space.final_recipe
    return published.recipe_of(network or "", data) or "pgd"


def _decoded(space: SearchSpace, decoder: str) -> SearchSpace:
    """The space under which a found network is trained."""
    known = space.decoders()
    if decoder not in known:
        raise UserError(f"decoder={decoder}: {type(space).__name__} has no such decoder: {nearest(decoder, [*known])}")
    return known[decoder]


def _refuse_without_effect(space: SearchSpace | None, given: Mapping[str, str]) -> None:
    """Refuse a field that changes no network of the space, such as the width of the decoder that is not used."""
    for name, expected in (space.without_effect() if space is not None else {}).items():
        if (value := given.get(f"space.{name}")) is not None:
            raise UserError(f"space.{name}={value} has no effect: expected {expected}")


def _searched_set(genotype: Genotype | None) -> AdversarialSet:
    """Settings of the adversarial set that the genotype was searched with."""
    values = genotype.provenance.get("adversarial_set") if genotype else None
    if not isinstance(values, dict):
        raise UserError("adversarial_set=search: the genotype names none; expected adversarial_set=AdversarialSet")
    try:
        return from_dotted(AdversarialSet, values)
    except ValueError as error:
        raise UserError(f"adversarial_set=search: the genotype's adversarial_set.{error}") from None


def _help(own: Mapping[str, str], asked: HelpRequested) -> str:
    """Usage, and every key of the command and of the training."""
    texts = [as_typed(USAGE)]
    try:
        make(RetrainOptions, {**own, "--help": ""}, {}, "retrain")
    except HelpRequested as options:
        texts.append(help_text(options, "keys of the command itself"))
    lines = [line for name, found in PUBLISHED.items() for line in wrapped(found.told(name), 4)]
    return "\n\n".join([*texts, help_text(asked, "keys of the training"), "\n".join([PAPERS, *lines]), NAMES])


PAPERS = "recipes of the papers; each brings epochs, attack and eps too, and every key given beside it overrides it"


def _take_recipe(given: dict[str, str], base: dict[str, Any]) -> None:
    """Take the recipe's name out of ``given`` and put all that it means into ``base``, its attack's settings too."""
    name = given["recipe"]
    found = classes_called(Recipe, name)
    if len(found) == 1 and not any(map(is_required, chz.chz_fields(found[0]).values())):
        base |= under("recipe", found[0]())
        del given["recipe"]
    elif not found and name.lower() in PUBLISHED:
        data = classes_called(DataSet, given["data"]) if "data" in given else [base["data"]]
        base |= published.values_of(name.lower(), data[0] if len(data) == 1 else None, base.get("network"), given)
        del given["recipe"]
    elif not found:
        known = [*named(Recipe), *short_names(Recipe), *PUBLISHED]
        raise UserError(f"recipe={name}: unknown Recipe {name!r}: {nearest(name, known)}")


if __name__ == "__main__":
    sys.exit(main(None))
