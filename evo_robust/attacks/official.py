"""The official AutoAttack, by its authors' own code: what other attacks are measured against."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
from collections.abc import Iterator

import chz
import torch
from torch import Tensor, nn

from evo_robust.attacks.base import Attack, Threat, check_norm
from evo_robust.attacks.calls import checked
from evo_robust.inference.predictions import eval_mode, undisturbed

LEAST_CLASSES = 10
"""Least number of classes: the standard version aims at nine wrong ones."""

_NORMS = {"linf": "Linf", "l2": "L2"}


@chz.chz
class AutoAttack(Attack):
    """The standard version of AutoAttack (Croce & Hein, 2020) as its authors run it, from the package ``pyautoattack``.

    APGD on the cross-entropy, targeted APGD, targeted FAB and Square, each on what the ones before have left. It needs
    the extra ``judge``. It is slow: ours (:class:`evo_robust.attacks.auto.APGD` and others) cost a part of its time.
    """

    def check(self, threat: Threat, in_shape: tuple[int, int, int], key: str = "") -> None:
        """See :meth:`Attack.check`: the package must be there."""
        check_norm(threat.norm)
        _expect_package()

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
        """See :meth:`Attack.perturb`; a model in train mode is attacked in eval mode.

        The seed of all its random numbers is drawn from ``generator``; torch's own generators stay as they are.

        Raises:
            ValueError: the package ``pyautoattack`` is missing, the network has fewer than ten classes or no gradient,
                or the arguments are not as said.
        """
        _expect_package()
        with checked(model, x, y, generator=generator, threat=threat, gradient=True) as (x, y):
            if len(x) == 0:
                return x
            with eval_mode(model), undisturbed(model), torch.no_grad():
                _expect_classes(model(x[:2]).shape[1])
                seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
                return _run(model, x, y, threat, seed)


def _run(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, seed: int) -> Tensor:
    from pyautoattack import AutoAttack as Official

    with _quiet(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        official = Official(
            model, norm=_NORMS[threat.norm], eps=float(threat.eps), seed=seed, version="standard", device=x.device
        )
        found: Tensor = official.run_standard_evaluation(x.contiguous(), y, batch_size=len(x))[0]
    return found.detach().to(x)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without its warnings, which the judge tells in its own words; and a debugger goes on tracing afterwards."""
    logger, trace = logging.getLogger("auto-attack"), sys.gettrace()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        sys.settrace(trace)


def _expect_package() -> None:
    if importlib.util.find_spec("pyautoattack") is None:
        raise ValueError(
            "expected the package pyautoattack for the official AutoAttack, which is not installed: "
            "pip install 'evo_robust[judge]' (or pip install pyautoattack==0.2.0); attacks=compact needs none"
        )


def _expect_classes(n_classes: int) -> None:
    if n_classes < LEAST_CLASSES:
        raise ValueError(
            f"expected {LEAST_CLASSES} classes or more for the official AutoAttack, which aims at nine wrong ones, got "
            f"{n_classes}: attacks=compact takes any number"
        )
