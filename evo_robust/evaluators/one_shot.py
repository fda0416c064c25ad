"""Candidates that inherit a supernet's weights (RobNet, Guo et al., CVPR 2020, §3.2)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import chz
import torch
from torch import Tensor, nn

from evo_robust.data.base import DataSet
from evo_robust.data.images import Augment, Splits
from evo_robust.device import choose_device
from evo_robust.evaluators.candidates import build_candidate, candidate_seed
from evo_robust.evaluators.jobs import Stage
from evo_robust.evaluators.pool import PooledEvaluator
from evo_robust.files import copy_file, mapped_tensors
from evo_robust.objectives.base import Context
from evo_robust.parts.base import UserError, refuse_unless, seed_from
from evo_robust.parts.facts import FINETUNING, INHERITED_WEIGHTS, Fact
from evo_robust.spaces.base import Architecture, SearchSpace
from evo_robust.spaces.supernet import inherit
from evo_robust.training.learning_curve import CURVE_FILES
from evo_robust.training.loop import train
from evo_robust.training.recalibration import Batches, draw_batches, recalibrate
from evo_robust.training.recipes import PGDTraining, Recipe
from evo_robust.training.supernet_training import FILE, SupernetTraining


@chz.chz
class OneShot(PooledEvaluator):
    """Each candidate inherits a supernet's weights, is recalibrated, finetuned, and measured on the validation split.

    The supernet is trained when the first search that needs it starts, and kept in the cache. Its running statistics
    mix all paths, so each candidate gets its own before anything is measured. All candidates are finetuned with the
    same random numbers (batches, augmentation, starting points of attacks), so that these cause no differences.
    """

    told: ClassVar[tuple[str, ...]] = ("recalibration", "finetune", "seed", "recipe", "supernet", "supernet.epochs")

    supernet: SupernetTraining = chz.field(
        default_factory=SupernetTraining, blueprint_unspecified=SupernetTraining, doc="how the shared weights are made"
    )
    recalibration: Literal["adversarial", "clean", "none"] = chz.field(
        default="adversarial",
        doc="images for new statistics of batch normalisation: adversarial (by the attack of the finetuning recipe), "
        "clean, or none (keep the supernet's own statistics)",
    )
    recalibration_batches: int = chz.field(default=8, doc="batches of training images for recalibration, >= 1")
    finetune: int = chz.field(default=0, doc="epochs of finetuning per candidate, >= 0; RobNet: 3")
    recipe: Recipe = chz.field(
        default_factory=lambda: PGDTraining(lr=0.01, weight_decay=1e-4, batch_size=64, decay_bn=False),
        blueprint_unspecified=PGDTraining,
        doc="how candidates are finetuned",
    )
    compare: bool = chz.field(
        default=True, doc="with finetuning, measure candidates before it too, and record these figures as `inherited`"
    )

    @chz.validate
    def _ranges(self) -> None:
        refuse_unless(
            self,
            ("recalibration_batches", self.recalibration_batches >= 1, ">= 1"),
            ("finetune", self.finetune >= 0, ">= 0 epochs"),
            prefix="evaluator.",
        )

    @property
    def provides(self) -> frozenset[Fact]:
        """See :attr:`Part.provides`."""
        return frozenset({INHERITED_WEIGHTS, FINETUNING} if self.finetune > 0 else {INHERITED_WEIGHTS})

    def check(self, space: SearchSpace, data: DataSet) -> None:
        """See :meth:`Evaluator.check`."""
        self.supernet.check(space, data)

    def builds(self, context: Context) -> Sequence[Path]:
        """See :meth:`Evaluator.builds`."""
        return [self._folder(context) / FILE]

    def prepare(self, context: Context) -> None:
        """Train the supernet, or find it in the cache; its learning curve is copied into the run folder.

        Raises:
            UserError: an earlier search's supernet is needed, but is not in the cache and cannot be trained again here.
        """
        folder = self._folder(context)
        if context.shared_from is not None and not (folder / FILE).is_file():
            _check_at_hand(context.shared_from, folder)
            context.say(f"the supernet of this search is no longer in {folder}: it is trained again")
        where = (context.space, context.data, context.cache, _trained_on(context))
        file = self.supernet.build_or_load(*where, context.say)
        if context.folder is not None:
            for name in CURVE_FILES:
                copy_file(file.with_name(name), context.folder / f"supernet_{name}")

    def _folder(self, context: Context) -> Path:
        """The supernet's folder in the cache."""
        return self.supernet.folder(context.space, context.data, context.cache, _trained_on(context))

    def weights_file(self, context: Context) -> Path:
        """The file of the weights that candidates inherit."""
        return self._folder(context) / FILE

    def state(self, context: Context) -> str:
        """Digest of the supernet's weights."""
        return self.supernet.fingerprint(context.space, context.data, context.cache, _trained_on(context))

    def stages(self, context: Context, architecture: Architecture, deadline: float | None = None) -> Iterator[Stage]:
        """See :meth:`PooledEvaluator.stages`: inherited weights, then finetuned ones."""
        seed = candidate_seed(context, context.space.to_text(architecture))
        model = build_candidate(context, architecture, seed)
        model.to(context.device).to(memory_format=torch.channels_last)
        inherit(model, mapped_tensors(self.weights_file(context)))
        recipe = self.recipe.for_data(context.data)
        self._recalibrate(model.eval(), context, recipe, seed, deadline)
        if self.finetune == 0:
            yield Stage(model)
            return
        yield Stage(model, final=False, record_as="inherited" if self.compare else None)
        images = context.data.on(context.device).train
        # all candidates get the same batches, augmentation and starting points of attacks
        common = seed_from(context.seed, "finetuning")
        logs = train(model, images, recipe, self.finetune, seed=common, deadline=deadline)
        yield Stage(model.eval(), {"train_error": logs[-1].train_error})

    def _recalibrate(
        self, model: nn.Module, context: Context, recipe: Recipe, seed: int, deadline: float | None
    ) -> None:
        """Give the candidate its own statistics. All candidates see the same images, each attacked for itself."""
        if self.recalibration == "none":
            return
        given = _batches(
            *(context.data.on(context.device), recipe.batch_size, recipe.augment, self.recalibration_batches),
            seed_from(context.seed, "recalibration"),
        )
        own = seed_from(seed, "recalibration")
        generator = torch.Generator(next(model.parameters()).device).manual_seed(own)

        def attacked(network: nn.Module, x: Tensor, y: Tensor) -> None:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                recipe.loss(network, x, y, generator)

        forward = attacked if self.recalibration == "adversarial" else None
        recalibrate(model, given, forward, seed=own, deadline=deadline)


def _trained_on(context: Context) -> str:
    """Device that the supernet is trained on; its weights differ between kinds of device."""
    return context.shared_from or context.device


def _check_at_hand(kind: str, folder: Path) -> None:
    """Raise ``UserError`` where a lost supernet cannot be trained again, because its kind of device is absent."""
    try:
        choose_device(kind)
    except UserError:
        raise UserError(
            f"the supernet of this search was trained on {kind} and is not in {folder}: bring that folder here, "
            f"export on a machine with {kind}, or without weights (weights=false)"
        ) from None


@functools.lru_cache(maxsize=2)
def _batches(splits: Splits, batch_size: int, augment: Augment | None, count: int, seed: int) -> Batches:
    """Batches for recalibration, cached per process by the splits of the images."""
    return draw_batches(splits.train, batch_size, augment, count, seed)
