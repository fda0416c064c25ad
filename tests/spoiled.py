"""Files that something spoiled, each with the command that reads it and what the one message about it must name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Damage(NamedTuple):
    """A spoiled file: its path below the test's folder, what happens to it, the command that reads it, the message."""

    file: str
    what: str
    spoil: Callable[[Path], Any]
    command: str
    said: str


def _written(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _as_utf16(path: Path) -> None:
    path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 0xFF
    path.write_bytes(content)


_ANY_JSON: list[tuple[str, Callable[[Path], Any]]] = [
    ("empty", _written(b"")),
    ("cut in the middle", _cut),
    ("binary rubbish", _written(bytes(range(256)))),
    ("a list", _written(b"[]")),
    ("null", _written(b"null")),
    ("another's JSON", _written(b'{"schema": 1}')),
    ("NaN", _written(b'{"schema": NaN}')),
    ("beyond numbers", _written(b'{"schema": 1e999}')),
    ("5000 digits", _written(b'{"schema": ' + b"7" * 5000 + b"}")),
    ("nested", _written(b'{"schema": ' + b"[" * 50_000 + b"]" * 50_000 + b"}")),
    ("a key twice", _written(b'{"schema": 1, "schema": 1}')),
    ("half a surrogate", _written(b'{"schema": "\\udc00"}')),
    ("UTF-16", _as_utf16),
    ("a folder in its place", _to_folder),
]
_ANY_TENSORS: list[tuple[str, Callable[[Path], Any]]] = [
    ("empty", _written(b"")),
    ("cut in the middle", _cut),
    ("binary rubbish", _written(bytes(range(256)) * 4)),
    ("a byte flipped", _flipped),
    ("text", _written(b"weights")),
    ("a folder in its place", _to_folder),
]


def _set(*keys: str, to: Any) -> Callable[[Path], Any]:
    """Put a value into a JSON file, below ``keys``."""

    def spoil(path: Path) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        place = content
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to
        path.write_text(json.dumps(content), encoding="utf-8")

    return spoil


def _without(key: str) -> Callable[[Path], Any]:
    def spoil(path: Path) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        del content[key]
        path.write_text(json.dumps(content), encoding="utf-8")

    return spoil


def _row(line: int, **values: Any) -> Callable[[Path], Any]:
    """Put values into a line of the ledger; ``None`` takes the key away."""

    def spoil(path: Path) -> None:
        lines = path.read_text(encoding="utf-8").splitlines()
        row = {**json.loads(lines[line - 1]), **values}
        lines[line - 1] = json.dumps({key: value for key, value in row.items() if value is not None})
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    return spoil


def _line(line: int, text: bytes) -> Callable[[Path], Any]:
    def spoil(path: Path) -> None:
        lines = path.read_bytes().splitlines()
        lines[line - 1] = text
        path.write_bytes(b"\n".join(lines) + b"\n")

    return spoil


_LEDGER: list[tuple[str, Callable[[Path], Any], str]] = [
    ("empty", _written(b""), "no candidate "),
    ("binary rubbish", _written(bytes(range(256)) * 2 + b"\n"), "line 1 is damaged"),
    ("UTF-16", _as_utf16, "line 1 is damaged"),
    ("a folder in its place", _to_folder, "evaluations.jsonl"),
    ("a line empty", _line(2, b""), "line 2 is damaged"),
    ("a line cut", _line(2, b'{"id": 1, "generation"'), "line 2 is damaged"),
    ("a line of another kind", _line(2, b"[1, 2]"), "[1, 2]"),
    ("beyond numbers", _line(2, b'{"id": 1e999}'), "1e999"),
    ("5000 digits", _line(2, b'{"id": ' + b"7" * 5000 + b"}"), "5000 digits"),
    ("nested", _line(2, b'{"id": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"), "nested"),
    ("NaN", _line(2, b'{"id": NaN}'), "NaN"),
    ("text for a figure", _row(2, objectives={"clean_error": "low", "flops": 1}), "'objectives'"),
    ("no objectives", _row(2, objectives={}), "no objectives"),
    ("an objective less", _row(2, objectives={"flops": 1}), "clean_error"),
    ("no figures", _row(2, figures=None), "'figures'"),
    ("figures of another kind", _row(2, figures=[1]), "'figures', got [1]"),
    ("recorded of another kind", _row(2, recorded="none"), "'recorded', got"),
    ("constraints of another kind", _row(2, constraints=[0]), "'constraints', got"),
    ("a fingerprint of another kind", _row(2, fingerprint=5), "'fingerprint', got 5"),
    ("a negative id", _row(2, id=-1), "'id', got -1"),
    ("a huge id", _row(2, id=10**15), "'id', got 1000000000000000"),
    ("an id twice", _line(2, b""), "line 2 is damaged"),
    ("generation -1", _row(2, generation=-1), "'generation', got -1"),
    ("a short genome", _row(2, genome=[0, 1]), "its genome has 2 genes"),
    ("a gene too large", _row(2, genome=[9] * 12), "genome"),
    ("a status of another kind", _row(2, status="done"), "'status', got"),
    ("another notation", _row(2, architecture="[1]"), "its genome is that of"),
]
_PROBLEM: list[tuple[str, Callable[[Path], Any], str]] = [
    ("another schema", _set("schema", to=2), "schema 1"),
    ("values edited", _set("values", "algorithm.pop_size", to=77), "algorithm.pop_size: 2 → 77"),
    ("an unknown part", _set("values", "algorithm", to="NSGA9"), "NSGA9"),
    ("an unknown key", _set("values", "algorithm.popsize", to=3), "popsize"),
    ("a value out of range", _set("values", "seed", to=-1), "seed"),
    ("a value of another type", _set("values", "seed", to={"a": 1}), "seed"),
    ("code for a value", _set("values", "seed", to="os:system"), "seed"),
    ("values of another kind", _set("values", to=[1]), "'values'"),
    ("identity of another kind", _set("identity", to="same"), "'identity'"),
    ("source of another kind", _set("source", to=5), "'source', got 5"),
    ("no values", _without("values"), "'values'"),
    ("no identity", _without("identity"), "'identity'"),
]
_GENOTYPE: list[tuple[str, Callable[[Path], Any], str]] = [
    ("another schema", _set("schema", to=3), "schema 3"),
    ("another notation", _set("architecture", to="[1]"), "[1]"),
    ("no notation", _set("architecture", to=5), "got 5"),
    ("an unknown space", _set("space", "class", to="NSGAPhase"), "'NSGAPhases'"),
    ("code for a space", _set("space", "class", to="os:system"), "os:system"),
    ("code for a size", _set("space", "channels", to="os:system"), "channels"),
    ("a huge size", _set("space", "channels", to=10**9), "channels"),
    ("a size of another type", _set("space", "channels", to="wide"), "channels"),
    ("an unknown key of the space", _set("space", "depth", to=3), "depth"),
    ("no space", _without("space"), "'space'"),
    ("no classes", _set("data", "n_classes", to=0), "n_classes"),
    ("huge images", _set("data", "in_shape", to=[1, 10**12, 8]), "in_shape"),
    ("images of another kind", _set("data", "in_shape", to="8x8"), "in_shape"),
    ("objectives of another kind", _set("objectives", to=[1]), "'objectives'"),
    ("provenance of another kind", _set("provenance", to="mine"), "'provenance'"),
]
_RESULT: list[tuple[str, Callable[[Path], Any], str]] = [
    ("another schema", _set("schema", to=3), "got 3"),
    ("a figure less", _without("clean_error"), "'clean_error'"),
    ("text for a figure", _set("error", to=["low"]), "'error'"),
    ("a strength less", _set("eps", to=[]), "'eps'"),
]


def damages() -> list[Damage]:
    """Every damage, none twice; the commands are those of ``COMMANDS``."""
    found = []
    for command in ("plot", "export", "analyze"):
        found += [Damage("run/evaluations.jsonl", what, spoil, command, said) for what, spoil, said in _LEDGER]
        found += [Damage("run/problem.json", what, spoil, command, said) for what, spoil, said in _PROBLEM]
    found += [Damage("run/evaluations.jsonl", *case[:2], "run", case[2]) for case in _LEDGER[1:] if _on_resume(case[0])]
    found += [Damage("run/problem.json", what, spoil, "run", said) for what, spoil, said in _PROBLEM]
    for command in ("plot", "run"):
        found += [Damage("run/problem.json", what, spoil, command, "problem.json") for what, spoil in _ANY_JSON]
    found += [Damage("genotype.json", what, spoil, "retrain", said) for what, spoil, said in _GENOTYPE]
    found += [Damage("genotype.json", what, spoil, "retrain", "genotype.json") for what, spoil in _ANY_JSON]
    found += [Damage("retrained/result.json", what, spoil, "export retrained", said) for what, spoil, said in _RESULT]
    for name in ("result.json", "genotype.json"):
        found += [
            Damage(f"retrained/{name}", what, spoil, "export retrained", name)
            for what, spoil in _ANY_JSON
            if what != "a folder in its place"  # then there is no such file
        ]
    found += [Damage("begun/retrain.json", what, spoil, "go on", "retrain.json") for what, spoil in _ANY_JSON[:-1]]
    for file, command in (
        ("retrained/model.safetensors", "export retrained"),
        ("begun/checkpoint.safetensors", "go on"),
        ("cache/adversarial/*/search.safetensors", "attack again"),
    ):
        found += [Damage(file, what, spoil, command, ".safetensors") for what, spoil in _ANY_TENSORS]
    return list({(damage.file, damage.what, damage.command): damage for damage in found}.values())


def _on_resume(what: str) -> bool:
    """Whether going on with a search minds: what a figure's name should be, its replay finds out."""
    return what != "an objective less"


COMMANDS = {
    "plot": ("plot", ("run={run}", "out=new")),
    "export": ("export", ("run={run}", "weights=false", "out=new")),
    "analyze": ("analyze", ("run={run}", "objective=clean_error", "out=new")),
    "run": ("run", ("out={run}",)),
    "retrain": ("retrain", ("genotype={genotype}", "out=new")),
    "export retrained": ("export", ("run={retrained}", "onnx=false", "out=new")),
    "go on": ("retrain", ("genotype={genotype}", "epochs=2", "out={begun}")),
    "attack again": ("run", ("out={run}",)),
}
"""Commands that read the files, as ``malformed.Command`` writes their names and arguments."""
