"""Search neural networks that are accurate, hard to fool and cheap, all at once.

A problem is a value made of the parts below; ``load`` finds one by name, ``search`` searches it.

Example:
    >>> run = search(load("roco"), "runs/x", progress=True)  # minutes on two cores; goes on where it stopped
    >>> run.table()                                          # the front as plain records
    >>> model = run.network("knee")                          # an nn.Module in eval mode, with its weights
"""

from evo_robust import signals as _signals  # noqa: F401 (before what takes seconds to import)

# isort: split
from evo_robust.commands.version import version as _version
from evo_robust.parts.typed import runs_no_command as _runs_no_command

if not _runs_no_command():  # its version and its errors need not wait for torch
    from evo_robust import zoo
    from evo_robust.adversarial_set.making import AdversarialSet
    from evo_robust.algorithms.base import Algorithm
    from evo_robust.algorithms.evolution import NSGA2, NSGA3, Genetic
    from evo_robust.algorithms.hybrid import GradientHybrid
    from evo_robust.algorithms.random import RandomSearch
    from evo_robust.attacks.auto import APGD
    from evo_robust.attacks.base import Attack, Threat
    from evo_robust.attacks.gradient import BIM, FGSM, MIFGSM, PGD
    from evo_robust.attacks.level.attack import CMAES, DE
    from evo_robust.attacks.level.sigma_zero import SigmaZero
    from evo_robust.attacks.minimum.carlini_wagner import CarliniWagner
    from evo_robust.attacks.minimum.deepfool import DeepFool
    from evo_robust.attacks.minimum.fmn import FMN
    from evo_robust.attacks.official import AutoAttack
    from evo_robust.attacks.square import Square
    from evo_robust.commands.cli import command
    from evo_robust.data.base import DataSet
    from evo_robust.data.images import Augment, Images
    from evo_robust.data.sets import CIFAR10, CIFAR100, MNIST, SVHN, Digits, FashionMNIST, ImageNet, TinyImageNet
    from evo_robust.distributions import Distribution, GumbelSoftmax, LogNormal
    from evo_robust.estimators import (
        AttentionANE,
        AverageANE,
        LossTraining,
        MapANE,
        MapAttentionANE,
        NoiseTraining,
        SearchLoss,
        Strengths,
    )
    from evo_robust.evaluators.base import Evaluator
    from evo_robust.evaluators.candidates import build_candidate, candidate_seed
    from evo_robust.evaluators.co_trained import CoTrained
    from evo_robust.evaluators.from_scratch import FromScratch
    from evo_robust.evaluators.jobs import Stage
    from evo_robust.evaluators.one_shot import OneShot
    from evo_robust.evaluators.pool import PooledEvaluator
    from evo_robust.gradients import ArchitectureGradient, Confidence, EstimatedLoss, SupernetLoss
    from evo_robust.judging.asked import judge_networks
    from evo_robust.judging.judgement import Judgement
    from evo_robust.objectives.base import Candidate, Context, Objective
    from evo_robust.objectives.combined import WeightedSum
    from evo_robust.objectives.constraints import Constraint, Gate, LogConstraint, LogGate
    from evo_robust.objectives.cost import Flops, Params
    from evo_robust.objectives.errors import CleanError, RobustError
    from evo_robust.objectives.fsp import FSPDistance
    from evo_robust.objectives.lipschitz import LipschitzBound, LipschitzConfidence
    from evo_robust.objectives.robust_loss import RobustLoss
    from evo_robust.objectives.transfer import TransferError
    from evo_robust.parts import facts
    from evo_robust.parts.base import Part, UserError
    from evo_robust.parts.facts import Fact
    from evo_robust.parts.making import parse
    from evo_robust.problem.files import load
    from evo_robust.problem.value import Problem
    from evo_robust.record.reading import load_run
    from evo_robust.record.run import Run
    from evo_robust.search import pymoo_problem, search
    from evo_robust.spaces import DARTS, OPERATIONS, GenomeSpace, NSGAPhases, RobNet, SearchSpace
    from evo_robust.spaces.base import InvalidArchitecture
    from evo_robust.training.loop import train
    from evo_robust.training.recipes import TRADES, FastTraining, MultiStrengthTraining, PGDTraining, Recipe, Standard
    from evo_robust.training.supernet_training import SupernetTraining

__all__ = [
    "AttentionANE",
    "APGD",
    "AdversarialSet",
    "Algorithm",
    "ArchitectureGradient",
    "Attack",
    "Augment",
    "AutoAttack",
    "BIM",
    "CIFAR10",
    "CIFAR100",
    "CMAES",
    "Candidate",
    "CarliniWagner",
    "CleanError",
    "CoTrained",
    "Confidence",
    "Constraint",
    "Context",
    "DARTS",
    "DE",
    "DataSet",
    "DeepFool",
    "Digits",
    "Distribution",
    "MapAttentionANE",
    "MapANE",
    "EstimatedLoss",
    "Evaluator",
    "FGSM",
    "FMN",
    "FSPDistance",
    "Fact",
    "FashionMNIST",
    "FastTraining",
    "Flops",
    "FromScratch",
    "Gate",
    "GenomeSpace",
    "Genetic",
    "GradientHybrid",
    "GumbelSoftmax",
    "ImageNet",
    "Images",
    "InvalidArchitecture",
    "Judgement",
    "LipschitzBound",
    "LipschitzConfidence",
    "LogConstraint",
    "LogGate",
    "LogNormal",
    "LossTraining",
    "MIFGSM",
    "MNIST",
    "NSGA2",
    "NSGA3",
    "MultiStrengthTraining",
    "NSGAPhases",
    "OPERATIONS",
    "NoiseTraining",
    "Objective",
    "OneShot",
    "PGD",
    "PGDTraining",
    "Params",
    "Part",
    "PooledEvaluator",
    "Problem",
    "RandomSearch",
    "Recipe",
    "RobNet",
    "RobustError",
    "RobustLoss",
    "Run",
    "SVHN",
    "SearchLoss",
    "SearchSpace",
    "SigmaZero",
    "Square",
    "Stage",
    "Standard",
    "Strengths",
    "SupernetLoss",
    "SupernetTraining",
    "TRADES",
    "Threat",
    "TinyImageNet",
    "TransferError",
    "AverageANE",
    "UserError",
    "WeightedSum",
    "__version__",
    "build_candidate",
    "candidate_seed",
    "command",
    "facts",
    "judge_networks",
    "load",
    "load_run",
    "parse",
    "pymoo_problem",
    "search",
    "train",
    "zoo",
]

__version__ = _version()


def __getattr__(name: str) -> object:
    """A part under the name that it had before."""
    from evo_robust.parts.base import FORMER_NAMES

    for present, former in FORMER_NAMES.items():
        if name == former:
            return globals()[present]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
