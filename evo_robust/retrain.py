"""Command: train a found network from scratch. ``python -m evo_robust.retrain genotype=FILE recipe=pgd``."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import chz
import joblib
import torch
from torch import nn

from evo_robust.adversarial_set.making import FILES, AdversarialSet
from evo_robust.attacks.curve import robust_curve
from evo_robust.commands.cli import TRUST, command, line
from evo_robust.commands.helping import NAMES, help_text
from evo_robust.data.base import DataSet
from evo_robust.data.checks import remarks
from evo_robust.data.images import Images
from evo_robust.data.sets import DATA_SETS
from evo_robust.device import choose_device
from evo_robust.files import FolderLock, cache_folder, check_cache, make_folder, write_csv, write_json, write_tensors
from evo_robust.final_training.pictures import draw_curve, draw_training
from evo_robust.final_training.settings import (
    RESULT_FILE,
    SETTINGS_FILE,
    Result,
    Retraining,
    load_result,
    read_settings,
)
from evo_robust.inference.predictions import clean_error
from evo_robust.networks.genotype import FILE_NAME, Genotype, load_genotype, save_genotype
from evo_robust.networks.model_card import WEIGHTS_NAME
from evo_robust.objectives.cost import count_flops, count_params
from evo_robust.parts.base import (
    Part,
    UserError,
    changed,
    classes_called,
    digest,
    dotted,
    seed_from,
)
from evo_robust.parts.chz_inside import is_required, values_of
from evo_robust.parts.making import HelpRequested, make, refuse_nothing, split
from evo_robust.parts.paths import PATH, refuse_odd_path
from evo_robust.parts.plain import first_of
from evo_robust.parts.resolve import from_dotted
from evo_robust.problem.files import find, load_source
from evo_robust.progress import Say, duration, output, silent
from evo_robust.record.reading import IMAGES
from evo_robust.record.writing import library_versions
from evo_robust.spaces.base import SearchSpace
from evo_robust.spaces.nsga.space import NSGAPhases
from evo_robust.training.loop import EpochLog, TrainingDiverged, train
from evo_robust.training.recipes import Recipe

CHECKPOINT_FILE = "checkpoint.safetensors"

USAGE = """usage: python -m evo_robust.retrain genotype=FILE [recipe=pgd|standard|trades|fast] [data=cifar10]
                 [epochs=120] [decoder=final|search|dense] [out=DIR] [device=auto|cpu|cuda] [key.path=value …]
       python -m evo_robust.retrain network=resnet-18 data=cifar10 …    a reference network instead
       python -m evo_robust.retrain [genotype=FILE] --help              every key with its type, default and meaning

FILE is a genotype.json that evo_robust.export wrote."""


@chz.chz
class RetrainOptions(Part):
    """What the command itself takes; all other keys belong to the training."""

    genotype: str | None = chz.field(
        default=None, doc="genotype file, or a folder that holds a genotype.json", metadata=PATH
    )
    network: str | None = chz.field(default=None, doc="name of a reference network instead, such as resnet-18")
    decoder: Literal["final", "search", "dense"] = chz.field(
        default="final",
        doc="final: the space's networks for training after the search (deeper, wider; RoCo-NAS's have 32 initial "
        "channels); search: as searched; dense: NSGA-Net's final networks, of NSGAPhases alone",
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
    given = split(argv or [])
    if not given:
        print(USAGE)
        return 0
    own = {k: v for k, v in given.items() if k in chz.chz_fields(RetrainOptions)}
    rest = {k: v for k, v in given.items() if k not in own}
    refuse_nothing(own)
    options = make(RetrainOptions, own, {}, "retrain")
    try:
        settings, genotype = settings_from(options, rest)
    except HelpRequested as asked:
        print(_help(own, asked))
        return 0
    console = output()

    def say(text: str) -> None:
        console.print(text, markup=False)

    recipe = rest.get("recipe", _own_recipe(genotype)).lower()
    key = digest(settings.network or settings.architecture, length=6)
    folder = Path(options.out or f"runs/retrain-{recipe}-{settings.data.name}-{key}")
    command = "python -m evo_robust.retrain " + shlex.join(argv or [])
    result = retrain(settings, folder, genotype=genotype, device=options.device, command=command, say=say)
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
        base |= {**_under("space", _decoded(genotype.space, options.decoder)), "architecture": genotype.text}
        given.setdefault("data", genotype.data)
    else:
        base["network"] = (options.network or "").lower()  # as the zoo writes them
    given.setdefault("recipe", _own_recipe(genotype))
    if given.get("adversarial_set") == "search":
        del given["adversarial_set"]
        base |= _under("adversarial_set", _searched_set(genotype))
    _take_recipe(given, base)
    settings = make(Retraining, given, base, "retrain")
    _refuse_without_effect(settings.space, given)
    return settings, genotype


def _own_recipe(genotype: Genotype | None) -> str:
    """Name of the recipe where none is given: the one of the space's own paper."""
    return "pgd" if genotype is None else genotype.space.final_recipe


def _decoded(space: SearchSpace, decoder: str) -> SearchSpace:
    """The space under which a found network is trained."""
    if decoder == "search":
        return space
    if decoder == "final":
        return space.for_final_training()
    if not isinstance(space, NSGAPhases):
        raise UserError(
            f"decoder=dense: expected a genotype of NSGAPhases, got {type(space).__name__}: final or search"
        )
    return space.with_dense_decoder()


def _refuse_without_effect(space: SearchSpace | None, given: Mapping[str, str]) -> None:
    """Refuse the width of the decoder that is not used."""
    if not isinstance(space, NSGAPhases):
        return
    if space.decoder == "residual" and (wide := given.get("space.dense_channels")) is not None:
        raise UserError(
            f"space.dense_channels={wide} is the width of the dense decoder: expected decoder=dense with it, or "
            "space.channels of the searched network"
        )
    if space.decoder == "dense" and (wide := given.get("space.channels")) is not None:
        raise UserError(f"space.channels={wide} does not touch the dense decoder: expected space.dense_channels={wide}")


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
    texts = [USAGE]
    try:
        make(RetrainOptions, {**own, "--help": ""}, {}, "retrain")
    except HelpRequested as options:
        texts.append(help_text(options, "keys of the command itself"))
    return "\n\n".join([*texts, help_text(asked, "keys of the training"), NAMES])


def _under(key: str, part: Part) -> dict[str, Any]:
    """The values of a part, dotted under ``key``, as defaults of a blueprint."""
    return {key: type(part), **{f"{key}.{k}": v for k, v in values_of(part).items()}}


def _take_recipe(given: dict[str, str], base: dict[str, Any]) -> None:
    """Take the recipe's name out of ``given`` and put all that it means into ``base``, its attack's settings too."""
    found = classes_called(Recipe, given["recipe"])  # type: ignore[type-abstract] # it is looked below
    if len(found) == 1 and not any(map(is_required, chz.chz_fields(found[0]).values())):
        base |= _under("recipe", found[0]())
        del given["recipe"]


def retrain(
    settings: Retraining,
    folder: Path,
    *,
    genotype: Genotype | None = None,
    device: str = "auto",
    command: str = "",
    say: Say = silent,
) -> Result:
    """Train a network and judge it, in a folder; an interrupted training goes on where it stopped.

    Args:
        settings: what is trained and how.
        folder: made when absent, continued when it holds the same training.
        genotype: the found network, for its figures and origin; None for a reference network.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
        command: the command line, for the record.
        say: takes lines of progress.

    Raises:
        UserError: a device, data or folder that cannot be used, or a damaged checkpoint.
    """
    device = choose_device(device)
    data = settings.data.pinned()  # missing data and impossible networks are said before a folder is made
    try:
        model = settings.build()
    except ValueError as error:
        raise UserError(str(error)) from None
    identity = {**dotted(settings, identity=True), "device": device.partition(":")[0]}
    if data.digest():
        identity[IMAGES] = data.digest()
    _check_cache(settings, data)
    make_folder(folder)
    if not _check_folder(folder, identity):
        data = chz.replace(data, content="")
        say(f"warning: {folder} was begun before images were checked: whether they are the same cannot be verified")
    settings = chz.replace(settings, data=data)
    for remark in remarks(data, data.load()):
        say(remark)
    with FolderLock(folder):
        if (folder / RESULT_FILE).exists():
            say(f"{folder} is finished already")
            return load_result(folder)
        entry = {"schema": 1, "identity": identity, "values": dotted(settings)}
        write_json(folder / SETTINGS_FILE, {**entry, "command": command, "versions": library_versions()})
        if genotype is not None:
            save_genotype(_final(settings, genotype), folder / FILE_NAME)
        result = _run(settings, model, folder, device, say)
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
        return result


def _check_cache(settings: Retraining, data: DataSet) -> None:
    """Refuse a cache that takes no files, where an adversarial set has to be built in it."""
    if settings.adversarial_set is None:
        return
    made = settings.adversarial_set.folder(data, cache_folder())
    if not all((made / name).is_file() for name in FILES):
        check_cache(cache_folder())


def _check_folder(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Refuse a folder of something else; whether it tells of its images all that ``identity`` tells."""
    if not (folder / SETTINGS_FILE).exists():
        if any(path.name != "lock" and not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(f"{folder} holds other files: expected a new, empty or retraining folder as out=")
        return True
    old = read_settings(folder)["identity"]
    verified = IMAGES not in identity or IMAGES in old
    differences = changed(old, identity if verified else {k: v for k, v in identity.items() if k != IMAGES})
    if differences:
        shown = first_of(differences, 4)
        raise UserError(f"{folder} holds another retraining: {shown}. Choose another out=, or the same settings")
    return verified


def _final(settings: Retraining, genotype: Genotype) -> Genotype:
    """The genotype as it is trained: with the space and data of the retraining."""
    data, space = settings.data, settings.space or genotype.space
    return dataclasses.replace(genotype, space=space, data=data.name, n_classes=data.n_classes, in_shape=data.in_shape)


def _run(settings: Retraining, model: nn.Module, folder: Path, device: str, say: Say) -> Result:
    """Train, judge and write everything."""
    images, test = settings.images(device)
    params, flops = count_params(model), count_flops(model, settings.data.in_shape, "thop")
    say(f"training {params:,} parameters on {len(images):,} images of {settings.data.name} into {folder}")
    model = model.to(device)
    began = time.monotonic()
    logs = _trained(settings, model, images, folder, say)
    trained = time.monotonic() - began
    write_tensors(folder / WEIGHTS_NAME, model.state_dict())
    say(f"attacking {len(test):,} test images at {len(settings.eps)} strengths")
    generator = torch.Generator(device).manual_seed(seed_from(settings.seed, "judgement"))
    attack, precision = settings.attack, settings.precision
    curve = robust_curve(model, test, attack, settings.eps, settings.norm, generator=generator, precision=precision)
    result = Result(
        network=settings.network or str(settings.architecture),
        data=settings.data.name,
        recipe=type(settings.recipe).__name__,
        epochs=settings.epochs,
        n_train=len(images),
        n_test=curve.n,
        n_classes=settings.data.n_classes,
        params=params,
        flops=flops,
        attack=settings.attack.words,
        norm=settings.norm,
        clean_error=curve.clean_error,
        eps=curve.eps,
        error=curve.error,
        adversarial=_on_adversarial_set(settings, model, device, say),
        seconds={"training": round(trained, 2), "attack": round(curve.seconds, 2)},
    )
    _write(result, logs, folder)
    return result


def _on_adversarial_set(settings: Retraining, model: nn.Module, device: str, say: Say) -> dict[str, float] | None:
    """Error on the adversarial set's test part and its size; None where none is asked for."""
    if settings.adversarial_set is None:
        return None
    made = settings.adversarial_set.build_or_load(settings.data, cache_folder(), device, joblib.cpu_count(), say)
    return {"error": clean_error(model, made.judge.to(device)), "n": len(made.judge)}


def _trained(settings: Retraining, model: nn.Module, images: Images, folder: Path, say: Say) -> list[EpochLog]:
    began, fresh = time.monotonic(), 0

    def on_epoch(log: EpochLog) -> None:
        nonlocal fresh
        fresh += 1
        left = (time.monotonic() - began) / fresh * (settings.epochs - log.epoch)
        say(
            f"epoch {log.epoch:>3}/{settings.epochs}  loss {log.loss:.4f}  training error {100 * log.train_error:.1f} %"
            f"  left {duration(left)}"
        )

    checkpoint = folder / CHECKPOINT_FILE
    if checkpoint.exists():
        say(f"going on from {checkpoint}")
    try:
        return train(
            model,
            images,
            settings.recipe.for_data(settings.data),
            settings.epochs,
            seed=seed_from(settings.seed, settings.network or settings.architecture),
            checkpoint=checkpoint,
            on_epoch=on_epoch,
        )
    except TrainingDiverged as error:
        raise UserError(str(error)) from None


def _write(result: Result, logs: list[EpochLog], folder: Path) -> None:
    """Tables and pictures; the result itself last, since it marks the training as finished."""
    names = [field.name for field in dataclasses.fields(EpochLog)]
    write_csv(folder / "training.csv", names, [[getattr(log, name) for name in names] for log in logs])
    rows = [[f"{eps:.6g}", f"{error:.6g}", f"{1 - error:.6g}"] for eps, error in result.points()]
    write_csv(folder / "curve.csv", ["eps", "error", "accuracy"], rows)
    draw_curve(folder / "curve.png", result)
    draw_training(folder / "training.png", result, logs)
    write_json(folder / RESULT_FILE, {"schema": 1, **dataclasses.asdict(result)})


if __name__ == "__main__":
    sys.exit(main(None))
