"""Trains a found network from scratch and evaluates it, in a folder of its own."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import chz
import joblib
import torch
from torch import nn

from evo_robust.adversarial_set.making import FILES
from evo_robust.attacks.curve import robust_curve
from evo_robust.data.base import DataSet
from evo_robust.data.checks import remarks
from evo_robust.data.images import Images
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
from evo_robust.networks.genotype import FILE_NAME, Genotype, save_genotype
from evo_robust.networks.model_card import WEIGHTS_NAME
from evo_robust.objectives.cost import count_flops, count_params
from evo_robust.parts.base import (
    UserError,
    changed,
    dotted,
    seed_from,
    unused_later,
)
from evo_robust.parts.plain import first_of
from evo_robust.progress import Say, duration, silent
from evo_robust.record.reading import IMAGES
from evo_robust.record.writing import library_versions
from evo_robust.training.choice import ByValidation
from evo_robust.training.epochs import EpochLog
from evo_robust.training.loop import train
from evo_robust.training.steps import TrainingDiverged
from evo_robust.training.together import Group, own_device

CHECKPOINT_FILE = "checkpoint.safetensors"


def retrain(
    settings: Retraining,
    folder: Path,
    *,
    genotype: Genotype | None = None,
    device: str = "auto",
    command: str = "",
    recipe: str = "",
    say: Say = silent,
    group: Group | None = None,
) -> Result:
    """Train a network and evaluate it, in a folder; an interrupted training resumes where it stopped.

    Args:
        settings: what is trained, and how.
        folder: made when absent; resumed when it holds the same training.
        genotype: the found network, for its figures and origin; None for a reference network.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
        command: the command line, for the record.
        recipe: the name of the recipe as it was given, for the record.
        say: called with each line of progress text.
        group: the processes that train together. Only the first one says anything and writes; the others wait for its
            result.

    Raises:
        UserError: device, data or folder cannot be used, or a checkpoint is damaged.
    """
    device = choose_device(device) if group is None else own_device(choose_device(device))
    data = settings.data.pinned()  # report missing data and impossible networks before a folder is made
    settings.held_out()
    try:
        model = settings.build()
    except ValueError as error:
        raise UserError(str(error)) from None
    identity = identity_of(settings, device) | ({} if group is None else {"processes": group.size})
    if data.digest():
        identity[IMAGES] = data.digest()
    _check_cache(settings, data)
    make_folder(folder)
    if not _check_folder(folder, identity, unused_later(settings)):
        data = chz.replace(data, content="")
        say(f"warning: {folder} was begun before images were checked: whether they are the same cannot be verified")
    settings = chz.replace(settings, data=data)
    for remark in remarks(data, data.load()):
        say(remark)
    if group is not None and group.rank > 0:
        return _follow(settings, model, folder, device, group)
    with FolderLock(folder):
        if (folder / RESULT_FILE).exists():
            say(f"{folder} is finished already")
            return load_result(folder)
        entry = {"schema": 1, "identity": identity, "values": dotted(settings), "recipe": recipe}
        write_json(folder / SETTINGS_FILE, {**entry, "command": command, "versions": library_versions()})
        if genotype is not None:
            save_genotype(_final(settings, genotype), folder / FILE_NAME)
        result = _run(settings, model, folder, device, say, group)
        if group is not None:
            group.wait()  # the others read the result
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
        return result


def _check_cache(settings: Retraining, data: DataSet) -> None:
    """Refuse a cache folder that cannot be written, where an adversarial set has to be built in it."""
    if settings.adversarial_set is None:
        return
    made = settings.adversarial_set.folder(data, cache_folder())
    if not all((made / name).is_file() for name in FILES):
        check_cache(cache_folder())


def refuse_other(settings: Retraining, folder: Path, device: str) -> None:
    """Refuse a folder that holds something else than this retraining; a folder that is not there is welcome.

    Raises:
        UserError: saying what is there, or which settings differ.
    """
    if folder.is_dir():
        identity = identity_of(settings, choose_device(device))
        if content := settings.data.pinned().digest():
            identity[IMAGES] = content
        _check_folder(folder, identity, unused_later(settings))


def identity_of(settings: Retraining, device: str) -> dict[str, Any]:
    """The values that decide a retraining's figures, by dotted key; ``device`` is one that ``choose_device`` gave."""
    return {**dotted(settings, identity=True), "device": device.partition(":")[0]}


def _check_folder(folder: Path, identity: Mapping[str, Any], later: Collection[str]) -> bool:
    """Refuse a folder with other content; False where it lacks the digest of images that ``identity`` has.

    Fields in ``later`` came after the first folders had been made, and have their default: a folder may lack them.
    """
    if not (folder / SETTINGS_FILE).exists():
        if any(path.name != "lock" and not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(f"{folder} holds other files: expected a new, empty or retraining folder as out=")
        return True
    old = read_settings(folder)["identity"]
    old = {key: identity[key] for key in later if key in identity} | old
    verified = IMAGES not in identity or IMAGES in old
    differences = changed(old, identity if verified else {k: v for k, v in identity.items() if k != IMAGES})
    if differences:
        shown = first_of(differences, 4)
        raise UserError(f"{folder} holds another retraining: {shown}. Choose another out=, or the same settings")
    return verified


def _final(settings: Retraining, genotype: Genotype) -> Genotype:
    """The genotype with the space and data of the retraining."""
    data, space = settings.data, settings.space or genotype.space
    return dataclasses.replace(genotype, space=space, data=data.name, n_classes=data.n_classes, in_shape=data.in_shape)


def _follow(settings: Retraining, model: nn.Module, folder: Path, device: str, group: Group) -> Result:
    """The part of another process than the first one: it trains, and reads the result."""
    if not (folder / RESULT_FILE).exists():
        images, held_out, _ = settings.images(device)
        _trained(settings, model.to(device), images, _choice(settings, held_out), folder, silent, group)
        group.wait()
    return load_result(folder)


def _run(
    settings: Retraining, model: nn.Module, folder: Path, device: str, say: Say, group: Group | None = None
) -> Result:
    """Train, evaluate and write everything."""
    images, held_out, test = settings.images(device)
    choice = _choice(settings, held_out)
    params, flops = count_params(model), count_flops(model, settings.data.in_shape, "thop")
    say(f"training {params:,} parameters on {len(images):,} images of {settings.data.name} into {folder}")
    model = model.to(device)
    began = time.monotonic()
    logs = _trained(settings, model, images, choice, folder, say, group)
    trained = time.monotonic() - began
    write_tensors(folder / WEIGHTS_NAME, model.state_dict())
    say(f"attacking {len(test):,} test images at {len(settings.eps)} strengths")
    generator = torch.Generator(device).manual_seed(seed_from(settings.seed, "judgement"))
    attack, precision = settings.attack, settings.precision
    curve = robust_curve(model, test, attack, settings.eps, settings.norm, generator=generator, precision=precision)
    result = Result(
        network=settings.network_text,
        data=settings.data.name,
        recipe=type(settings.recipe).__name__,
        epochs=len(logs),
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
        kept_epoch=choice.kept_epoch if choice is not None and settings.keep == "best" else None,
    )
    _write(result, logs, folder)
    return result


def _on_adversarial_set(settings: Retraining, model: nn.Module, device: str, say: Say) -> dict[str, float] | None:
    """Error and number of images of the adversarial set's test part; None where there is no such set."""
    if settings.adversarial_set is None:
        return None
    made = settings.adversarial_set.build_or_load(settings.data, cache_folder(), device, joblib.cpu_count(), say)
    return {"error": clean_error(model, made.judge.to(device)), "n": len(made.judge)}


def _choice(settings: Retraining, held_out: Images | None) -> ByValidation | None:
    """What looks at the validation images after each epoch; None where there are none."""
    if held_out is None:
        return None
    return ByValidation(held_out, settings.recipe, settings.keep, settings.patience, settings.seed)


def _trained(
    settings: Retraining,
    model: nn.Module,
    images: Images,
    choice: ByValidation | None,
    folder: Path,
    say: Say,
    group: Group | None = None,
) -> list[EpochLog]:
    began, fresh = time.monotonic(), 0

    def on_epoch(log: EpochLog) -> None:
        nonlocal fresh
        fresh += 1
        left = (time.monotonic() - began) / fresh * (settings.epochs - log.epoch)
        seen = "" if log.validation_error is None else f"  validation error {100 * log.validation_error:.1f} %"
        say(
            f"epoch {log.epoch:>3}/{settings.epochs}  loss {log.loss:.4f}  training error {100 * log.train_error:.1f} %"
            f"{seen}  left {duration(left)}"
        )

    checkpoint = folder / CHECKPOINT_FILE
    if checkpoint.exists():
        say(f"going on from {checkpoint}")
    try:
        logs = train(
            model,
            images,
            settings.recipe.for_data(settings.data),
            settings.epochs,
            seed=seed_from(settings.seed, settings.network or settings.architecture),
            checkpoint=checkpoint,
            on_epoch=on_epoch,
            choice=choice,
            group=group,
        )
    except TrainingDiverged as error:
        raise UserError(str(error)) from None
    if choice is not None:
        early = f"stopped after epoch {len(logs)}; " if len(logs) < settings.epochs else ""
        best = f"smallest validation error, {100 * min(choice.errors):.1f} %, after epoch {choice.best_epoch}"
        say(f"{early}{best}; weights of epoch {choice.kept_epoch} kept")
    return logs


def _write(result: Result, logs: list[EpochLog], folder: Path) -> None:
    """Write tables and pictures, then the result, which marks the training as finished."""
    names = [field.name for field in dataclasses.fields(EpochLog)]
    if all(log.validation_error is None for log in logs):
        names.remove("validation_error")
    write_csv(folder / "training.csv", names, [[getattr(log, name) for name in names] for log in logs])
    rows = [[f"{eps:.6g}", f"{error:.6g}", f"{1 - error:.6g}"] for eps, error in result.points()]
    write_csv(folder / "curve.csv", ["eps", "error", "accuracy"], rows)
    draw_curve(folder / "curve.png", result)
    draw_training(folder / "training.png", result, logs)
    write_json(folder / RESULT_FILE, {"schema": 1, **dataclasses.asdict(result)})
