"""Error on adversarial images made for other networks (RoCo-NAS, third objective)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import chz

from evo_robust.adversarial_set.making import FILES, AdversarialSet, load
from evo_robust.adversarial_set.samples import Samples
from evo_robust.data.base import DataSet
from evo_robust.inference.predictions import predictions
from evo_robust.objectives.base import Candidate, Context, Objective


@chz.chz
class TransferError(Objective):
    """Fraction in [0,1] of the search's adversarial images that the candidate misclassifies.

    This is a black-box error: the images were made for other networks. The fractions by norm and level are recorded
    too, with the number of images ``n``.
    """

    adversarial_set: AdversarialSet = chz.field(
        default_factory=AdversarialSet, blueprint_unspecified=AdversarialSet, doc="the images and how they are made"
    )

    @property
    def unit(self) -> str:
        """``fraction``: share of the adversarial images."""
        return "fraction"

    @property
    def attacked(self) -> str:
        """See :attr:`Objective.attacked`."""
        made = self.adversarial_set
        levels = {"l0": f"{max(made.l0_levels)} pixels", "linf": f"L∞ {max(made.linf_levels)}/255"}
        reach = " and ".join(levels[norm] for norm in made.norms)
        return f"black-box, {type(made.optimiser).__name__} on other networks ({', '.join(made.victims)}) up to {reach}"

    def prepare(self, context: Context) -> None:
        """Build the adversarial set, or find it in the cache."""
        self.adversarial_set.build_or_load(context.data, context.cache, context.device, context.workers, context.say)

    def builds(self, context: Context) -> Sequence[Path]:
        """See :meth:`Objective.builds`."""
        folder = self.adversarial_set.folder(context.data, context.cache)
        return [folder / name for name in FILES]

    def check(self, data: DataSet) -> None:
        """See :meth:`Objective.check`."""
        self.adversarial_set.check(data)

    def state(self, context: Context) -> str:
        """Digest of the images, since sets with the same settings differ between kinds of device."""
        return self.adversarial_set.fingerprint(context.data, context.cache)

    def former_states(self, context: Context) -> Sequence[str]:
        """See :meth:`Objective.former_states`."""
        return self.adversarial_set.former_fingerprints(context.data, context.cache)

    def measure(self, candidate: Candidate) -> float:
        """Error on the search's samples."""
        context = candidate.context
        samples = _search_samples(self.adversarial_set.folder(context.data, context.cache), context.device)
        wrong = predictions(candidate.network(), samples.images) != samples.images.y
        candidate.figures[self.name] = {**samples.rates(wrong), "n": len(samples)}
        return wrong.double().mean().item()


@functools.lru_cache(maxsize=4)
def _search_samples(folder: Path, device: str) -> Samples:
    """The search's samples on a device, read once per process."""
    return load(folder).search_samples.to(device)
