"""An attack on what an earlier one has left unbroken."""

from __future__ import annotations

import contextlib

import pytest
import torch
from attackable import seeded
from torch import nn

from evo_robust.attacks.base import Attack
from evo_robust.attacks.curve import robust_curve
from evo_robust.attacks.gradient import PGD
from evo_robust.attacks.minimum.deepfool import DeepFool
from evo_robust.attacks.square import Square
from evo_robust.data.images import Images

EPS = (0.05, 0.1, 0.2)


@pytest.mark.parametrize("attack", [PGD(steps=5), DeepFool(steps=5), Square(queries=20)])
def test_the_result_is_the_worst_case_of_both(attack: Attack, trained: nn.Module, held_out: Images) -> None:
    alone = robust_curve(trained, held_out, attack, EPS, generator=seeded()).level
    # every other image is known to break at the second strength
    known = torch.where(torch.arange(len(held_out)) % 2 == 0, 1, len(EPS))
    known[alone < 0] = -1
    both = robust_curve(trained, held_out, attack, EPS, generator=seeded(), known=known).level
    assert bool((both <= known).all())
    assert int((both < known).sum()) > 0, "the attack finds something new"
    if isinstance(attack, DeepFool):  # without random numbers nothing else may differ
        assert torch.equal(both, torch.minimum(alone, known))


def test_nothing_is_attacked_where_everything_is_broken(trained: nn.Module, held_out: Images) -> None:
    known, seen = torch.zeros(len(held_out), dtype=torch.long), []
    handle = trained.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(handle.remove)
        found = robust_curve(trained, held_out, PGD(), EPS, generator=seeded(), known=known)
    assert torch.equal(found.level, known)
    assert sum(seen) <= 18, "only the fast copy is compared with the network"


def test_wrong_levels_are_refused(trained: nn.Module, held_out: Images) -> None:
    def call(known: torch.Tensor, **more: object) -> None:
        robust_curve(trained, held_out, PGD(), EPS, generator=seeded(), known=known, **more)  # type: ignore[arg-type]

    fine = torch.zeros(len(held_out), dtype=torch.long)
    with pytest.raises(ValueError, match="expected int64 known"):
        call(fine[:3])
    with pytest.raises(ValueError, match="from -1 to 3"):
        call(fine + 4)
    with pytest.raises(ValueError, match="without keep_going"):
        call(fine, keep_images=True)
