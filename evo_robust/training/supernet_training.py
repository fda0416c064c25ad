"""Adversarial training of a supernet, with random paths; its weights are kept, and candidates inherit them.

RobNet (Guo et al., CVPR 2020, §3.2): each batch draws a random α (path dropout). Adversarial examples are made for that
sub-network, which is then trained on them. The paper does not say with what probability an operation is drawn.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import chz
import numpy as np
import torch

from evo_robust.data.base import DataSet
from evo_robust.device import MOST_THREADS, fixed_threads
from evo_robust.files import build_once, read_tensors, stored_checksum, write_json, write_tensors
from evo_robust.parts.base import Part, UserError, digest, dotted, refuse_unless, seed_from
from evo_robust.progress import Say, silent
from evo_robust.spaces.base import Architecture, SearchSpace
from evo_robust.spaces.supernet import Supernet
from evo_robust.training.learning_curve import LearningCurve
from evo_robust.training.loop import train
from evo_robust.training.recipes import PGDTraining, Recipe
from evo_robust.training.steps import TrainingDiverged
from evo_robust.training.weights import fresh_weights

VERSION = 1
"""Increased when a change of code changes the weights, so that old supernets are not used as new ones."""

FILE = "supernet.safetensors"
_CHECKPOINT = "checkpoint.safetensors"


@chz.chz
class SupernetTraining(Part):
    """How the weights that candidates share are trained.

    Only training images are used, never the images that candidates are evaluated on.
    """

    epochs: int = chz.field(default=50, doc="passes over the training images, >= 1")
    recipe: Recipe = chz.field(
        default_factory=lambda: PGDTraining(
            lr=0.05, momentum=0.9, weight_decay=1e-4, batch_size=64, clip=5.0, decay_bn=False
        ),
        blueprint_unspecified=PGDTraining,
        doc="loss, attack and optimiser; each path's adversarial images are made for that path",
    )
    sampling: Literal["uniform", "progressive", "two_ended"] = chz.field(
        default="uniform",
        doc="paths of a step: uniform (a random one); progressive (a random one; the probability of an operation falls "
        "from 1 to `keep` over the first half of the epochs); two_ended (the largest, a smallest and a random one)",
    )
    keep: float = chz.field(default=0.5, doc="probability in (0,1] that an operation stays in a random path")
    threads: int = chz.field(default=2, doc="CPU threads, >= 1; another number changes the last bits of the weights")
    seed: int = chz.field(default=0, doc="seed of initial weights, paths, batches and attacks, >= 0")

    @chz.validate
    def _ranges(self) -> None:
        refuse_unless(
            self,
            ("epochs", self.epochs >= 1, ">= 1"),
            ("keep", 0 < self.keep <= 1, "in (0,1]"),
            ("threads", self.threads >= 1, ">= 1"),
            ("threads", self.threads <= MOST_THREADS, f"<= {MOST_THREADS}"),
            ("seed", self.seed >= 0, ">= 0"),
        )

    def check(self, space: SearchSpace, data: DataSet) -> None:
        """Raise ``ValueError`` where ``space`` has no supernet."""
        if not space.shares_weights:
            raise ValueError(f"expected a space that shares weights, such as RobNet, got {type(space).__name__}")

    def keep_at(self, epoch: int) -> float:
        """Probability that an operation stays in a random path of an epoch, counted from 0."""
        if self.sampling != "progressive":
            return self.keep
        return 1 - (1 - self.keep) * min(1.0, 2 * epoch / self.epochs)

    def paths(self, space: SearchSpace, epoch: int) -> Iterator[tuple[Architecture, ...]]:
        """Architectures of each step of an epoch, counted from 0; the same on every call, endless."""
        rng = np.random.default_rng(seed_from(self.seed, "paths", epoch))
        keep = self.keep_at(epoch)
        while True:
            if self.sampling == "two_ended":
                yield space.largest(), space.draw_smallest(rng), space.draw_path(rng, keep)
            else:
                yield (space.draw_path(rng, keep),)

    def folder(self, space: SearchSpace, data: DataSet, cache: Path, device: str) -> Path:
        """The supernet's folder; its name depends on everything that the weights depend on.

        This includes the kind of device (``cuda:0`` and ``cuda:1`` are one kind). It excludes settings of the space
        that concern only how genomes are read, or the training after the search.
        """
        kind = torch.device(device).type
        return cache / "supernets" / digest(VERSION, self, _identity(space, data), data, kind, *data.key())

    def fingerprint(self, space: SearchSpace, data: DataSet, cache: Path, device: str) -> str:
        """Digest of the weights. They must be in the cache, so call ``build_or_load`` first.

        Raises:
            UserError: the supernet is missing or damaged.
        """
        return digest(VERSION, stored_checksum(self.folder(space, data, cache, device) / FILE))

    def build_or_load(
        self, space: SearchSpace, data: DataSet, cache: Path, device: str = "cpu", say: Say = silent
    ) -> Path:
        """The file with the trained supernet's weights, verified; the supernet is trained first where it is missing.

        If the process is killed and started again, training resumes after the last whole epoch. It ends with the same
        weights to the bit. One process trains, and others that need the same supernet wait for it. The folder also gets
        ``learning_curve.csv``, rewritten after each epoch, ``learning_curve.png`` and ``settings.json``.

        Args:
            space: a space that shares weights.
            data: the data set; only its training images are used.
            cache: folder of what later runs reuse.
            device: torch device to train on.
            say: called with each line of progress text.

        Raises:
            ValueError: the space shares no weights.
            UserError: training diverged, or a file in the cache is damaged.
        """
        self.check(space, data)
        data = data.pinned()
        folder = self.folder(space, data, cache, device)
        file = folder / FILE
        with fixed_threads(self.threads):
            build_once(
                folder,
                file.is_file,
                lambda: _build(self, space, data, folder, device, say),
                lambda: say(f"another process trains the supernet in {folder}: waiting for it"),
            )
        read_tensors(file)
        if (folder / _CHECKPOINT).exists():  # left by a process that was killed between the last two steps
            (folder / _CHECKPOINT).unlink(missing_ok=True)
        return file


def _identity(space: SearchSpace, data: DataSet) -> list[Any]:
    """What the supernet and its paths depend on: the network's arguments, where the space gives them."""
    largest = space.largest()
    arguments = space.supernet_arguments(data.n_classes, data.in_shape)
    if arguments is None:
        arguments = space.network_arguments(largest, data.n_classes, data.in_shape)
    if arguments is None:
        return [type(space).__name__, space]
    # the text shows whether cells share their description; the arguments of a network do not
    return [type(space).__name__, space.to_text(largest), arguments]


def _build(settings: SupernetTraining, space: SearchSpace, data: DataSet, folder: Path, device: str, say: Say) -> None:
    """Train the supernet, or resume its training, and write all files of its folder."""
    for leftover in folder.glob(".*.*.*"):  # half-written files of a killed process
        leftover.unlink(missing_ok=True)
    began = time.monotonic()
    checkpoint = folder / _CHECKPOINT
    info = {
        "version": VERSION,
        "supernet": dotted(settings, identity=True),
        "space": {"class": type(space).__name__, **dotted(space, identity=True)},
        "data": {"class": data.name, **dotted(data, identity=True), "content": data.digest()},
        "device": torch.device(device).type,
        "torch": torch.__version__,
    }
    write_json(folder / "settings.json", info)
    say(f"training the supernet of {type(space).__name__} on {data.name} in {folder} (once; later runs reuse it)")
    curve = LearningCurve(folder, settings.epochs, say, checkpoint)
    curve.tell_start()
    model = initial_supernet(settings, space, data).to(device)
    try:
        logs = train(
            model,
            data.load().train.to(device),
            settings.recipe.for_data(data),
            settings.epochs,
            seed=seed_from(settings.seed, "training"),
            checkpoint=checkpoint,
            on_epoch=curve.add,
            paths=functools.partial(settings.paths, space),
        )
    except TrainingDiverged as reason:
        raise UserError(f"the supernet cannot be trained with recipe.lr={settings.recipe.lr}: {reason}") from None
    sampling = f"{settings.sampling.replace('_', '-')} paths, operations kept with probability {settings.keep:g}"
    curve.draw(settings.recipe, space, data, sampling)
    write_tensors(folder / FILE, model.state_dict(), {**info, "train_error": logs[-1].train_error})
    checkpoint.unlink(missing_ok=True)  # another process may have removed it already
    say(f"supernet trained in {time.monotonic() - began:.0f} s, training error {logs[-1].train_error:.1%}")


def initial_supernet(settings: SupernetTraining, space: SearchSpace, data: DataSet) -> Supernet:
    """The supernet with its initial weights, on the CPU."""
    with fresh_weights(seed_from(settings.seed, "weights")):
        return space.supernet(data.n_classes, data.in_shape)
