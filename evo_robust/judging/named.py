"""Attacks and sets of attacks by the names that users type."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from evo_robust.attacks.auto import APGD
from evo_robust.attacks.base import Attack
from evo_robust.attacks.gradient import BIM, FGSM, MIFGSM, PGD
from evo_robust.attacks.level.attack import CMAES, DE
from evo_robust.attacks.level.base import LevelAttack
from evo_robust.attacks.level.sigma_zero import SigmaZero
from evo_robust.attacks.minimum.carlini_wagner import CarliniWagner
from evo_robust.attacks.minimum.deepfool import DeepFool
from evo_robust.attacks.minimum.fmn import FMN
from evo_robust.attacks.official import LEAST_CLASSES, AutoAttack
from evo_robust.attacks.square import Square

TrialNorm = Literal["linf", "l2", "l0"]
"""Norms of balls; ``l0`` counts pixels."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """An attack that has a name.

    Attributes:
        cls: its class.
        doc: what it is, in a line.
        steps: name of the field that a number behind the name sets; None where there is none.
        usual: values of its fields, where they are not the class's own.
        norm: the only norm that it knows; None for linf and l2.
        classes: least number of classes that it needs.
    """

    cls: type[Attack] | type[LevelAttack]
    doc: str
    steps: str | None = "steps"
    usual: Mapping[str, object] = dataclasses.field(default_factory=dict)
    norm: TrialNorm | None = None
    classes: int = 2


KINDS: dict[str, Kind] = {
    "fgsm": Kind(FGSM, "one step of eps", None),
    "bim": Kind(BIM, "small steps from the image", usual={"steps": 10}),
    "mim": Kind(MIFGSM, "small steps with momentum (MI-FGSM)", usual={"steps": 10}),
    "pgd": Kind(PGD, "small steps from a random point", usual={"steps": 20}),
    "cw": Kind(PGD, "PGD on the margin, which papers print as C&W", usual={"steps": 30, "loss": "margin"}),
    "cw-l2": Kind(CarliniWagner, "the attack of Carlini & Wagner in l2", norm="l2"),
    "deepfool": Kind(DeepFool, "steps to the nearest boundary"),
    "fmn": Kind(FMN, "fast minimum-norm attack"),
    "apgd": Kind(APGD, "Auto-PGD on the cross-entropy"),
    "apgd-dlr": Kind(APGD, "Auto-PGD on the ratio of logits", usual={"loss": "dlr"}),
    "apgd-t": Kind(APGD, "Auto-PGD, aimed at the four nearest classes", usual={"loss": "targeted-dlr", "restarts": 4}),
    "apgd-pm": Kind(APGD, "Auto-PGD on the margin of probabilities", usual={"loss": "probability-margin"}),
    "autoattack": Kind(AutoAttack, "the official AutoAttack (extra judge)", None, classes=LEAST_CLASSES),
    "square": Kind(Square, "random squares; black-box", "queries", norm="linf"),
    "level-l0": Kind(CMAES, "CMA-ES on pixels; black-box", "max_iter", {"norm": "l0"}, "l0"),
    "level-linf": Kind(CMAES, "CMA-ES on grey steps; black-box", "max_iter", {"norm": "linf"}, "linf"),
    "de-l0": Kind(DE, "differential evolution on pixels; black-box", "max_iter", {"norm": "l0"}, "l0"),
    "de-linf": Kind(DE, "differential evolution on grey steps; black-box", "max_iter", {"norm": "linf"}, "linf"),
    "sigma-zero": Kind(SigmaZero, "few pixels by gradients", usual={"norm": "l0"}, norm="l0"),
}
"""Attacks by the names that ``attacks=`` takes."""

LEVELS = (1.0, 3.0, 5.0, 10.0)
"""Levels of RoCo-NAS's adversarial set, and of level attacks where none are given."""

SAMPLES = "adversarial-set"
"""Name of the trial that attacks nothing: images of an adversarial set made of test images (RoCo-NAS)."""

SETS: dict[str, str] = {
    "compact": "apgd-50+apgd-t-50+apgd-pm-50:restarts=4",
    "robnet": "fgsm:eps=8/255,pgd-20:step=2/255:eps=8/255,pgd-100:step=2/255:eps=8/255,deepfool:eps=8/255,"
    "mim-20:step=2/255:eps=8/255",
    "wsr": "pgd-20:step=2.5*eps/20:eps=.03:.10:.17:.25:mean=yes,fgsm:eps=.03",
    "wsr-imagenet": "pgd-20:step=2.5*eps/20:eps=.015:.03:.045:.06:.075:.09:mean=yes",
    "racl": "fgsm:eps=8/255,mim-20:step=2/255:eps=8/255,pgd-20:step=2/255:eps=8/255,pgd-10:step=eps/10:eps=8/255",
    "racl-mnist": "fgsm:eps=76.5/255,mim-20:step=20/255:eps=76.5/255,pgd-20:step=20/255:eps=76.5/255,"
    "pgd-10:step=eps/10:eps=76.5/255",
    "roco": f"{SAMPLES},pgd-20:eps=1/255,fgsm:eps=.1:.2:.3,bim:eps=.1,deepfool:eps=.1,cw:eps=.1",
}
"""Sets of attacks by the names that ``attacks=`` takes too, in the language of ``attacks=``.

The papers are silent on some figures, which are chosen here: the 20 steps of MI-FGSM (RobNet, RACL); the strength of
FGSM (Wsr-NAS); the 20 steps of RoCo-NAS's PGD, and the strength .1 of its BIM, DeepFool and C&W.
"""

SETS_ON = {("racl", "mnist"): "racl-mnist", ("wsr", "imagenet"): "wsr-imagenet"}
"""Sets that a paper has for a data set, by the set's and the data set's name: ``racl`` means these there."""
