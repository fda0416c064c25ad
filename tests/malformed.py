"""Commands that nobody can mean, each with what the one message about it must name.

Words in braces stand for what a test makes: ``{run}`` and ``{other}`` are run folders, ``{retrained}`` the folder of a
retraining, ``{genotype}`` a genotype file, ``{file}`` a file and ``{nowhere}`` a path where nothing is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

LONG = "x" * 300
BEYOND = "9" * 20
ENDLESS = "9" * 5000


class Command(NamedTuple):
    """A command line: the command's name, its arguments, and what the message must hold."""

    name: str
    arguments: tuple[str, ...]
    said: str


# run: keys of the command itself

_RUN_OPTIONS = [
    ("problem=rocco", "'rocco': did you mean 'roco'"),
    ("problem=", "problem="),
    ("problem={nowhere}.py", "no problem file"),
    ("problem={file}.py", "no problem file"),
    (f"problem={LONG}", "problem="),
    ("scale=tiny", "unknown scale 'tiny'"),
    ("scale=", "scale="),
    ("scale=DEM", "did you mean 'demo'"),
    ("out=", "out="),
    ("out= ", "out= "),
    (f"out={LONG}", "at most 255 bytes, got one of 300"),
    (f"out=runs/{'ä' * 150}", "at most 255 bytes, got one of 300"),
    (f"out={'x/' * 2500}", "less than 4096 bytes"),
    ("out={file}", "file"),
    ("out={file}/below", "file"),
    ("out={folder}", "holds other files"),
    ("device=", "device="),
    ("device=tpu", "device=tpu"),
    ("device=cpu:7", "device=cpu:7"),
    ("device=cpu:0", "device=cpu:0"),
    ("device=cuda:", "device=cuda:"),
    ("device=cuda:-1", "device=cuda:-1"),
    ("device=cuda:٣", "device=cuda:٣"),
    ("device=cuda:99", "device=cuda:99"),
    (f"device=cuda:{BEYOND}", "device=cuda:9"),
    ("device=meta", "device=meta"),
    ("device=GPU", "device=GPU"),
    ("workers=0", "workers >= 1, got 0"),
    ("workers=-3", "workers >= 1, got -3"),
    (f"workers={BEYOND}", "whole number or None of at most"),
    ("workers=1025", "workers <= 1024"),
    ("workers=1.5", "workers=1.5"),
    ("workers=two", "workers=two"),
    ("workers=٣", "workers=٣"),
    ("workers=", "workers="),
    ("workers=nan", "workers=nan"),
    ("workers=inf", "workers=inf"),
    (f"workers={ENDLESS}", "workers=9"),
    ("plot=perhaps", "plot=perhaps"),
    ("plot=", "plot="),
]

_RUN_MISSPELT = [
    ("worker=1", "did you mean 'workers'"),
    ("devise=cpu", "did you mean 'device'"),
    ("Seed=1", "'seed'"),
    ("algorithm.popsize=4", "'algorithm.pop_size'"),
    ("algoritm.pop_size=4", "'algorithm.pop_size'"),
    ("algorithm.generations=4", "algorithm.generations"),
    ("evaluator.epoch=4", "'evaluator.epochs'"),
    ("evaluator.recipe.learning_rate=.1", "learning_rate"),
    ("evaluator.recipe.lr.value=.1", "evaluator.recipe.lr.value"),
    ("data.val_shar=.1", "'data.val_share'"),
    ("data.train=5", "data.train"),
    ("space.node=4", "'space.nodes'"),
    ("objectives.0.name=x", "objectives.0.name"),
    ("objectives.1.rules=thop", "'objectives.1.rule'"),
    ("objective=CleanError", "'objectives'"),
    ("space..nodes=4", "space..nodes"),
    (".seed=4", ".seed"),
    ("...lr=4", "...lr"),
    ("--workers=1", "--workers"),
    ("-seed=1", "-seed"),
    ("ſeed=1", "ſeed"),
    ("seed =1", "'seed '"),
    ("epochs=3", "epochs"),
    ("lr=inf", "lr"),
]

_RUN_SHAPELESS = [
    (("seed",), "expected key=value, got 'seed'"),
    (("=1",), "expected key=value, got '=1'"),
    (("",), "expected key=value, got ''"),
    (("--seed", "1"), "expected key=value, got '--seed'"),
    (("seed=1", "seed=2"), "seed is given twice"),
    (("seed=1", "seed=1"), "seed is given twice"),
    (("out={nowhere}", "out={nowhere}"), "out is given twice"),
    (("workers=1", "workers=2"), "workers is given twice"),
]

# run: every kind of value where another is expected

_WHOLE = ("seed", "algorithm.pop_size", "algorithm.n_gen", "evaluator.epochs", "evaluator.threads", "evaluator.seed",
          "data.train_limit", "data.split_seed", "space.phases", "space.nodes", "space.channels",
          "evaluator.recipe.batch_size", "evaluator.recipe.warmup")  # fmt: skip
_NO_WHOLE = ("many", "1.5", "٣", "nan", "-1")
_NUMBERS = ("data.val_share", "evaluator.time_limit", "evaluator.recipe.lr", "evaluator.recipe.lr_end",
            "evaluator.recipe.momentum", "evaluator.recipe.weight_decay", "evaluator.recipe.clip",
            "algorithm.crossover_prob")  # fmt: skip
_NO_NUMBER = ("much", "nan", "inf", "-inf", "1e999", "-1", "٠.٥")
_WORDS = ("space.decoder", "space.all_inactive", "objectives.1.rule", "evaluator.recipe.schedule",
          "evaluator.recipe.precision", "algorithm.crossover", "algorithm.mutation", "evaluator.backend")  # fmt: skip
_NO_WORD = ("other", "", "1")
_FLAGS = ("data.download", "evaluator.recipe.nesterov", "evaluator.recipe.decay_bn", "algorithm.seeded")
_NO_FLAG = ("maybe", "", "2")
_EMPTY = ("seed", "algorithm.pop_size", "evaluator.recipe.lr", "data.val_share", "space.nodes")


def _wrong_values() -> Iterator[tuple[str, str]]:
    for keys, values in ((_WHOLE, _NO_WHOLE), (_NUMBERS, _NO_NUMBER), (_WORDS, _NO_WORD), (_FLAGS, _NO_FLAG)):
        for key in keys:
            for value in values:
                # messages name a field as it was typed, or by the part that it belongs to
                yield f"{key}={value}", key.rpartition(".")[2]
    for key in _EMPTY:
        yield f"{key}=", key.rpartition(".")[2]


_RUN_RANGES = [
    ("algorithm.pop_size=0", "pop_size"),
    ("algorithm.n_gen=0", "n_gen"),
    (f"algorithm.pop_size={10**9}", "pop_size"),
    (f"evaluator.threads={10**6}", "threads"),
    ("evaluator.threads=0", "threads"),
    ("evaluator.time_limit=0", "time_limit"),
    ("evaluator.recipe.lr=0", "lr"),
    ("evaluator.recipe.batch_size=0", "batch_size"),
    ("evaluator.recipe.momentum=2", "momentum"),
    ("data.val_share=0", "val_share"),
    ("data.val_share=1", "val_share"),
    ("data.train_limit=0", "train_limit"),
    ("space.phases=0", "phases"),
    ("space.nodes=0", "nodes"),
    ("space.nodes=1000", "nodes"),
    (f"space.nodes={BEYOND}", "nodes"),
    ("space.channels=0", "channels"),
    (f"space.channels={10**9}", "channels"),
    (f"space.phases={10**9}", "phases"),
    ("algorithm.crossover_prob=1.5", "crossover_prob"),
    (f"seed={ENDLESS}", "seed"),
    ("evaluator.recipe.lr=1/0", "lr"),
]

# run: parts

_RUN_PARTS = [
    (("algorithm=NSGA4",), "NSGA"),
    (("algorithm=Algorithm",), "Algorithm is a base"),
    (("algorithm=",), "algorithm="),
    (("algorithm=os:system",), "os:system"),
    (("algorithm=Flops",), "Flops"),
    (("evaluator=Evaluator",), "Evaluator is a base"),
    (("evaluator=OneShot",), "NSGAPhases"),
    (("evaluator=FromScratsh",), "'FromScratch'"),
    (("evaluator.recipe=Recipe",), "Recipe"),
    (("evaluator.recipe=pgdd",), "'pgd'"),
    (("space=SearchSpace",), "SearchSpace is a base"),
    (("space=RobNett",), "'RobNet'"),
    (("space=RobNet", "space.phases=2"), "space.phases"),
    (("data=Mnist",), "MNIST"),
    (("data=DataSet",), "DataSet is a base"),
    (("objectives=",), "objective"),
    (("objectives=CleanEror,Flops",), "'CleanError'"),
    (("objectives=Objective",), "Objective is a base"),
    (("objectives=Flops,Flops",), "'flops' twice"),
    (("objectives.5=Params",), "expected objectives.2"),
    (("objectives.1=Params", "objectives.1.rule=thop"), "objectives.1.rule"),
    (("objectives.-1=Params",), "objectives.-1"),
    (("objectives.one=Params",), "objectives.one"),
    (("objectives.٣=Params",), "objectives.٣"),
    (("objectives.01=Params",), "objectives.01"),
    (("recorded.3=Params",), "expected recorded."),
    (("constraints.1=Constraint", "constraints.1.of=Flops", "constraints.1.at_most=5"), "expected constraints.0"),
    (("constraints.0=Constraint", "constraints.0.of=Flops"), "at_most"),
    (("constraints.0=Constraint", "constraints.0.at_most=5"), "constraints.0.of"),
    (("constraints.0=Constraint", "constraints.0.of=Flops", "constraints.0.at_most=inf"), "at_most"),
    (("constraints.0=Constraint", "constraints.0.of=Flops", "constraints.0.at_most=nan"), "at_most"),
    (("constraints.0=Constraint", "constraints.0.of=Flops", "constraints.0.at_most=much"), "at_most"),
    (("constraints.0=Gate", "constraints.0.of=CleanError"), "clean_error"),
    (("objectives=RobustError,Flops", "objectives.0.attack=Attack"), "Attack is a base"),
    (("objectives=RobustError,Flops", "objectives.0.attack=DeepFoul"), "did you mean 'DeepFool'"),
    (("objectives=RobustError,Flops", "objectives.0.norm=Linf"), "linf"),
    (("objectives=RobustError,Flops", "objectives.0.norm=l7"), "norm"),
    (("objectives=RobustError,Flops", "objectives.0.eps=0"), "eps"),
    (("objectives=RobustError,Flops", "objectives.0.eps=-8/255"), "eps"),
    (("objectives=RobustError,Flops", "objectives.0.eps=8/0"), "eps"),
    (("objectives=RobustError,Flops", "objectives.0.eps=0.1,0.05"), "eps"),
    (("objectives=RobustError,Flops", "objectives.0.eps=0.1,,0.2"), "eps"),
    (("objectives=RobustError,Flops", "objectives.0.eps="), "eps"),
    (("objectives=RobustError,Flops", "objectives.0.eps=8"), "eps"),
    (("objectives=RobustError,Flops", "objectives.0.eps=inf"), "eps"),
    (("objectives=RobustError,Flops", "objectives.0.attack.steps=0"), "steps"),
    (("objectives=RobustError,Flops", "objectives.0.attack.step=inf"), "step"),
    (("objectives=RobustError,Flops", "objectives.0.attack.restarts=0"), "restarts"),
    (("objectives=RobustError,Flops", "objectives.0.attack.loss=hinge"), "loss"),
    (("data=CIFAR10", "data.root={nowhere}", "data.download=false"), "nowhere"),
    (("data=CIFAR10", "data.root={file}", "data.download=false"), "file"),
    (("data=ImageNet",), "root"),
    (("data=ImageNet", "data.root={nowhere}"), "nowhere"),
    (("data=ImageNet", "data.root={folder}"), "folder"),
]
_OTHER_PROBLEMS = [
    ("robnet", "evaluator.supernet.epochs=0", "epochs"),
    ("robnet", "evaluator.finetune=-1", "finetune"),
    ("robnet", f"evaluator.supernet.threads={10**6}", "threads"),
    ("robnet", "evaluator.recalibration_batches=0", "recalibration_batches"),
    ("robnet", "evaluator.supernet.keep=0", "keep"),
    ("robnet", "evaluator.supernet.keep=nan", "keep"),
    ("robnet", "space.nodes=1000", "nodes"),
    ("robnet", f"space.layers={10**9}", "layers"),
    ("robnet", "algorithm.budgets=huge", "budgets"),
    ("robnet_free", "constraints.0.quantile=2", "quantile"),
    ("robnet_free", "constraints.0.sample=0", "sample"),
    ("wsr", "algorithm.share=2", "share"),
    ("wsr", "algorithm.distribution.temperature=0", "temperature"),
    ("wsr", "algorithm.distribution.temperature=inf", "temperature"),
    ("wsr", "algorithm.gradient.lr=inf", "lr"),
    ("wsr", "algorithm.gradient.betas=0.5", "betas"),
    ("wsr", "algorithm.gradient.betas=0.5,2", "betas"),
    ("wsr", "objectives.0.strengths=pluss", "strengths"),
    ("wsr", "space.operations=sep_conv_3x3,maxpool", "maxpool"),
    ("wsr", f"space.channels={10**9}", "channels"),
    ("racl", "algorithm.distribution.sigma=-1", "sigma"),
    ("racl", "algorithm.gradient.confidence.eta=1.5", "eta"),
    ("racl", "space.partial=3", "partial"),
    ("racl", "algorithm=NSGA2", "algorithm"),
    ("roco", "objectives.1.adversarial_set.sources=0", "sources"),
    ("roco", "objectives.1.adversarial_set.victims=lenet,vgg", "vgg"),
]

# the other commands

_PATHS = [
    ("{nowhere}", "nowhere"),
    ("{folder}", "folder"),
    ("{file}", "file"),
    (LONG, "at most 255 bytes, got one of 300"),
    ("", "run="),
    (" ", "run="),
    ("{run}\0", "zero byte"),
]
_PLOT: list[tuple[tuple[str, ...], str]] = [
    *(((f"run={path}",), said) for path, said in _PATHS),
    (("tolerance=.1",), "expected run=DIR"),
    (("run={run},",), "expected run=DIR"),
    (("run=,{run}",), "expected run=DIR"),
    (("run={run},{run}",), "the same folder twice"),
    (("run={run},{nowhere}",), "nowhere"),
    (("run={run}", "run={run}"), "run is given twice"),
    (("run={run}", "basline={run}"), "did you mean 'baseline'"),
    (("run={run}", "baseline="), "baseline="),
    (("run={run}", "baseline={nowhere}"), "nowhere"),
    (("run={run}", f"baseline={LONG}"), "at most 255 bytes"),
    (("run={run},{other}", "baseline={run}"), "one run beside a baseline"),
    (("run={run}", "tolerance=2"), "tolerance"),
    (("run={run}", "tolerance=-1"), "tolerance"),
    (("run={run}", "tolerance=nan"), "tolerance"),
    (("run={run}", "tolerance=inf"), "tolerance"),
    (("run={run}", "tolerance=٠"), "tolerance"),
    (("run={run}", "tolerance="), "tolerance"),
    (("run={run}", "out="), "out="),
    (("run={run}", "out={file}"), "file"),
    (("run={run}", "out={file}/below"), "file"),
    (("run={run}", f"out={LONG}"), "at most 255 bytes, got one of 300"),
    (("run={run}", "picks=3"), "picks"),
    (("{run}",), "expected key=value"),
]
_EXPORT: list[tuple[tuple[str, ...], str]] = [
    *(((f"run={path}",), said) for path, said in _PATHS),
    (("pick=knee",), "run"),
    (("run={run}", "pick="), "pick="),
    (("run={run}", "pick=٣"), "pick=٣"),
    (("run={run}", "pick=²"), "pick=²"),
    (("run={run}", "pick=-1"), "pick=-1"),
    (("run={run}", "pick=1.0"), "pick=1.0"),
    (("run={run}", "pick=99"), "pick=99"),
    (("run={run}", f"pick={ENDLESS}"), "pick=999"),
    (("run={run}", "pick=kneee"), "pick=kneee"),
    (("run={run}", "pick=best"), "pick=best"),
    (("run={run}", "pick=best:"), "pick=best:"),
    (("run={run}", "pick=best:flop"), "'flops'"),
    (("run={run}", "pick=Beat:flops"), "pick=Beat:flops"),
    (("run={run}", "pick=knee,"), "pick="),
    (("run={run}", "pick=knee,knee"), "different picks"),
    (("run={run}", "pick=0,00"), "different picks"),
    (("run={run}", "pick=derived"), "pick=derived"),
    (("run={run}", "budget="), "budget="),
    (("run={run}", "budget=tiny"), "tiny"),
    (("run={run}", "budget=params"), "params"),
    (("run={run}", "budget=params<many"), "many"),
    (("run={run}", "budget=params<inf"), "finite number"),
    (("run={run}", "budget=params<nan"), "finite number"),
    (("run={run}", "budget=params>5"), "params>5"),
    (("run={run}", "budget=params<5<6"), "params<5<6"),
    (("run={run}", "budget=param<5e9"), "'params'"),
    (("run={run}", "budget=params<1"), "params"),
    (("run={run}", "budget=small,large"), "one class"),
    (("run={run}", "pick=0,best:flops", f"budget={','.join(['params<5e9'] * 40)}"), "at most 255 bytes"),
    (("run={run}", "weights=false", "onnx=true"), "weights=true"),
    (("run={run}", "weights=perhaps"), "weights"),
    (("run={run}", "onnx=2"), "onnx"),
    (("run={run}", "device=cpu:7"), "device=cpu:7"),
    (("run={run}", "device=tpu", "weights=false"), "device=tpu"),
    (("run={run}", "device="), "device="),
    (("run={run}", "out=", "weights=false"), "out="),
    (("run={run}", "out={file}", "weights=false"), "file"),
    (("run={run}", "out={folder}", "weights=false"), "holds other files"),
    (("run={run}", f"out={LONG}", "weights=false"), "at most 255 bytes"),
    (("run={run}", "picks=knee"), "'pick'"),
    (("run={retrained}", "pick=knee"), "pick=knee"),
    (("run={retrained}", "budget=small"), "budget=small"),
]
_ANALYZE: list[tuple[tuple[str, ...], str]] = [
    *(((f"run={path}",), said) for path, said in _PATHS),
    (("objective=robust_error",), "expected run=DIR"),
    (("run={run}", "objective="), "objective="),
    (("run={run}", "objective=robust_error"), "robust_error"),
    (("run={run}", "objective=clean_eror"), "'clean_error'"),
    (("run={run}", "objective=flops"), "flops"),
    (("run={run}", "truth="), "truth="),
    (("run={run}", "truth=,", "objective=clean_error"), "truth=DIR"),
    (("run={run}", "truth={run}", "objective=clean_error"), "the same folder twice"),
    (("run={run}", "truth={nowhere}", "objective=clean_error"), "nowhere"),
    (("run={run}", f"truth={LONG}"), "at most 255 bytes"),
    (("run={run},{other}",), "expected truth=DIR"),
    (("run={run}", "thruth={other}"), "'truth'"),
    (("run={run}", "out=", "objective=clean_error"), "out="),
    (("run={run}", f"out={LONG}", "objective=clean_error"), "at most 255 bytes"),
    (("run={run}", "truth={other}", "truth={other}"), "truth is given twice"),
]
_RETRAIN: list[tuple[tuple[str, ...], str]] = [
    *(((f"genotype={path}",), said.replace("run=", "genotype=")) for path, said in _PATHS if path != "{file}"),
    (("recipe=pgd",), "genotype=FILE, network=NAME or run=DIR"),
    (("genotype={genotype}", "network=lenet"), "got both"),
    (("network=lenet",), "data=NAME"),
    (("network=lenett", "data=digits"), "lenet"),
    (("network=", "data=digits"), "network="),
    (("network=lenet", "data=digit"), "'Digits'"),
    (("network=lenet", "data="), "data"),
    (("genotype={genotype}", "data=DataSet"), "data=DataSet"),
    (("genotype={genotype}", "recipe="), "recipe="),
    (("genotype={genotype}", "recipe=pdg"), "'pgd'"),
    (("genotype={genotype}", "recipe=Recipe"), "Recipe"),
    (("genotype={genotype}", "recipe=os:system"), "os:system"),
    (("genotype={genotype}", "recipe.lr=inf"), "lr"),
    (("genotype={genotype}", "recipe.lr=nan"), "lr"),
    (("genotype={genotype}", "recipe.lr=0"), "lr"),
    (("genotype={genotype}", "recipe.lrr=1"), "'recipe.lr'"),
    (("genotype={genotype}", "recipe.attack.steps=0"), "steps"),
    (("genotype={genotype}", "recipe.threat.eps=8"), "eps"),
    (("genotype={genotype}", "epochs=0"), "epochs"),
    (("genotype={genotype}", "epochs=-5"), "epochs"),
    (("genotype={genotype}", "epochs=٣"), "epochs"),
    (("genotype={genotype}", "epochs=many"), "epochs"),
    (("genotype={genotype}", "epochs=inf"), "epochs"),
    (("genotype={genotype}", "epoch=3"), "'epochs'"),
    (("genotype={genotype}", "eps="), "eps"),
    (("genotype={genotype}", "eps=0.2,0.1"), "ascending"),
    (("genotype={genotype}", "eps=8"), "eps"),
    (("genotype={genotype}", "eps=inf"), "eps"),
    (("genotype={genotype}", "norm=Linf"), "linf"),
    (("genotype={genotype}", "precision=fp16"), "precision"),
    (("genotype={genotype}", "train_on=everything"), "train_on"),
    (("genotype={genotype}", "seed=-1"), "seed"),
    (("genotype={genotype}", "attack=Attack"), "Attack is a base"),
    (("genotype={genotype}", "decoder=first"), "decoder"),
    (("genotype={genotype}", "device=cpu:7"), "device=cpu:7"),
    (("genotype={genotype}", "device=tpu"), "device=tpu"),
    (("genotype={genotype}", "out="), "out="),
    (("genotype={genotype}", f"out={LONG}"), "at most 255 bytes"),
    (("genotype={genotype}", "out={file}"), "file"),
    (("genotype={genotype}", "out={folder}"), "holds other files"),
    (("genotype={genotype}", "out={run}"), "holds other files"),
    (("genotype={genotype}", "space=RobNet"), "space comes from the genotype"),
    (("genotype={genotype}", "architecture=x"), "architecture comes from the genotype"),
    (("genotype={genotype}", "space.final_channels=3"), "space.channels=3"),
    (("genotype={genotype}", f"space.channels={10**9}"), "channels"),
    (("genotype={run}/problem.json",), "is no genotype file"),
    (("genotype={run}",), "no genotype file"),
    (("genotype={run}/evaluations.jsonl",), "is not JSON"),
    (("genotype={genotype}", "genotype={genotype}"), "genotype is given twice"),
]


def commands() -> list[Command]:
    """Every malformed command, none twice."""
    found = [Command("run", (text,), said) for text, said in (*_RUN_OPTIONS, *_RUN_MISSPELT, *_RUN_RANGES)]
    found += [Command("run", (text,), said) for text, said in _wrong_values()]
    found += [Command("run", arguments, said) for arguments, said in (*_RUN_SHAPELESS, *_RUN_PARTS)]
    found += [Command("run", (f"problem={name}", text), said) for name, text, said in _OTHER_PROBLEMS]
    for name, cases in (("plot", _PLOT), ("export", _EXPORT), ("analyze", _ANALYZE), ("retrain", _RETRAIN)):
        found += [Command(name, arguments, said) for arguments, said in cases]
    return list({case[:2]: case for case in found}.values())
