"""The adversarial set of RoCo-NAS: images that fool known networks, made once and used to evaluate all candidates.

Victims are trained on the training split, and attacked on images that they classify correctly. The search's samples are
made from validation images, so that it never learns from test images. A second set, made from test images, is only for
the final evaluation. In the paper (Table I), attacks on LeNet, DenseNet, ResNet and VGG-16 in L0 and L∞ at levels 1, 3,
5 and 10 gave 9,791 samples. It does not say where the images came from.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import chz
import torch
from torch import nn

from evo_robust import zoo
from evo_robust.adversarial_set.samples import AdversarialImages, Row, Samples
from evo_robust.attacks.level.attack import CMAES
from evo_robust.attacks.level.base import LevelAttack, LevelNorm
from evo_robust.data.base import DataSet
from evo_robust.data.images import Images
from evo_robust.device import fixed_threads
from evo_robust.files import build_once, former_digests, read_tensors, stored_checksum, whole_file, write_tensors
from evo_robust.inference.predictions import clean_error, correct_mask
from evo_robust.parts.base import Part, UserError, digest, dotted, seed_from
from evo_robust.progress import Say, silent
from evo_robust.training.loop import train
from evo_robust.training.recipes import Recipe, Standard
from evo_robust.training.steps import TrainingDiverged
from evo_robust.training.weights import fresh_weights
from evo_robust.workers import Died, Pool

VERSION = 1
"""Increased when a change of code changes the images, so that old sets are not used as new ones."""

FILES = ("search.safetensors", "judge.safetensors", "table.csv", "settings.json")
"""Files of a complete set."""

FEW = 100
"""With fewer samples than this, errors are several percentage points off by chance."""


@chz.chz
class AdversarialSet(Part):
    """Which networks are attacked, and how, to make the adversarial images for candidates.

    For sizes of the victims see :mod:`evo_robust.zoo`. On 8×8 digits the paper's L∞ levels 1 to 10 are less than one of
    the 16 grey steps, and fool almost no network. Levels 16, 32, 48 and 64 are one to four such steps, and succeed on
    between a third and all images. There ``width=0.25`` and 60 sources give 1,500 samples in 40 seconds on one core.
    """

    victims: tuple[str, ...] = chz.field(
        default=("lenet", "densenet", "resnet", "vgg-16"), doc="networks of the zoo to attack"
    )
    width: float = chz.field(default=1.0, doc="multiplies the victims' channels, > 0; below 1 for small images")
    epochs: int = chz.field(default=50, doc="training epochs of each victim, >= 1")
    recipe: Recipe = chz.field(
        default_factory=Standard, blueprint_unspecified=Standard, doc="how the victims are trained"
    )
    norms: tuple[LevelNorm, ...] = chz.field(default=("l0", "linf"), doc="kinds of attack: l0, linf")
    l0_levels: tuple[int, ...] = chz.field(default=(1, 3, 5, 10), doc="numbers of pixels that may change")
    linf_levels: tuple[int, ...] = chz.field(default=(1, 3, 5, 10), doc="grey steps of 255 that every value may change")
    optimiser: LevelAttack = chz.field(
        default_factory=CMAES, blueprint_unspecified=CMAES, doc="the attack; its own norm and level are not used"
    )
    sources: int = chz.field(
        default=600,
        doc="number of images (the first ones) of each split, >= 1; each victim is attacked on those it gets right",
    )
    seed: int = chz.field(default=0, doc="seed of victims and attacks, >= 0")

    @chz.validate
    def _known_victims(self) -> None:
        _check_unique("victims", self.victims)
        for name in self.victims:
            zoo.check_name(name)

    @chz.validate
    def _sensible_levels(self) -> None:
        _check_unique("norms", self.norms)
        unknown = [norm for norm in self.norms if norm not in self.optimiser.norms()]
        if unknown:
            known, who = ", ".join(self.optimiser.norms()), type(self.optimiser).__name__
            raise ValueError(f"expected norms that {who} knows ({known}), got {', '.join(unknown)}: give norms={known}")
        for norm in self.norms:
            levels = self.levels(norm)
            _check_unique(f"{norm}_levels", levels)
            if min(levels) < 1 or (norm == "linf" and max(levels) > 255):
                raise ValueError(f"expected {norm}_levels >= 1 (linf: <= 255), got {levels}")

    @chz.validate
    def _sensible_numbers(self) -> None:
        if not self.width > 0:
            raise ValueError(f"expected width > 0, got {self.width}")
        for name, least in (("epochs", 1), ("sources", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} >= {least}, got {getattr(self, name)}")

    def levels(self, norm: LevelNorm) -> tuple[int, ...]:
        """Levels for a norm."""
        return self.l0_levels if norm == "l0" else self.linf_levels

    def folder(self, data: DataSet, cache: Path) -> Path:
        """Folder of the set made from ``data``; its name depends on everything that the images depend on.

        This includes the digest of images where the settings of ``data`` do not determine them. It excludes the device:
        like a data set, a set may be made on one machine and used on another.
        """
        return cache / "adversarial" / digest(VERSION, self, data, *data.key())

    def fingerprint(self, data: DataSet, cache: Path) -> str:
        """Digest of the search's samples; the set must exist."""
        return digest(VERSION, stored_checksum(self.folder(data, cache) / "search.safetensors"))

    def former_fingerprints(self, data: DataSet, cache: Path) -> list[str]:
        """Values of ``fingerprint`` in earlier versions, which used the file's bytes, in an order that could differ."""
        return [digest(VERSION, found) for found in former_digests(self.folder(data, cache) / "search.safetensors")]

    def check(self, data: DataSet) -> None:
        """Raise ``ValueError`` where the levels do not fit the images of ``data``."""
        pixels = data.in_shape[1] * data.in_shape[2]
        if "l0" in self.norms and max(self.l0_levels) > pixels:
            raise ValueError(f"expected l0_levels of at most {pixels} pixels on {data.name}, got {max(self.l0_levels)}")

    def build_or_load(
        self,
        data: DataSet,
        cache: Path,
        device: str = "cpu",
        workers: int = 1,
        say: Say = silent,
    ) -> AdversarialImages:
        """The set from the cache, in host memory; it is built first where it is missing.

        If the process is killed and started again, building resumes, and gives the same images for any ``workers``. One
        process builds, and others that need the same set wait for it.

        Args:
            data: data set of the victims' training images and of the source images.
            cache: folder of what later runs reuse.
            device: torch device for training and attacking victims.
            workers: number of processes, one CPU thread each.
            say: called with each line of progress text.

        Raises:
            UserError: no attack succeeded, a file in the cache is damaged, or there are no source images.
        """
        data = data.pinned()
        folder = self.folder(data, cache)
        if not _complete(folder):
            job = _Job(self, data, device, folder)
            job.check()
            build_once(
                folder,
                lambda: _complete(folder),
                lambda: _build(job, workers, say),
                lambda: say(f"another process builds the set in {folder}: waiting for it"),
            )
        images = load(folder)
        if min(len(images.search), len(images.judge)) < FEW:
            say(
                f"warning: the adversarial set has only {len(images.search)} samples for the search and "
                f"{len(images.judge)} for the final evaluation; more sources or higher levels give steadier figures"
            )
        return images


def load(folder: Path) -> AdversarialImages:
    """A set that was built before, in host memory.

    Raises:
        UserError: the set is missing, or a file is damaged.
    """
    if not _complete(folder):
        raise UserError(f"{folder} holds no complete adversarial set: building was interrupted, or files were deleted")
    return AdversarialImages(Samples.read(folder / "search.safetensors"), Samples.read(folder / "judge.safetensors"))


def _check_unique(name: str, values: Sequence[object]) -> None:
    if not values or len(set(values)) < len(values):
        raise ValueError(f"expected at least one of {name}, each once, got {values}")


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


@dataclasses.dataclass(frozen=True)
class _Job:
    """Settings, data and folder of a set to build."""

    settings: AdversarialSet
    data: DataSet
    device: str
    folder: Path

    def check(self) -> None:
        """Raise ``UserError`` where there is no data, or it has no images to attack."""
        for split, name in (("search", "validation"), ("judge", "test")):
            if len(self.sources(split)) == 0:
                raise UserError(f"the adversarial set has no {name} images to attack (data.val_share=0?)")

    def parts(self) -> list[_SetPart]:
        """All attacks in the order of the table; those for the search come before those for the final evaluation."""
        kinds = [(norm, level) for norm in self.settings.norms for level in self.settings.levels(norm)]
        return [
            _SetPart(split, victim, norm, level)
            for split, victim, (norm, level) in itertools.product(("search", "judge"), self.settings.victims, kinds)
        ]

    def victim_file(self, name: str) -> Path:
        """File of a victim's weights."""
        return self.folder / f"victim-{name}.safetensors"

    def part_file(self, part: _SetPart) -> Path:
        """File of a part's samples."""
        name = f"{part.split}-{part.victim}-{part.norm}-{part.level}.safetensors"
        return self.folder / "parts" / name

    def sources(self, split: str) -> Images:
        """Images to attack, on the device: validation images for the search, test images for the final evaluation."""
        splits = self.data.on(self.device)
        images = splits.val if split == "search" else splits.test
        return images.take(slice(self.settings.sources))

    def network(self, name: str) -> nn.Module:
        """A victim with its initial weights, on the device."""
        with fresh_weights(seed_from(self.settings.seed, "weights", name)):
            model = zoo.build(name, self.data.n_classes, self.data.in_shape, width=self.settings.width)
        return model.to(self.device)


@dataclasses.dataclass(frozen=True)
class _SetPart:
    """One attack: a set, a victim, a norm and a level."""

    split: str
    victim: str
    norm: LevelNorm
    level: int


def _build(job: _Job, workers: int, say: Say) -> None:
    """Train the victims, attack them, and put the samples together; finished files are reused."""
    began = time.monotonic()
    (job.folder / "parts").mkdir(exist_ok=True)
    for leftover in job.folder.rglob(".*.safetensors.*"):  # half-written files of a killed process
        leftover.unlink(missing_ok=True)
    say(f"building the adversarial set of {job.data.name} in {job.folder} (once; later runs reuse it)")
    for line in _in_pool([(_victim_task, job, name) for name in job.settings.victims], workers, say):
        say(line)
    cost = _costs(job)
    # the most expensive attacks first, so that workers finish at about the same time
    todo = sorted((part for part in cost if not job.part_file(part).is_file()), key=lambda part: -cost[part])
    progress = _Progress(cost, todo, say)
    for part, line in _in_pool([(_part_task, job, part) for part in todo], workers, say):
        progress.advance(part, line)
    _assemble(job, say)
    seconds = time.monotonic() - began
    _write_settings(job, seconds)
    say(f"adversarial set built in {seconds:.0f} s")


def _in_pool(tasks: Sequence[tuple], workers: int, say: Say) -> Iterator[Any]:
    """Results of tasks ``(function, *arguments)`` as they finish, from this process or from several."""
    with Pool(max(1, min(workers, len(tasks))), say=say) as pool:
        for _, result in pool.run((i, functools.partial(f, *rest)) for i, (f, *rest) in enumerate(tasks)):
            if isinstance(result, Died):
                raise UserError(
                    f"the adversarial set cannot be built: a worker process died twice, the second time "
                    f"{result.reason}; what is finished is kept, and fewer workers need less memory"
                )
            yield result


def _costs(job: _Job) -> dict[_SetPart, float]:
    """Rough relative time of each attack: its victim's forward pass, and less for higher levels, which stop sooner."""
    time_of = {name: _forward_seconds(job, name) for name in job.settings.victims}
    return {part: time_of[part.victim] / (1 + job.settings.levels(part.norm).index(part.level)) for part in job.parts()}


def _forward_seconds(job: _Job, name: str) -> float:
    model = job.network(name).eval()
    x = torch.zeros(64, *job.data.in_shape, device=job.device).contiguous(memory_format=torch.channels_last)
    with fixed_threads(1), torch.inference_mode():
        model(x[:1])  # warm-up: the first pass also prepares memory and kernels
        began = time.perf_counter()
        model(x).sum().item()
        return time.perf_counter() - began


class _Progress:
    """Prints, at most every few seconds, how much is done and how long the rest will take."""

    every = 5.0

    def __init__(self, cost: Mapping[_SetPart, float], todo: Sequence[_SetPart], say: Say) -> None:
        self.cost, self.say = cost, say
        self.left = set(todo)
        self.todo = sum(cost[part] for part in todo)
        self.began = self.said = time.monotonic()
        if len(todo) < len(cost):
            say(f"{len(cost) - len(todo)} of {len(cost)} attacks are done already")

    def advance(self, part: _SetPart, line: str) -> None:
        """Count an attack that is done."""
        self.left.discard(part)
        now = time.monotonic()
        if now - self.said < self.every and self.left:
            return
        self.said = now
        ahead = sum(self.cost[other] for other in self.left)
        seconds = (now - self.began) * ahead / (self.todo - ahead)
        total, done = len(self.cost), len(self.cost) - len(self.left)
        share = 1 - ahead / sum(self.cost.values())
        self.say(f"{line}; {done} of {total} attacks ({share:.0%}), {seconds:.0f} s left")


def _victim_task(job: _Job, name: str) -> str:
    """Train one victim, unless its file exists; returns a line about its accuracy."""
    path = job.victim_file(name)
    with fixed_threads(1):
        if path.is_file():
            return f"victim {name}: trained already"
        model = job.network(name)
        checkpoint = path.with_suffix(".checkpoint")
        splits = job.data.on(job.device)
        seed = seed_from(job.settings.seed, "training", name)
        recipe = job.settings.recipe.for_data(job.data)
        try:
            train(model, splits.train, recipe, job.settings.epochs, seed=seed, checkpoint=checkpoint)
        except TrainingDiverged as reason:
            raise UserError(f"victim {name} of the adversarial set cannot be trained: {reason}") from None
        error = clean_error(model, splits.val)
        write_tensors(path, model.state_dict(), {"victim": name, "clean_error": error})
        checkpoint.unlink(missing_ok=True)
        return f"victim {name}: trained, {1 - error:.1%} accuracy on validation images"


def _part_task(job: _Job, part: _SetPart) -> tuple[_SetPart, str]:
    """Attack one victim at one level, and keep the successful images."""
    settings = job.settings
    with fixed_threads(1):
        model = job.network(part.victim)
        tensors, _ = read_tensors(job.victim_file(part.victim))
        model.load_state_dict(tensors)
        model.eval()
        images = job.sources(part.split)
        indices = correct_mask(model, images).nonzero().squeeze(1)
        chosen = images.take(indices)
        seed = seed_from(settings.seed, part.split, part.victim, part.norm, part.level)
        attack = chz.replace(settings.optimiser, norm=part.norm, level=part.level)
        generator = torch.Generator(job.device).manual_seed(seed)
        result = attack.perturb_levels(model, chosen.floats(), chosen.y, generator)
        kept = result.success.nonzero().squeeze(1)
        adversarial = (result.x_adv[kept] * 255).round().to(torch.uint8)
        queries = int(result.queries.sum())
        row = Row(part.victim, part.norm, part.level, len(indices), len(kept), queries)
        found = Images(adversarial, chosen.y[kept])
        Samples(found, (row,), torch.zeros_like(kept), indices[kept]).write(job.part_file(part))
        return part, f"{part.victim} {part.norm} {part.level}: {row.successes} of {row.attacked} fooled"


def _assemble(job: _Job, say: Say) -> None:
    """Put the parts' samples together.

    Raises:
        UserError: there are no samples.
    """
    found = {}
    for split in ("search", "judge"):
        files = [job.part_file(part) for part in job.parts() if part.split == split]
        found[split] = Samples.joined([Samples.read(file) for file in files])
        if len(found[split]) == 0:
            levels = ", ".join(f"{norm}_levels={job.settings.levels(norm)}" for norm in job.settings.norms)
            raise UserError(
                f"no attack on the victims succeeded ({levels}): raise the levels, or attack more than "
                f"{job.settings.sources} sources"
            )
    images = AdversarialImages(found["search"], found["judge"])
    for split, samples in found.items():
        samples.write(job.folder / f"{split}.safetensors")
    images.write_csv(job.folder / "table.csv")
    for line in images.text().splitlines():
        say(line)


def _write_settings(job: _Job, seconds: float) -> None:
    """Write the settings, for readers of the folder; this last file also marks the set as complete."""
    info = {
        "version": VERSION,
        "data": {"class": job.data.name, **dotted(job.data, identity=True), "content": job.data.digest()},
        "set": dotted(job.settings, identity=True),
        "device": job.device,
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
    }
    with whole_file(job.folder / "settings.json") as temporary:
        temporary.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
