"""Command: train a found network from scratch. ``evo_robust retrain genotype=FILE recipe=pgd``."""

from __future__ import annotations

import shlex
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chz

from evo_robust.adversarial_set.making import AdversarialSet
from evo_robust.commands.cli import TRUST, command
from evo_robust.commands.helping import NAMES, WIDEST, help_text
from evo_robust.data.base import DataSet
from evo_robust.data.sets import DATA_SETS
from evo_robust.final_training import published
from evo_robust.final_training.published import PUBLISHED
from evo_robust.final_training.settings import Retraining
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
from evo_robust.progress import output
from evo_robust.spaces.base import SearchSpace
from evo_robust.training.recipes import Recipe

USAGE = """usage: evo_robust retrain genotype=FILE [recipe=pgd|standard|trades|fast|robnet|racl|wsr|roco|…]
           [data=cifar10] [epochs=120] [decoder=final|search|dense] [out=DIR] [device=auto|cpu|cuda] [key.path=value …]
       evo_robust retrain network=resnet-18 data=cifar10 …    a reference network instead, with channels=,
           layers=, stem=cifar|imagenet where it has such a choice
       evo_robust retrain … denoise=dot-product|gaussian|mean|median [denoise_after=stages|cells|stage-1,…]
                                                             with blocks that denoise features
       evo_robust retrain [genotype=FILE] --help              every key with its type, default and meaning

FILE is a genotype.json that the command export wrote."""


@chz.chz
class RetrainOptions(Part):
    """What the command itself takes; all other keys belong to the training."""

    genotype: str | None = chz.field(
        default=None, doc="genotype file, or a folder that holds a genotype.json", metadata=PATH
    )
    network: str | None = chz.field(default=None, doc="name of a reference network instead, such as resnet-18")
    decoder: str = chz.field(
        default="final",
        doc="final: the space's networks for training after the search (deeper, wider; RoCo-NAS's have 32 initial "
        "channels); search: as searched; dense: NSGA-Net's final networks, of NSGAPhases alone; or another that a "
        "space of your own names",
    )
    out: str | None = chz.field(
        default=None, doc="folder to write; runs/retrain-RECIPE-DATA-KEY when not given", metadata=PATH
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
    try:
        settings, genotype = settings_from(options, rest)
    except HelpRequested as asked:
        print(_help(own, asked))
        return 0
    console = output()

    def say(text: str) -> None:
        console.print(text, markup=False)

    recipe = rest.get("recipe", _own_recipe(genotype, options.network)).lower()
    if recipe in PUBLISHED:
        why = "" if "recipe" in rest else f"{options.network} is trained as in its paper, since no recipe= is given: "
        say(why + PUBLISHED[recipe].told(recipe))
    key = digest(settings.network_text, length=6)
    folder = Path(options.out or f"runs/retrain-{recipe}-{settings.data.name}-{key}")
    command = "python -m evo_robust.retrain " + shlex.join(argv or [])
    result = retrain(
        settings, folder, genotype=genotype, device=options.device, command=command, recipe=recipe, say=say
    )
    console.print(result.table())
    for path in sorted(folder.glob("*.png")):
        say(f"wrote {path}")
    if genotype is not None:
        say(f"next: {line('export', f'run={folder}')}")
    return 0


def settings_from(options: RetrainOptions, given: Mapping[str, str]) -> tuple[Retraining, Genotype | None]:
    """Settings of the command line over those of the genotype, and the genotype.

    Raises:
        UserError: neither or both of genotype and network, or an unknown key, part or value.
        HelpRequested: ``--help`` was given.
    """
    given, asked_help = dict(given), "--help" in given
    if (options.genotype is None) == (options.network is None) and not (options.genotype is None and asked_help):
        raise UserError("expected genotype=FILE or network=NAME" + (", got both" if options.genotype else ""))
    if options.genotype is None and "data" not in given and not asked_help:
        raise UserError(f"missing: data=NAME, one of {', '.join(DATA_SETS)}")
    for key in given:
        if key in ("space", "architecture"):
            raise UserError(f"{key} comes from the genotype file, got {key}={given[key]}")
        if key.startswith("space.final_"):
            own = key.replace("final_", "")
            raise UserError(f"{key} belongs to a search: expected {own}={given[key]}, the size of this network")
    base: dict[str, Any] = {}
    genotype = None
    if options.source is not None:
        load_source({"source": str(find(options.source))}, trust=True)  # named by the person at the keyboard
    if options.genotype is not None:
        genotype = load_genotype(options.genotype, trust=options.trust)
        base |= {**under("space", _decoded(genotype.space, options.decoder)), "architecture": genotype.text}
        given.setdefault("data", genotype.data)
    else:
        base["network"] = (options.network or "").lower()  # as the zoo writes them
    given.setdefault("recipe", _own_recipe(genotype, options.network))
    if given.get("adversarial_set") == "search":
        del given["adversarial_set"]
        base |= under("adversarial_set", _searched_set(genotype))
    _take_recipe(given, base)
    settings = make(Retraining, given, base, "retrain")
    _refuse_without_effect(settings.space, given)
    return settings, genotype


def _own_recipe(genotype: Genotype | None, network: str | None) -> str:
    """Name of the recipe where none is given: that of the space's own paper, or of the published network's."""
    if genotype is not None:
        return genotype.space.final_recipe
    return published.recipe_of(network or "") or "pgd"


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
    papers = [f"  {found.told(name)}" for name, found in PUBLISHED.items()]
    lines = [line for text in papers for line in textwrap.wrap(text, min(output().width, WIDEST), **_INDENTED)]
    return "\n\n".join([*texts, help_text(asked, "keys of the training"), "\n".join([PAPERS, *lines]), NAMES])


PAPERS = "recipes of the papers; each brings epochs, attack and eps too, and every key given beside it overrides it"
_INDENTED: dict[str, Any] = {"subsequent_indent": " " * 6, "break_on_hyphens": False}


def _take_recipe(given: dict[str, str], base: dict[str, Any]) -> None:
    """Take the recipe's name out of ``given`` and put all that it means into ``base``, its attack's settings too."""
    name = given["recipe"]
    found = classes_called(Recipe, name)
    if len(found) == 1 and not any(map(is_required, chz.chz_fields(found[0]).values())):
        base |= under("recipe", found[0]())
        del given["recipe"]
    elif not found and name.lower() in PUBLISHED:
        data = classes_called(DataSet, given["data"]) if "data" in given else []
        base |= published.values_of(name.lower(), data[0] if len(data) == 1 else None, base.get("network"), given)
        del given["recipe"]
    elif not found:
        known = [*named(Recipe), *short_names(Recipe), *PUBLISHED]
        raise UserError(f"recipe={name}: unknown Recipe {name!r}: {nearest(name, known)}")


if __name__ == "__main__":
    sys.exit(main(None))
