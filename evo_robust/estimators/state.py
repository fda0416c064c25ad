"""What an optimiser has in memory, as named tensors for a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """State of every parameter as ``{prefix}.{number}.{what}``; nothing before the first step."""
    return {
        f"{prefix}.{number}.{what}": value
        for number, values in optimizer.state_dict()["state"].items()
        for what, value in values.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Put back what ``optimizer_tensors`` took; settings stay those of ``optimizer``."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(f"{prefix}."):
            number, _, what = name.removeprefix(f"{prefix}.").partition(".")
            state.setdefault(int(number), {})[what] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix.``, under the rest of their names."""
    # by name: a mapped file reads what is asked for, and no more
    return {name.removeprefix(f"{prefix}."): tensors[name] for name in tensors if name.startswith(f"{prefix}.")}
