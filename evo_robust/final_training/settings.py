"""Settings and result of a retraining, as files, table and sentences."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import chz
import torch
from rich.table import Table
from torch import nn

from evo_robust import zoo
from evo_robust.adversarial_set.making import AdversarialSet
from evo_robust.attacks.base import Attack, Norm, check_attack
from evo_robust.attacks.curve import check_strengths
from evo_robust.attacks.fast import Precision
from evo_robust.attacks.gradient import PGD
from evo_robust.data.base import DataSet
from evo_robust.data.images import Images, stratified_order
from evo_robust.parts.base import LATER, Fraction, Part, UserError, check_shapes, refuse_unless, seed_from
from evo_robust.parts.strict_json import are_numbers, fault, is_number, is_object, is_text, is_whole, read_json
from evo_robust.progress import table
from evo_robust.spaces.base import Architecture, SearchSpace
from evo_robust.training.choice import Keep
from evo_robust.training.recipes import PGDTraining, Recipe
from evo_robust.training.weights import fresh_weights

SCHEMA = 1
SETTINGS_FILE = "retrain.json"
RESULT_FILE = "result.json"


@chz.chz
class Retraining(Part):
    """How one network is trained from scratch and evaluated on the test images."""

    network: str | None = chz.field(default=None, doc="reference network by name; None for a found one")
    space: SearchSpace | None = chz.field(default=None, doc="space of the found network, from its genotype")
    architecture: str | None = chz.field(default=None, doc="notation of the found network, from its genotype")
    channels: int | None = chz.field(
        default=None,
        metadata=LATER,
        doc="with network=: channels of its first stage (C of cells, growth of DenseNet); those of its name when not "
        "given",
    )
    layers: int | None = chz.field(
        default=None,
        metadata=LATER,
        doc="with network=: cells, or depth (6n+2 of resnet, 6n+4 of densenet and wrn); as named when not given",
    )
    stem: zoo.Stem = chz.field(
        default="auto",
        metadata=LATER,
        doc="with network=: first layers: cifar (stride 1), imagenet (an eighth or quarter of the size), or auto: "
        "imagenet for images of more than 64 pixels",
    )
    denoise: zoo.Denoise = chz.field(
        default="none",
        metadata=LATER,
        doc="filter of the blocks that denoise features (Xie et al. 2019): dot-product, gaussian, mean or median; none "
        "has no blocks",
    )
    denoise_after: tuple[str, ...] = chz.field(
        default=("stages",),
        metadata=LATER,
        doc="where these blocks are: stages, cells, or several such as stage-1,stage-2 or cell-6,cell-13",
    )
    data: DataSet = chz.field(doc="the images; by name (cifar10) or class; the genotype's when not given")
    recipe: Recipe = chz.field(
        default_factory=PGDTraining,
        blueprint_unspecified=PGDTraining,
        doc="how it is trained; by name (pgd, standard, …), class, or as a paper does it (robnet, racl, wsr, roco, …); "
        "when not given, as the published network's or the space's paper does: standard on NSGAPhases, else pgd",
    )
    epochs: int = chz.field(default=120, doc="passes over the training images; >= 1")
    train_on: Literal["all", "train"] = chz.field(
        default="all",
        doc="all: training and validation images, since nothing is chosen any more; train: only training images",
    )
    validation: float = chz.field(
        default=0.0,
        doc="training images held out to choose by, never test images: a share below 1, or a number of images; 0: none",
        metadata=LATER,
    )
    keep: Keep = chz.field(
        default="last",
        doc="weights to end with: of the last epoch; or best: of the epoch with the smallest validation error, which "
        "is that under PGD-10 in the recipe's balls, or of unattacked images where the recipe has no attack",
        metadata=LATER,
    )
    patience: int | None = chz.field(
        default=None,
        doc="stop after this many epochs without a smaller validation error, >= 1; None: make all epochs",
        metadata=LATER,
    )
    attack: Attack = chz.field(default_factory=PGD, blueprint_unspecified=PGD, doc="attack of the robustness curve")
    eps: tuple[Fraction, ...] = chz.field(
        default=(Fraction(0.03), Fraction(8 / 255), Fraction(0.10), Fraction(0.17), Fraction(0.25)),
        doc="strengths of the curve, ascending, each > 0, in units of the pixel range 0..1",
    )
    norm: Norm = chz.field(default="linf", doc="norm of the curve's ball: linf or l2")
    precision: Precision = chz.field(
        default="float32",
        doc="precision in which a gradient attack searches: float32, reproducible to the bit; bf16, faster on CUDA; "
        "auto, whichever is measured as faster; every image is then classified by the network itself in float32",
    )
    adversarial_set: AdversarialSet | None = chz.field(
        default=None,
        doc="evaluate on an adversarial set of test images, too: search (with the search's settings) or AdversarialSet",
    )
    seed: int = chz.field(default=0, doc="seed of weights, batches and attacks; >= 0")

    @chz.validate
    def _sensible(self) -> None:
        check_strengths(self.eps, self.norm)
        check_shapes(self, self.data.in_shape)
        if self.epochs < 1:
            raise ValueError(f"expected epochs >= 1, got {self.epochs}")
        if self.seed < 0:
            raise ValueError(f"expected seed >= 0, got {self.seed}")
        self._check_choice()
        self._check_network()

    def _check_choice(self) -> None:
        """Refuse a validation split of part of an image, and a choice without a split."""
        refuse_unless(
            self,
            (
                "validation",
                0 <= self.validation < 1 or (self.validation >= 1 and float(self.validation).is_integer()),
                "a share in [0,1) or a whole number of images",
            ),
            ("patience", self.patience is None or self.patience >= 1, ">= 1, or None"),
            ("keep", self.keep == "last" or self.validation > 0, "last without validation="),
            ("patience", self.patience is None or self.validation > 0, "None without validation="),
        )

    def _check_network(self) -> None:
        """Refuse choices that the network does not leave."""
        if self.network is not None:
            self.reference()  # refuses them by itself
            return
        zoo.check_denoise(self.denoise, self.denoise_after)
        for key, value in (("channels", self.channels), ("layers", self.layers), ("stem", self.stem)):
            if value not in (None, "auto"):
                known = f"space.{key}={value} for a found network" if key != "stem" else "no stem= with a found network"
                raise ValueError(f"{key}={value} belongs to network=NAME: expected {known}")

    def check_shape(self, in_shape: tuple[int, int, int], key: str) -> None:
        """See :meth:`Part.check_shape`: the attack and its balls fit the images."""
        check_attack(self.attack, self.eps, self.norm, in_shape, key)

    def build(self) -> nn.Module:
        """The network with fresh weights that depend on seed and network alone, on the CPU."""
        seed = seed_from(self.seed, self.network or self.architecture)
        with fresh_weights(seed):
            n_classes, in_shape = self.data.n_classes, self.data.in_shape
            if self.space is None:
                return self.reference().build(n_classes, in_shape)
            network = self.space.build(self.parsed(), n_classes, in_shape)
            return zoo.denoise_found(self.space, network, self.denoise, self.denoise_after, in_shape)

    def reference(self) -> zoo.Network:
        """The reference network, with what is chosen beside its name."""
        if self.network is None:
            raise ValueError("expected a reference network, got a found network")
        chosen = {name: getattr(self, name) for name in chz.chz_fields(zoo.Network) if hasattr(self, name)}
        return zoo.Network(name=self.network, **chosen)

    @property
    def network_text(self) -> str:
        """Notation of the architecture or name of the reference network, with what is chosen beside it."""
        if self.network is not None:
            return self.reference().text
        after = "" if self.denoise_after == ("stages",) else f" denoise_after={','.join(self.denoise_after)}"
        return str(self.architecture) + ("" if self.denoise == "none" else f" denoise={self.denoise}{after}")

    def parsed(self) -> Architecture:
        """The architecture, read from its notation."""
        if self.space is None or self.architecture is None:
            raise ValueError("expected a found network, got a reference network")
        return self.space.from_text(self.architecture)

    def held_out(self) -> int:
        """Number of training images that are held out for validation.

        Raises:
            UserError: too few images would be left to train on.
        """
        splits = self.data.load()
        n = len(splits.train) + (len(splits.val) if self.train_on == "all" else 0)
        size = int(self.validation) if self.validation >= 1 else math.ceil(round(self.validation * n, 6))
        if size and n - size < 2:
            raise UserError(f"validation={self.validation:g} leaves {max(0, n - size)} of {n} images to train on")
        return size

    def images(self, device: str) -> tuple[Images, Images | None, Images]:
        """Training, validation and test images on a device; no validation images where nothing is chosen by them.

        Raises:
            UserError: too few images would be left to train on.
        """
        splits, size = self.data.load(), self.held_out()
        chosen, held_out = splits.train, None
        if self.train_on == "all":
            x, y = (torch.cat(pair) for pair in ((chosen.x, splits.val.x), (chosen.y, splits.val.y)))
            chosen = Images(x, y)
        if size:
            # the same images for every network and seed
            order = torch.from_numpy(stratified_order(chosen.y.numpy(), seed_from(self.data.split_seed, "validation")))
            held_out, chosen = chosen.take(order[:size]).to(device), chosen.take(order[size:])
        return chosen.to(device), held_out, splits.test.to(device)


@dataclasses.dataclass(frozen=True)
class Result:
    """A retrained network's errors on the test images.

    Attributes:
        network: notation of the architecture, or name of the reference network.
        data: name of the data set.
        recipe: class name of the training recipe.
        epochs: passes over the training images, fewer than asked for where the training stopped early.
        n_train: number of training images.
        n_test: number of test images.
        n_classes: number of classes.
        params: number of parameters.
        flops: multiply-accumulates of one image (thop).
        attack: attack of the curve, such as ``PGD-20``.
        norm: norm of its ball.
        clean_error: fraction of the test images that is misclassified without attack.
        eps: strengths of the curve, ascending, in units of the pixel range 0..1.
        error: fraction misclassified at each strength.
        adversarial: error and number of images of the adversarial set's test part; None where there is no such set.
        seconds: time of training (of the last process) and attack.
        kept_epoch: epoch whose weights were chosen by a validation split; None where those of the last one were kept.
    """

    network: str
    data: str
    recipe: str
    epochs: int
    n_train: int
    n_test: int
    n_classes: int
    params: int
    flops: float
    attack: str
    norm: str
    clean_error: float
    eps: tuple[float, ...]
    error: tuple[float, ...]
    adversarial: dict[str, float] | None
    seconds: dict[str, float]
    kept_epoch: int | None = None

    def points(self) -> list[tuple[float, float]]:
        """Pairs of strength and error, the clean images first."""
        return [(0.0, self.clean_error), *zip(self.eps, self.error, strict=True)]

    def how(self) -> str:
        """The training in a few words."""
        kept = "" if self.kept_epoch is None else f" (weights of epoch {self.kept_epoch}, chosen by validation)"
        return f"{self.recipe}, {self.epochs} epochs{kept} on {self.n_train:,} images of {self.data}"

    def table(self) -> Table:
        """Table of the accuracy at every strength."""
        numbers = ("ε", "ε·255", f"accuracy on {self.n_test:,} test images")
        made = table(f"{self.how()}; {self.params:,} parameters", words=("attack",), numbers=numbers)
        for eps, error in self.points():
            row = (f"{self.attack}, {self.norm}", f"{eps:.4g}", f"{255 * eps:.3g}") if eps else ("none", "", "")
            made.add_row(*row, f"{100 * (1 - error):.2f} %")
        if self.adversarial:
            accuracy = f"{100 * (1 - self.adversarial['error']):.2f} % of {self.adversarial['n']:,}"
            made.add_row("adversarial set", "", "", accuracy)
        return made

    def summary(self) -> dict[str, Any]:
        """The result as JSON values, for ``genotype.json``."""
        keys = (
            "recipe",
            "epochs",
            "data",
            "n_train",
            "n_test",
            "params",
            "flops",
            "attack",
            "norm",
            "clean_error",
            "adversarial",
        )
        return {**{key: getattr(self, key) for key in keys}, "eps": list(self.eps), "error": list(self.error)}

    def sentences(self) -> list[str]:
        """Training and accuracy, one line each, for a model card."""
        lines = [f"trained from scratch: {self.how()}", f"accuracy on the {self.n_test:,} test images:"]
        for eps, error in self.points():
            attack = f"{self.attack}, {self.norm}, eps {eps:.4g}" if eps else "not attacked"
            lines.append(f"  {100 * (1 - error):6.2f} %  {attack}")
        if self.adversarial:
            share, n = 100 * (1 - self.adversarial["error"]), self.adversarial["n"]
            lines.append(f"  {share:6.2f} %  on the {n:,} images of the adversarial set made of test images")
        return lines


def read_settings(folder: Path) -> dict[str, Any]:
    """Content of a retraining folder's settings file.

    Raises:
        UserError: it is absent or damaged.
    """
    return _read(folder / SETTINGS_FILE, _SETTINGS)


def load_result(folder: Path) -> Result:
    """Result of a finished retraining.

    Raises:
        UserError: the retraining is not finished, or its file is damaged.
    """
    if not (folder / RESULT_FILE).is_file():
        raise UserError(f"the training in {folder} is not finished; the command that began it resumes it")
    content = _read(folder / RESULT_FILE, _RESULT)
    content = {"kept_epoch": None, **content}  # earlier versions chose nothing
    values = {field.name: content[field.name] for field in dataclasses.fields(Result)}
    values["eps"], values["error"] = tuple(values["eps"]), tuple(values["error"])
    if len(values["eps"]) != len(values["error"]):
        raise UserError(f"{folder / RESULT_FILE} is damaged: 'eps' and 'error' differ in length")
    return Result(**values)


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and is_number(value) and 0 <= value <= 1


_SETTINGS = {"identity": (is_object, "the values that decide the figures"), "versions": (is_object, "versions by name")}
_COUNT = functools.partial(is_whole, smallest=0)
_RESULT = {
    **dict.fromkeys(("network", "data", "recipe", "attack", "norm"), (is_text, "text")),
    **dict.fromkeys(("epochs", "n_train", "n_test", "n_classes", "params"), (_COUNT, "a whole number >= 0")),
    "flops": (is_number, "a finite number"),
    "clean_error": (_is_share, "a share of the images, from 0 to 1"),
    "eps": (lambda v: isinstance(v, list) and all(map(is_number, v)), "finite numbers"),
    "error": (lambda v: isinstance(v, list) and all(map(_is_share, v)), "shares of the images, from 0 to 1"),
    "adversarial": (
        lambda v: v is None or (are_numbers(v) and {"error", "n"} <= v.keys() and _is_share(v["error"])),
        "null or {'error': …, 'n': …}",
    ),
    "seconds": (are_numbers, "finite numbers by name"),
    "kept_epoch": (lambda v: v is None or is_whole(v, 1), "null or the number of an epoch"),
}


def _read(path: Path, expected: Mapping[str, tuple[Any, str]]) -> dict[str, Any]:
    """The JSON object of a retraining's file."""
    content = read_json(path, f"a retraining of schema {SCHEMA}")
    schema = {"schema": (lambda schema: schema == SCHEMA, f"a retraining of schema {SCHEMA}")}
    if wrong := fault(content, {**schema, **expected}, {"versions": {}, "kept_epoch": None}):
        raise UserError(f"{path} is damaged: {wrong}")
    return content
