"""The one training loop: seeded, resumable, bounded in time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from evo_robust.data.images import Images
from evo_robust.files import DamagedFile
from evo_robust.inference.checks import check_trainable, checked_images, highest_label
from evo_robust.parts.base import digest, seed_from
from evo_robust.spaces.ops import fit_normalization
from evo_robust.spaces.supernet import Supernet
from evo_robust.training.beside import Choice, Companion
from evo_robust.training.checkpoint import restore, save
from evo_robust.training.epochs import EpochLog
from evo_robust.training.recipes import Recipe
from evo_robust.training.steps import Paths, Run
from evo_robust.training.together import Group


def train(
    model: nn.Module,
    images: Images,
    recipe: Recipe,
    epochs: int,
    *,
    seed: int,
    deadline: float | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[EpochLog], None] | None = None,
    paths: Paths | None = None,
    until: int | None = None,
    companion: Companion | None = None,
    choice: Choice | None = None,
    group: Group | None = None,
) -> list[EpochLog]:
    """Train ``model`` in place and leave it in eval mode.

    The result depends only on the arguments and the number of threads. Torch's global generators, which dropout uses,
    are seeded inside and restored afterwards. A last batch of a single image is left out, since batch normalisation
    needs two.

    Args:
        model: network from images in [0,1] to logits; its ``Normalize`` layers are fitted to ``images``.
        images: training images, at least 2; they may lie on another device than the model.
        recipe: loss, optimiser and augmentation (none where ``recipe.augment`` is None).
        epochs: passes over the images, >= 0.
        seed: seed of batches, augmentation, attacks and dropout, in [0, 2**63).
        deadline: ``time.monotonic()`` value after which training stops.
        checkpoint: file written after each epoch. Where it exists, training resumes from it, and the result is the
            same to the bit as without interruption.
        on_epoch: called after each epoch with its figures.
        paths: for a supernet, the architectures of each step. The recipe attacks each of them separately, and the
            step's gradient is the mean of theirs. Weights that none of them uses do not change, neither by momentum nor
            by weight decay. The paths must depend on the epoch only, or a resumed training gives another result.
        until: stop after this many of the epochs. A later call with the same arguments goes on under the same schedule.
            Needs a ``checkpoint``.
        companion: state that changes together with the weights (``paths`` may move a distribution over architectures);
            it is saved in the checkpoint too.
        choice: looks at the network after each epoch, may end the training early, and may choose the weights of an
            earlier epoch. It is saved in the checkpoint too.
        group: the processes that train this network together, each with the same arguments. A last batch with fewer
            than two images for each of them is left out. The first one writes the checkpoint. Not with ``paths``.

    Returns:
        The figures of all epochs so far, including those before an interruption.

    Raises:
        TrainingDiverged: the loss became NaN or infinite.
        TimeLimit: the deadline passed.
        UserError: the checkpoint is damaged or belongs to another training.
        ValueError: fewer than 2 images; a negative number of epochs; paths for a model that is no supernet, or with a
            recipe that averages weights; ``until`` without a checkpoint, or with a ``choice``; a network without
            trainable weights, or without logits ``(n, classes)``; or labels outside the classes.

    Example:
        >>> data, space = Digits(), NSGAPhases(channels=4)
        >>> model = space.build(space.seeds()[0], data.n_classes, data.in_shape)
        >>> logs = train(model, data.load().train, Standard(), epochs=2, seed=0)
        >>> [log.epoch for log in logs]
        [1, 2]
    """
    device = _check_arguments(model, images, recipe, epochs, seed, paths, group)
    _check_stop(until, checkpoint, choice)
    last = epochs if until is None else min(epochs, until)
    with (
        checked_images(model, images, gradient=True, device=device) as images,
        torch.enable_grad(),
        reproducible(device, seed_from(seed, "layers")),
    ):
        model.to(memory_format=torch.channels_last)
        run = Run(model, images, recipe, seed, paths, choice, group)
        identity = _identity(run, epochs)
        if checkpoint is not None and checkpoint.exists():
            restore(run, checkpoint, identity, companion)
            if len(run.logs) > epochs:
                raise DamagedFile(checkpoint, f"it was written after {len(run.logs)} epochs, more than {epochs}")
        else:
            fit_normalization(model, images.x)
            run.begin_average()
        model.train()
        try:
            for epoch in range(len(run.logs), last):
                if choice is not None and choice.ended:
                    break
                log = run.epoch(epoch, recipe.lr_at(epoch, epochs), deadline)
                if checkpoint is not None and (group is None or group.rank == 0):
                    save(run, checkpoint, identity, companion)
                if on_epoch is not None:
                    on_epoch(log)
            run.take_chosen()
        finally:
            model.eval()
    return run.logs


def _check_arguments(
    model: nn.Module,
    images: Images,
    recipe: Recipe,
    epochs: int,
    seed: int,
    paths: Paths | None,
    group: Group | None,
) -> torch.device:
    """Refuse arguments that cannot be trained with; returns the model's device."""
    if not isinstance(recipe, Recipe):
        raise ValueError(f"expected a recipe, such as PGDTraining(), got {recipe!r}")
    device = check_trainable(model)
    highest_label(images)
    if not isinstance(epochs, int) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"expected whole numbers, epochs and seed in [0, 2**63), got {epochs!r} and {seed!r}")
    if len(images) < 2 or epochs < 0:
        raise ValueError(f"expected at least 2 images and epochs >= 0, got {len(images)} and {epochs}")
    if paths is not None and not isinstance(model, Supernet):
        raise ValueError(f"expected a supernet where paths are given, got {type(model).__name__}")
    if paths is not None and group is not None:
        raise ValueError("expected one process for a supernet, got a group of several")
    if paths is not None and recipe.ema is not None:
        raise ValueError(f"expected no average of a supernet's weights, got ema={recipe.ema}")
    return device


def _check_stop(until: int | None, checkpoint: Path | None, choice: Choice | None) -> None:
    """Refuse a stop that no later call could go on from."""
    if until is not None and (checkpoint is None or choice is not None):
        wrong = "until without one" if checkpoint is None else "until with a choice of weights"
        raise ValueError(f"expected a checkpoint where training stops early, got {wrong}")


def _identity(run: Run, epochs: int) -> str:
    """Digest of what a checkpoint must have in common with a training that goes on from it."""
    shapes = [(k, list(v.shape)) for k, v in run.model.state_dict().items()]
    chosen = [] if run.choice is None else [run.choice.identity]
    identity = digest(run.recipe, epochs, run.seed, len(run.images), shapes, *chosen)
    return identity if run.group is None else digest(identity, "processes", run.group.size)


@contextlib.contextmanager
def reproducible(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's global generators and choose deterministic convolutions; on leaving, restore both."""
    cuda = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(cuda),
        torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled,
            benchmark=False,
            deterministic=True,
            allow_tf32=torch.backends.cudnn.allow_tf32,
        ),
    ):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
