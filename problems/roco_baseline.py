"""Baseline of RoCo-NAS: the same search for accuracy and FLOPs alone.

The error on the adversarial set is recorded, as for the paper's Table III. It is not minimised.
"""

import chz

from evo_robust import Problem, load


def _accuracy_and_flops(problem: Problem) -> Problem:
    clean, transfer, flops = problem.objectives
    return chz.replace(problem, objectives=(clean, flops), recorded=(transfer,))


paper = _accuracy_and_flops(load("roco", "paper"))
demo = _accuracy_and_flops(load("roco", "demo"))
