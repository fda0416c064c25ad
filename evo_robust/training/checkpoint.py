"""The file that a training goes on from after an interruption, to the bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evo_robust.files import DamagedFile, read_tensors, write_tensors
from evo_robust.parts.base import UserError
from evo_robust.training.beside import Companion
from evo_robust.training.epochs import expect, logs_of
from evo_robust.training.steps import Run


def save(run: Run, path: Path, identity: str, companion: Companion | None) -> None:
    """Write everything that a resumed training needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": value for name, value in run.model.state_dict().items()}
    for index, parameter in enumerate(run.parameters):
        momentum = run.optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{index}"] = momentum
    tensors["generator"] = run.generator.get_state()
    tensors["layers"] = torch.get_rng_state()
    if run.device.type == "cuda":
        tensors["layers.cuda"] = torch.cuda.get_rng_state(run.device)
    if run.average is not None:
        tensors |= {f"average.{name}": value for name, value in run.average.state().items()}
    for prefix, other in (("companion", companion), ("choice", run.choice)):
        if other is not None:
            tensors |= {f"{prefix}.{name}": value for name, value in other.state().items()}
    logs = [dataclasses.asdict(log) for log in run.logs]
    write_tensors(path, tensors, {"training": identity, "images": run.content, "logs": logs})


def restore(run: Run, path: Path, identity: str, companion: Companion | None) -> None:
    """Continue from a checkpoint."""
    tensors, info = read_tensors(path)
    # older checkpoints hold no digest of the images
    if info.get("training") != identity or info.get("images", run.content) != run.content:
        raise UserError(
            f"{path} belongs to another training (network, recipe, epochs, seed or images differ): "
            "delete it or name another file"
        )
    try:
        _take(run, tensors, info, companion)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedFile(path, f"it is not the complete state of a training: {error}") from error


def _take(run: Run, tensors: dict[str, Tensor], info: dict[str, Any], companion: Companion | None) -> None:
    """Take over a checkpoint's state."""
    run.logs = logs_of(info)
    weights = _below("model", tensors)
    # torch would silently accept numbers of another type
    kinds = {name: tensor.dtype for name, tensor in run.model.state_dict().items()}
    for name, tensor in weights.items():
        expect(tensor.dtype == kinds.get(name, tensor.dtype), f"{name} is {tensor.dtype}, not {kinds.get(name)}")
    run.model.load_state_dict(weights)
    for name, weight in run.model.named_parameters():
        expect(bool(weight.isfinite().all()), f"{name} is not finite")
    for index, parameter in enumerate(run.parameters):
        if f"momentum.{index}" in tensors:
            kept = tensors[f"momentum.{index}"]
            expect(kept.dtype == parameter.dtype and bool(kept.isfinite().all()), f"momentum.{index} is not finite")
            expect(kept.shape == parameter.shape, f"momentum.{index} has the shape {tuple(kept.shape)}")
            buffer = torch.empty_like(parameter).copy_(tensors[f"momentum.{index}"]).detach()
            run.optimizer.state[parameter]["momentum_buffer"] = buffer
    run.begin_average()
    if run.average is not None:
        run.average.restore(_below("average", tensors))
    for prefix, other in (("companion", companion), ("choice", run.choice)):
        if other is not None:
            other.restore(_below(prefix, tensors), len(run.logs))
    run.generator.set_state(tensors["generator"])
    torch.set_rng_state(tensors["layers"])
    if run.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["layers.cuda"], run.device)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix`` and a point, by the rest of their names."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
