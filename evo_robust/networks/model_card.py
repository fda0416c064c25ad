"""The model card: a generated Python file that builds a network and loads its weights, and needs only torch."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Sequence
from pprint import pformat
from typing import Any

import torch
from torch import Tensor, nn

from evo_robust.networks.genotype import Genotype
from evo_robust.networks.standalone import standalone_source, tidy_imports
from evo_robust.parts.base import UserError
from evo_robust.parts.plain import visible
from evo_robust.spaces.ops import Normalize

WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "model.py"

_LOADER = '''

WEIGHTS = Path(__file__).with_name("{weights}")
IN_SHAPE = {in_shape}
N_CLASSES = {n_classes}


def build() -> nn.Module:
    """The network with fresh weights: float32 images (n, {dims}) in [0, 1] to logits (n, {n_classes})."""
    return {expression}


def load(path: str | Path = WEIGHTS, device: str = "cpu") -> nn.Module:
    """The network with its weights, in eval mode."""
    model = build()
    model.load_state_dict(read_weights(path))
    return model.to(device).eval()


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file: eight bytes with the header's length, a JSON header, then the raw numbers."""
    kinds = {{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}}
    kinds |= {{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "U8": torch.uint8, "BOOL": torch.bool}}
    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    tensors = {{}}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        numbers = torch.frombuffer(bytearray(content[start + first : start + last]), dtype=kinds[entry["dtype"]])
        tensors[name] = numbers.reshape(entry["shape"])
    return tensors


def probe() -> torch.Tensor:
    """Two synthetic images, always the same."""
    n = 2 * math.prod(IN_SHAPE)
    return torch.arange(n).mul(37).remainder(251).div(255).reshape(2, *IN_SHAPE)


# Logits of probe() when this file was written.
PROBE_LOGITS = {logits}


if __name__ == "__main__":
    network = load()
    with torch.no_grad():
        error = (network(probe()) - torch.tensor(PROBE_LOGITS)).abs().max().item()
    print(f"{{sum(p.numel() for p in network.parameters()):,}} parameters; logits as at export to within {{error:.1e}}")
    sys.exit(0 if error < 1e-3 else 1)
'''


def probe(in_shape: tuple[int, int, int]) -> Tensor:
    """Two synthetic images ``(2, *in_shape)`` in [0,1]; the card computes the same ones."""
    n = 2 * in_shape[0] * in_shape[1] * in_shape[2]
    return torch.arange(n).mul(37).remainder(251).div(255).reshape(2, *in_shape)


def model_card(genotype: Genotype, model: nn.Module, notes: Sequence[str] = ()) -> str | None:
    """Python text that rebuilds ``model`` and loads ``model.safetensors`` beside it; it needs only torch.

    None where the space gives no ``network_arguments``.

    Args:
        genotype: the network with its figures and origin.
        model: the network with its weights, in eval mode on the CPU, built by the genotype's space.
        notes: sentences about the origin of the weights.

    Raises:
        UserError: with these weights the network gives logits that are not finite.
    """
    arguments = genotype.space.network_arguments(genotype.architecture, genotype.n_classes, genotype.in_shape)
    if arguments is None:
        return None
    kind = type(model)
    expression = _call(kind.__name__, arguments)
    with torch.no_grad():
        answers = model(probe(genotype.in_shape))
    if not bool(answers.isfinite().all()):
        raise UserError("with these weights the network gives NaN or infinity: expected finite logits")
    logits = [[round(v, 6) for v in row] for row in answers.tolist()]
    loader = _LOADER.format(
        weights=WEIGHTS_NAME,
        in_shape=genotype.in_shape,
        n_classes=genotype.n_classes,
        dims=", ".join(map(str, genotype.in_shape)),
        expression=textwrap.indent(expression, "    ").strip(),
        logits=pformat(logits, width=100, compact=True),
    )
    imports, definitions = standalone_source(kind)
    needed = [
        "import json",
        "import math",
        "import sys",
        "from pathlib import Path",
        "import torch",
        "from torch import nn",
    ]
    header = "\n".join(["from __future__ import annotations\n", *tidy_imports([*imports, *needed])])
    _check_names(definitions, loader)
    gap = "\n\n" if definitions.startswith(("class", "def", "@")) else "\n"
    return f'"""{_description(genotype, model, notes)}\n"""\n\n{header}\n{gap}{definitions.rstrip()}\n{loader}'


_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _check_names(definitions: str, loader: str) -> None:
    """Refuse a network module that defines a name that the loader uses."""
    first, second = ({n.name for n in ast.parse(t).body if isinstance(n, _NAMED)} for t in (definitions, loader))
    if both := first & second:
        raise ValueError(f"expected network modules not to define {', '.join(sorted(both))}: the model card does")


def _call(name: str, arguments: dict[str, Any]) -> str:
    """Constructor expression with literal arguments, one a line."""
    lines = []
    for key, value in arguments.items():
        if ast.literal_eval(repr(value)) != value:
            raise ValueError(f"expected literal arguments of {name}, got {key}={value!r}")
        text = pformat(value, width=100 - len(key), compact=True)
        lines.append(textwrap.indent(f"{key}={text},", "    "))
    return f"{name}(\n" + "\n".join(lines) + "\n)"


def _description(genotype: Genotype, model: nn.Module, notes: Sequence[str]) -> str:
    """A description of the network for strangers, as the body of a docstring."""
    origin = genotype.provenance
    shape = ", ".join(map(str, genotype.in_shape))
    sections = [
        f"{type(genotype.space).__name__} network for {genotype.data}, found by evo_robust.",
        "",
        "Needs torch and nothing else; the weights lie beside this file.",
        "",
        "    import torch, model                    # this file",
        '    network = model.load()                 # eval mode; device="cuda" if wanted',
        f"    logits = network(images)               # float32 (n, {shape}), pixel values in [0, 1]",
        "    classes = logits.argmax(1)",
        "",
        "`python model.py` checks that the logits are those of the day it was written.",
        "",
        *_section("Input", _input_lines(genotype, model)),
        *_section(
            "Output", [f"logits of {genotype.n_classes} classes, in the order of the labels of {genotype.data}, from 0"]
        ),
        *_section("Architecture", [genotype.text]),
        *_section("Weights", notes),
        *_section("Objectives of the search (all minimised)", _objective_lines(genotype)),
        *_section("Further figures of the search", _table(genotype.figures)),
        *_section("Origin", _table({k: v for k, v in origin.items() if k not in ("versions", "retrained")})),
        *_section("Versions", _table(origin.get("versions", {}))),
    ]
    text = visible("\n".join(sections).strip())  # Python reads no file with zero bytes
    return text.replace("\\", "\\\\").replace('"""', "'''")


def _input_lines(genotype: Genotype, model: nn.Module) -> list[str]:
    c, h, w = genotype.in_shape
    lines = [f"images of {c} x {h} x {w} (channels, height, width), pixel values in [0, 1], not normalised"]
    for module in model.modules():
        if isinstance(module, Normalize):
            mean, std = (", ".join(f"{v:.4f}" for v in t.flatten().tolist()) for t in (module.mean, module.std))
            lines.append(f"the network itself normalises: mean {mean}; standard deviation {std}")
    return lines


def _objective_lines(genotype: Genotype) -> list[str]:
    return _table({k: f"{_number(v)} {genotype.units.get(k, '')}".strip() for k, v in genotype.objectives.items()})


def _table(values: Any) -> list[str]:
    """Aligned lines ``name  value``; nested values are flattened with dots."""
    flat = dict(_flatten(values))
    width = max(map(len, flat), default=0)
    return [f"{key:<{width}}  {_number(value)}" for key, value in flat.items()]


def _flatten(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        flat += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return flat


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    return ", ".join(map(_number, value)) if isinstance(value, list) else str(value)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    """A block with a title; nothing where it would be empty."""
    if not lines:
        return []
    wrapped = [
        part for line in lines for part in textwrap.wrap(line, 110, break_on_hyphens=False, subsequent_indent="  ")
    ]
    return [f"{title}:", *(f"    {line}" for line in wrapped), ""]
