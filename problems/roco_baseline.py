"""Baseline of RoCo-NAS: the same search for accuracy and FLOPs alone, without adversarial images."""

import chz

from evo_robust import CleanError, Flops, load

_objectives = (CleanError(), Flops())

paper = chz.replace(load("roco", "paper"), objectives=_objectives)
demo = chz.replace(load("roco", "demo"), objectives=_objectives)
