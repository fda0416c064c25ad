"""Weights of a run's networks, made again as in the search: no candidate's are kept."""

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
    """A run as far as weights need it."""

    @property
    def folder(self) -> Path:
        """Where it is."""

    @property
    def info(self) -> Mapping[str, Any]:
        """``problem.json``."""

    @property
    def problem(self) -> Problem:
        """What was searched."""


def rebuild(run: Searched, row: Mapping[str, Any], device: str = "auto", say: Say = silent) -> tuple[nn.Module, str]:
    """The network of a ledger row with the weights it had in the search, in eval mode, and what it shares with others.

    A candidate's weights come from the seeds of problem and evaluator, its architecture and the supernet where it
    inherits from one, so they are made again rather than kept for every candidate. The supernet is that of the
    search's kind of device, whatever device computes now.

    Args:
        run: the run.
        row: one of its evaluations.
        device: where to compute: ``auto`` (as the search, where that is at hand), ``cpu``, ``cuda`` or ``cuda:INDEX``.
        say: takes one line of progress text.

    Returns:
        The network, and the digest of the weights that candidates share; empty where they share none.

    Raises:
        UserError: the evaluator cannot give weights, the device is absent, or the supernet is gone and cannot be
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
    """The run's data set with the images it was searched on, and no others, where its record tells which they are."""
    data = run.problem.data
    if data.content == "" or (data.content is None and data.digest()):
        say(
            f"warning: {run.folder} was begun before images were checked: whether those of data={data.name} are the "
            "ones it was searched on cannot be verified"
        )
    # without a digest caches are found under the names of that time
    return chz.replace(data, content=data.content or "")


def _device(searched_on: str, device: str) -> str:
    """The device asked for; ``auto`` is that of the search, where it is at hand."""
    if device != "auto":
        return choose_device(device)
    try:
        return choose_device(searched_on)
    except UserError:
        return choose_device("auto")
