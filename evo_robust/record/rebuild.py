"""Weights of a run's networks, made again as in the search, which keeps none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import chz
from torch import nn

from evo_robust.data.base import DataSet
from evo_robust.device import choose_device
from evo_robust.files import cache_folder
from evo_robust.objectives.base import Context
from evo_robust.parts.base import UserError
from evo_robust.problem.value import Problem
from evo_robust.progress import Say, silent


class Searched(Protocol):
    """What rebuilding weights needs of a run."""

    @property
    def folder(self) -> Path:
        """The run folder."""

    @property
    def info(self) -> Mapping[str, Any]:
        """``problem.json``."""

    @property
    def problem(self) -> Problem:
        """The problem that was searched."""


def rebuild(run: Searched, row: Mapping[str, Any], device: str = "auto", say: Say = silent) -> tuple[nn.Module, str]:
    """The network of a ledger row with the weights it had in the search, in eval mode.

    A candidate's weights follow from the seeds of problem and evaluator, from its architecture, and from the supernet
    where it inherits from one. So they are not kept, but made again. The supernet is the one of the kind of device
    that the search ran on, whatever device computes now.

    Args:
        run: the run.
        row: one of its evaluations.
        device: where to compute: ``auto`` (as the search did, if possible), ``cpu``, ``cuda`` or ``cuda:INDEX``.
        say: called with each line of progress text.

    Returns:
        The network, and the digest of the weights that candidates share; empty where they share none.

    Raises:
        UserError: the evaluator cannot give weights, the device is absent, or the supernet is lost and cannot be
            trained again here.
    """
    problem, searched_on = run.problem, run.info.get("device")
    context = Context(
        space=problem.space,
        data=_images(run, say),
        seed=problem.seed,
        device=_device(searched_on or "auto", device),
        workers=1,
        cache=cache_folder(),
        say=say,
        shared_from=searched_on.partition(":")[0] if searched_on else None,
    )
    architecture = problem.space.from_text(row["architecture"])
    return problem.evaluator.network_again(context, architecture, row["generation"], run.folder)


def _images(run: Searched, say: Say) -> DataSet:
    """The run's data set, tied to the images of the search where its record says which they are."""
    data = run.problem.data
    if data.content == "" or (data.content is None and data.digest()):
        say(
            f"warning: {run.folder} was begun before images were checked. That data={data.name} still has the images "
            "of that search cannot be verified"
        )
    # runs of that time used cache names without a digest of images
    return chz.replace(data, content=data.content or "")


def _device(searched_on: str, device: str) -> str:
    """The device asked for; ``auto`` is that of the search, if this machine has it."""
    if device != "auto":
        return choose_device(device)
    try:
        return choose_device(searched_on)
    except UserError:
        return choose_device("auto")
