"""What a judge judges: trained networks, from wherever they are."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from evo_robust import zoo
from evo_robust.adversarial_set.making import AdversarialSet
from evo_robust.data.base import DataSet
from evo_robust.data.sets import DATA_SETS
from evo_robust.final_training.front import INDEX_FILE, read_front
from evo_robust.final_training.settings import RESULT_FILE, SETTINGS_FILE, Retraining, load_result, read_settings
from evo_robust.judging.own import own_network
from evo_robust.judging.searches import repeated
from evo_robust.judging.trained import recipe_words, strength_of, trained_as
from evo_robust.judging.weights import expect_weights, fitted
from evo_robust.networks.genotype import FILE_NAME, Genotype, load_genotype
from evo_robust.networks.model_card import WEIGHTS_NAME
from evo_robust.parts.base import UserError, digest, parts_in
from evo_robust.parts.paths import folders_of
from evo_robust.parts.resolve import from_dotted
from evo_robust.progress import Say
from evo_robust.record.reading import PROBLEM_FILE, load_run
from evo_robust.record.rebuild import rebuild
from evo_robust.record.run import PROGRESS_FILE, past_seconds

Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A trained network to be judged.

    Attributes:
        name: what tables call it.
        origin: where it is from, in words.
        make: makes the network with its weights, in eval mode on the CPU.
        recipe: how it was trained, in words; empty where that is not known.
        seed: seed of its training; None where that is not known.
        data: the data set that it was trained on; None where that is not known.
        n_classes: number of its classes; None where that is not known.
        in_shape: shape ``(c, h, w)`` of its images; None where that is not known.
        eps: strength in L∞ that it was trained at, in units of the pixel range 0..1; None where there was none.
        zoo: its name in the zoo; None where it has none.
        searched: what a search measured of it, by name.
        adversarial_set: settings of its search's adversarial set; None where there was none.
        fresh: the network with fresh weights, where ``make`` trains it again, so that its weights are worth keeping.
        key: name under which they are kept.
        seconds: how long they took in the search.
        group: the search that it is from, where several networks are from one.
        search_hours: hours that this search took on its device; None where that is not known.
        searched_on: that device; empty where it is not known.
        repeats: the search of a paper that this search repeats, see :func:`evo_robust.judging.searches.repeated`.
    """

    name: str
    origin: str
    make: Callable[[], nn.Module]
    recipe: str = ""
    seed: int | None = None
    data: DataSet | None = None
    n_classes: int | None = None
    in_shape: Shape | None = None
    eps: float | None = None
    zoo: str | None = None
    searched: Mapping[str, float] = dataclasses.field(default_factory=dict)
    adversarial_set: AdversarialSet | None = None
    fresh: Callable[[], nn.Module] | None = None
    key: str = ""
    seconds: float = 0.0
    group: str | None = None
    search_hours: float | None = None
    searched_on: str = ""
    repeats: str = ""


def subjects_of(
    texts: Sequence[str], data: DataSet | None, pick: str, device: str, say: Say, *, trust: bool
) -> list[Subject]:
    """The networks that ``networks=`` names, each once however it is written, with distinct names.

    Args:
        texts: folders of retrain, export or a search; ``NAME@WEIGHTS`` of the zoo; ``MODULE:FUNCTION@WEIGHTS`` or
            ``FILE.py:FUNCTION@WEIGHTS`` of one's own.
        data: the images to judge on, for networks that need to know; None where ``data=`` was not given.
        pick: which networks of a search's folder.
        device: where a search's weights are made again.
        say: called with each line of progress text.
        trust: whether files that records name as their source may be run.

    Raises:
        UserError: one of them is no network, or is damaged.
    """
    found: list[Subject] = []
    for text in folders_of(texts):
        found += _named(text.strip(), data, pick, device, say, trust)
    once: dict[str, Subject] = {}
    for subject in found:
        once.setdefault(place_of(subject), subject)
    return _distinct(list(once.values()))


def place_of(subject: Subject) -> str:
    """Where a network is from, alike however its folder or its file of weights is written."""
    folder, pick, which = subject.origin.rpartition(", pick=")
    made, at, weights = subject.origin.rpartition("@")
    if os.path.isdir(subject.origin):
        return os.path.realpath(subject.origin)
    if os.path.isdir(folder):
        return os.path.realpath(folder) + pick + which
    return made + at + os.path.realpath(weights) if os.path.isfile(weights) else subject.origin


def _named(text: str, data: DataSet | None, pick: str, device: str, say: Say, trust: bool) -> list[Subject]:
    path = Path(text).expanduser()
    if path.is_dir():
        if (path / PROBLEM_FILE).is_file():
            return of_run(path, pick, device, say, trust=trust)
        if (path / INDEX_FILE).is_file():
            return of_front(path, pick, trust=trust)
        return [of_folder(path, trust=trust)]
    name, at, weights = text.partition("@")
    if not at:
        if name.lower().partition(" ")[0] in zoo.names():
            raise UserError(f"networks={text}: expected weights too, such as {text}@FILE.safetensors")
        if ":" in name:
            raise UserError(f"networks={text}: expected weights too, such as {text}@weights.pt")
        close = difflib.get_close_matches(name.lower(), zoo.names(), 1)
        hint = f"; did you mean {close[0]}@FILE?" if close else ""
        raise UserError(
            f"networks={text}: there is no such folder. Expected a folder of retrain, export or run, a name of the zoo "
            f"with weights (resnet-18@FILE), or your own (module:function@FILE){hint}"
        )
    if not weights.strip():
        raise UserError(f"networks={text}: expected a file of weights behind @, such as {name}@weights.pt")
    file = Path(weights).expanduser()
    expect_weights(file)
    if ":" in name:
        return [of_function(name, file)]
    return [of_zoo(name, file, data)]


def named_apart(subjects: Sequence[Subject], sources: Sequence[Subject]) -> tuple[list[Subject], list[Subject]]:
    """Networks that are judged and networks on which images are made, with names that are distinct among all.

    A source that is the same object as a network stays so.
    """
    together = list({id(subject): subject for subject in (*subjects, *sources)}.values())
    new = dict(zip(map(id, together), _distinct(together), strict=True))
    return [new[id(subject)] for subject in subjects], [new[id(source)] for source in sources]


def _distinct(found: Sequence[Subject]) -> list[Subject]:
    """The same with distinct names: parent folders stand before equal ones, numbers behind what is still equal."""
    by_name: dict[str, int] = {}
    for subject in found:
        by_name[subject.name] = by_name.get(subject.name, 0) + 1
    named = []
    for subject in found:
        if by_name[subject.name] > 1 and os.path.isdir(subject.origin):
            name = "/".join(Path(subject.origin).resolve().parts[-2:])
            subject = dataclasses.replace(subject, name=name)
        named.append(subject)
    names = [subject.name for subject in named]
    return [
        dataclasses.replace(s, name=f"{s.name} ({names[:k].count(s.name) + 1})") if names.count(s.name) > 1 else s
        for k, s in enumerate(named)
    ]


def of_folder(folder: Path, *, trust: bool = False) -> Subject:
    """The network of a folder that ``retrain`` or ``export`` wrote.

    Raises:
        UserError: it is neither, is not finished, or is damaged.
    """
    if (folder / SETTINGS_FILE).is_file():
        return _retrained(folder, trust)
    if not (folder / FILE_NAME).is_file():
        raise UserError(
            f"{folder} holds no network: expected a folder of retrain ({SETTINGS_FILE}), export ({FILE_NAME}) "
            f"or run ({PROBLEM_FILE})"
        )
    genotype = load_genotype(folder, trust=trust)
    if not (folder / WEIGHTS_NAME).is_file():
        raise UserError(f"{folder} holds a genotype without weights: export it with weights=true, or retrain it")
    recipe, seed, eps = trained_as(genotype)
    return Subject(
        name=folder.resolve().name,
        origin=str(folder),
        make=lambda: fitted(genotype.build(), folder / WEIGHTS_NAME, f"the network of {folder / FILE_NAME}"),
        recipe=recipe,
        seed=seed,
        data=_data_of(genotype),
        n_classes=genotype.n_classes,
        in_shape=genotype.in_shape,
        eps=eps,
        searched=_measured(genotype.objectives, genotype.figures),
        adversarial_set=_set_of(genotype),
    )


def of_front(folder: Path, pick: str, *, trust: bool = False) -> list[Subject]:
    """Networks of a front that ``retrain run=DIR pick=front`` trained.

    Raises:
        UserError: a network is not there or not finished, or is damaged.
    """
    content = read_front(folder)
    entries = {entry["folder"]: entry for entry in content["networks"]}
    if pick != "front":
        wanted = [f"front-{text.strip()}" if text.strip().isdecimal() else text.strip() for text in pick.split(",")]
        if absent := [name for name in wanted if name not in entries]:
            raise UserError(
                f"{folder} has no network {absent[0]}: expected pick=front, or INDEX of {', '.join(entries)}"
            )
        entries = {name: entries[name] for name in wanted}
    if missing := [part for part in entries if not (folder / part / RESULT_FILE).is_file()]:
        trained = [part.removeprefix("front-") for part in entries if part not in missing]
        those = f", or judge those that are with pick={','.join(trained)}" if trained else ""
        raise UserError(
            f"{folder}: {len(trained)} of {len(entries)} networks are trained, {missing[0]} is not: repeat the command "
            f"that trained them, which goes on{those}"
        )
    name = folder.resolve().name
    return [
        dataclasses.replace(
            of_folder(folder / part, trust=trust),
            name=f"{name} {part.replace('-', ' ')}",
            searched=_measured(entry["objectives"], entry.get("figures", {})),
            group=name,
        )
        for part, entry in entries.items()
    ]


def _retrained(folder: Path, trust: bool) -> Subject:
    result = load_result(folder)
    genotype = load_genotype(folder, trust=trust) if (folder / FILE_NAME).is_file() else None
    try:
        settings = from_dotted(Retraining, read_settings(folder)["values"])
    except (ValueError, KeyError) as error:
        raise UserError(f"{folder / SETTINGS_FILE} cannot be read: {error}") from None
    eps = strength_of(settings.recipe)
    return Subject(
        name=folder.resolve().name,
        origin=str(folder),
        make=lambda: fitted(settings.build(), folder / WEIGHTS_NAME, f"the network of {folder / SETTINGS_FILE}"),
        recipe=f"{recipe_words(settings.recipe)}, {result.epochs} epochs",
        seed=settings.seed,
        data=settings.data,
        n_classes=settings.data.n_classes,
        in_shape=settings.data.in_shape,
        eps=eps,
        zoo=settings.network_text if settings.network else None,
        searched=_measured(genotype.objectives, genotype.figures) if genotype else {},
        adversarial_set=settings.adversarial_set or (_set_of(genotype) if genotype else None),
    )


def of_run(folder: Path, pick: str, device: str, say: Say, *, trust: bool = False) -> list[Subject]:
    """Networks of a search with the weights that they had there; ``front`` picks the whole front.

    Raises:
        UserError: the search has no such network, or a part of it is missing.
    """
    run = load_run(folder, trust=trust)
    if run.missing:
        raise UserError(run.missing)
    if not run.front:
        raise UserError(f"{folder} has no front yet: the command that began this run resumes it")
    problem = run.problem
    specs = list(map(str, range(len(run.front)))) if pick == "front" else [text.strip() for text in pick.split(",")]
    rows = [run.chosen(spec) for spec in specs]
    sets = [part for part in parts_in((problem.objectives, problem.recorded)) if isinstance(part, AdversarialSet)]

    def maker(row: Mapping[str, Any]) -> Callable[[], nn.Module]:
        return lambda: rebuild(run, row, device, say)[0].cpu().eval()

    def fresh(row: Mapping[str, Any]) -> Callable[[], nn.Module]:
        space, data = problem.space, problem.data
        return lambda: space.build(space.from_text(row["architecture"]), data.n_classes, data.in_shape)

    return [
        Subject(
            name=f"{folder.resolve().name} {'front ' if spec.isdecimal() else ''}{spec}",
            origin=f"{folder}, pick={spec}",
            make=maker(row),
            recipe="as in the search",
            seed=problem.seed,
            data=problem.data,
            n_classes=problem.data.n_classes,
            in_shape=problem.data.in_shape,
            eps=strength_of(problem.evaluator),
            searched=_measured(row["objectives"], row),
            adversarial_set=sets[0] if sets else None,
            fresh=fresh(row),
            group=folder.resolve().name,
            search_hours=_hours(folder),
            searched_on=str(run.info.get("device") or ""),
            repeats=repeated(run.info.get("problem"), run.info.get("scale"), problem),
            key=digest([row["fingerprint"], row["architecture"], row["id"]]),
            seconds=float(row.get("seconds", 0.0)),
        )
        for spec, row in zip(specs, rows, strict=True)
    ]


def _hours(folder: Path) -> float | None:
    """Hours that a search took, over all processes that worked on it, by its progress table."""
    seconds = past_seconds(folder / PROGRESS_FILE)
    return max(seconds.values()) / 3600 if seconds else None


def of_zoo(text: str, weights: Path, data: DataSet | None) -> Subject:
    """A network of ``evo_robust.zoo`` with the weights of a file.

    Args:
        text: its name, and what was chosen beside it, such as ``wsr-basic channels=74``.
        weights: the file.
        data: the data set, which says its classes and images.

    Raises:
        UserError: the zoo has no such network, or it cannot work on these images, or the data is not known.
    """
    try:
        network = zoo.from_text(text)
    except ValueError as error:
        raise UserError(f"networks={text}@{weights}: {error}") from None
    if data is None:
        raise UserError(f"networks={text}@{weights}: expected data=NAME, which says its classes and images")

    def make() -> nn.Module:
        try:
            made = network.build(data.n_classes, data.in_shape)
        except ValueError as error:
            raise UserError(f"networks={text}@{weights}: {error}") from None
        return fitted(made, weights, f"{network.text} on {data.name}")

    return Subject(
        name=network.text,
        origin=f"{network.text}@{weights}",
        make=make,
        n_classes=data.n_classes,
        in_shape=data.in_shape,
        zoo=network.text,
    )


def of_function(name: str, weights: Path) -> Subject:
    """A network that a function of one's own makes, with the weights of a file.

    Args:
        name: ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION``; it is called without arguments and gives a
            ``torch.nn.Module`` from images in [0,1] to logits. A class does too.
        weights: see :func:`evo_robust.judging.weights.read_weights`.

    Raises:
        UserError: module or function are missing, or it gives no network.
    """
    made = own_network(name)

    def make() -> nn.Module:
        return fitted(made(), weights, name)

    return Subject(name=name.rpartition(":")[2], origin=f"{name}@{weights}", make=make)


def _data_of(genotype: Genotype) -> DataSet | None:
    """The data set of a genotype, where it is one of those that have a name."""
    known = DATA_SETS.get(genotype.data)
    return known() if known is not None else None


def _set_of(genotype: Genotype) -> AdversarialSet | None:
    values = genotype.provenance.get("adversarial_set")
    if not isinstance(values, dict):
        return None
    try:
        return from_dotted(AdversarialSet, values)
    except ValueError:
        return None


def _measured(objectives: Mapping[str, Any], beside: Any) -> dict[str, float]:
    """What a search measured of a network: its objectives, and what it recorded or reported beside them."""
    more = [beside.get(kind) for kind in ("recorded", "reported")] if isinstance(beside, Mapping) else []
    found = {name: value for kind in more if isinstance(kind, Mapping) for name, value in kind.items()} | {**objectives}
    return {name: float(value) for name, value in found.items() if isinstance(value, (int, float))}
