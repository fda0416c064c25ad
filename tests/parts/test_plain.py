"""Plain values of parts' fields: what text and files may say, and what every part refuses where it is made."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import chz
import numpy as np
import pytest

from evo_robust import NSGA2, PGD, CleanError, Digits, NSGAPhases, PGDTraining, RobustError, Standard, Threat
from evo_robust.parts.base import Part, UserError, digest, dotted, refuse_unwritable, subclasses
from evo_robust.parts.making import make
from evo_robust.parts.plain import Fraction, fault, from_json, read
from evo_robust.parts.resolve import from_dotted
from evo_robust.spaces.base import SearchSpace

Word = Literal["linf", "l2"]


class Typed(TypedDict):
    a: int


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("7", int, 7),
        ("-1", int, -1),
        ("8/255", Fraction, 8 / 255),
        ("1e-3", float, 1e-3),
        ("None", float | None, None),
        ("0.5", float | None, 0.5),
        ("None", str | None, None),
        ("os:system", str, "os:system"),
        ("yes", bool, True),
        ("False", bool, False),
        ("l2", Word, "l2"),
        ("", tuple[int, ...], ()),
        ("1,2,3", tuple[int, ...], (1, 2, 3)),
        ("0.1,8/255", tuple[Fraction, ...], (0.1, 8 / 255)),
        ("0.5,0.9", tuple[float, float], (0.5, 0.9)),
        ("a/b", Path, Path("a/b")),
    ],
)
def test_text_is_read_as_what_the_field_takes(text: str, kind: Any, value: object) -> None:
    found = read(text, kind)
    assert found == value and type(found) is (Fraction if kind is Fraction else type(value))


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("os:system", int, "a whole number"),
        ("7.5", int, "a whole number"),
        ("٣", int, "a whole number"),
        ("9" * 5000, int, "a whole number"),
        ("9" * 23, int, "a whole number of at most 9,223,372,036,854,775,807"),
        ("-" + "9" * 23, int | None, "a whole number or None of at most 9,223,372,036,854,775,807"),
        ("", int, "a whole number"),
        ("inf", float, "a finite number"),
        ("nan", float | None, "a finite number or None"),
        ("1e999", Fraction, "a finite number such as 8/255"),
        ("1/0", Fraction, "a number such as 8/255"),
        ("maybe", bool, "true or false"),
        ("Linf", Word, "'linf' or 'l2': did you mean 'linf'"),
        ("L_inf", Word, "did you mean 'linf'"),
        ("inf", Word, "did you mean 'linf'"),
        ("l2,Linf", tuple[Word, ...], "'linf' or 'l2', several with commas between: did you mean 'linf'"),
        ("1,,2", tuple[int, ...], "a whole number, several with commas between"),
        ("0.5", tuple[float, float], "(a number, a number)"),
    ],
)
def test_other_text_is_refused_with_what_was_expected(text: str, kind: Any, expected: str) -> None:
    with pytest.raises(ValueError) as error:
        read(text, kind)
    assert expected in str(error.value)


def test_a_file_holds_lists_for_tuples_and_whole_numbers_for_numbers() -> None:
    assert from_json([1, 2], tuple[int, ...]) == (1, 2)
    assert type(from_json(1, float)) is float and type(from_json(0.5, Fraction | None)) is Fraction
    assert type(from_json(1, int | float)) is int
    assert from_json("None", str | None) == "None"  # a name, unlike what a user types
    for value, kind in (
        (True, int),
        (1.5, int),
        (None, int),
        ({}, str),
        ([1], int),
        ("os:system", float),
        ([[1]], Word),
    ):
        with pytest.raises(ValueError):
            from_json(value, kind)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (Threat, {"norm": "Linf"}, r"Threat\.norm to be 'linf' or 'l2', got 'Linf': did you mean 'linf'\?"),
        (Threat, {"norm": "L2"}, "did you mean 'l2'"),
        (Threat, {"norm": "l1"}, r"Threat\.norm"),
        (Threat, {"eps": "8/255"}, r"Threat\.eps to be a number such as 8/255, got '8/255': without quotes"),
        (Threat, {"eps": math.inf}, r"Threat\.eps to be a finite number"),
        (Threat, {"eps": None}, r"Threat\.eps"),
        (PGD, {"loss": "sharpness"}, r"PGD\.loss to be 'ce', 'margin', 'kl', 'dlr'"),
        (PGD, {"step": math.inf}, r"PGD\.step to be a finite number"),
        (PGD, {"steps": 7.5}, r"PGD\.steps to be a whole number, got 7\.5"),
        (PGD, {"steps": True}, r"PGD\.steps"),
        (PGD, {"random_start": 1}, r"PGD\.random_start to be true or false"),
        (Standard, {"schedule": "linear"}, r"Standard\.schedule to be 'cosine', 'constant', 'step' or 'cyclic'"),
        (Standard, {"precision": "fp16"}, r"Standard\.precision to be 'float32' or 'bf16'"),
        (Standard, {"lr": math.nan}, r"Standard\.lr to be a finite number, got nan"),
        (Standard, {"clip": math.inf}, r"Standard\.clip to be a finite number or None"),
        (Standard, {"milestones": [1, 2]}, r"Standard\.milestones .*: a tuple, \(1, 2,\)"),
        (NSGA2, {"crossover": "uniform"}, r"NSGA2\.crossover to be 'blocks' or 'two_point'"),
        (NSGA2, {"mutation": "polynomial"}, r"NSGA2\.mutation"),
        (NSGA2, {"pop_size": 7.5}, r"NSGA2\.pop_size to be a whole number"),
        (Digits, {"train_limit": "40"}, r"Digits\.train_limit .*without quotes"),
        (PGDTraining, {"attack": "PGD"}, r"PGDTraining\.attack to be a GradientAttack"),
        (RobustError, {"eps": (0.1, "0.2")}, r"RobustError\.eps"),
        (CleanError, {"limit": np.float32(3)}, r"CleanError\.limit"),
    ],
)  # fmt: skip
def test_python_is_checked_like_the_command_line(part: type[Part], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        part(**values)


def test_numbers_of_numpy_are_numbers() -> None:
    ours, numpys = PGD(steps=7, step=0.1), PGD(steps=np.int64(7), step=np.float64(0.1))
    assert dotted(ours) == dotted(numpys) and digest(ours) == digest(numpys)
    assert fault(np.float32(np.nan), float) == "a finite number, got np.float32(nan)"


def test_every_field_of_every_shipped_part_is_checked() -> None:
    """Whatever a field takes, an object that is none of it is refused where the part is made."""

    class Nothing:
        pass

    refused = 0
    for name, cls in subclasses(Part).items():
        if not cls.__module__.startswith("evo_robust."):
            continue
        for field in chz.chz_fields(cls):
            try:
                cls(**{field: Nothing()})
            except ValueError as error:
                assert f"{name}.{field}" in str(error)
                refused += 1
            except TypeError as error:  # other fields have no default
                assert "missing" in str(error)
    assert refused > 200


@pytest.mark.parametrize(
    "given",
    [
        {"channels": "os:system", "channels.command": "true"},
        {"channels": "os:system"},
        {"channels.command": "true"},
        {"channels": "builtins:int"},
        {"channels": "lambda: 3", "channels.x": "1"},
        {"decoder": "os:system", "decoder.command": "true"},
        {"nodes": "4", "...channels": "4"},
    ],
)
def test_no_value_is_looked_up_or_called(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    called: list[object] = []
    monkeypatch.setattr(os, "system", called.append)
    with pytest.raises(UserError):
        make(NSGAPhases, given, {}, "test")
    with pytest.raises(ValueError):
        from_dotted(SearchSpace, given, "NSGAPhases")
    assert not called


@pytest.mark.parametrize(
    ("space", "size"),
    [
        ("NSGAPhases", "channels=1000000000"),
        ("NSGAPhases", "nodes=1000"),
        ("NSGAPhases", "phases=1000000"),
        ("NSGAPhases", "dense_channels=1000000"),
        ("RobNet", "layers=1000000000"),
        ("RobNet", "final_channels=1000000"),
        ("DARTS", "nodes=1000"),
        ("DARTS", "channels=1000000"),
    ],
)
def test_sizes_have_a_stated_bound(space: str, size: str) -> None:
    name, _, value = size.partition("=")
    with pytest.raises(ValueError, match=rf"expected {name} in [12]\.\.\d+, got {value}"):
        from_dotted(SearchSpace, {name: int(value)}, space)


@chz.chz
class Unusual(Part):
    """Fields as users may declare them, beyond what this package has."""

    later: OnlyTypeCheckersKnow = None  # type: ignore[name-defined] # noqa: F821
    half: float = chz.field(default="1/2", munger=lambda part, text: 0.5, x_type=str)
    noted: Annotated[int, {"unit": "s"}] = 1
    words: Annotated[int, "s"] = 1
    table: dict[str, float] = chz.field(default_factory=dict)
    call: Callable[[int], int] = abs
    many: tuple[int, *tuple[str, ...]] = (1, "a", "b")  # type: ignore[assignment]
    typed: Typed = chz.field(default_factory=dict)  # type: ignore[assignment]


def test_types_of_ones_own_are_not_refused() -> None:
    assert Unusual(later=3, table={"a": 1.0}).half == 0.5
    with pytest.raises(ValueError, match=r"Unusual\.half to be text, got 3"):
        Unusual(half=3)
    with pytest.raises(ValueError, match=r"Unusual\.words to be a whole number"):
        Unusual(words="s")


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Mode(enum.StrEnum):
    FAST = "quick"


class Bits(enum.Flag):
    A = 1
    B = 2


@chz.chz
class Filed(Part):
    """Fields whose values files hold as text."""

    path: Path = Path("a/b")
    places: tuple[Path, ...] = (Path("c"),)
    colour: Colour = Colour.RED
    colours: tuple[Colour, ...] = (Colour.BLUE, Colour.RED)
    mode: Mode | None = Mode.FAST
    whole: int = 3
    flag: bool = True
    word: Literal["a", 1] = "a"
    name: str = "x"


def test_paths_and_members_of_enums_are_recorded_and_read_again() -> None:
    part = Filed(path=Path("/x"), colour=Colour.BLUE)
    written = json.loads(json.dumps(dotted(part)))
    assert (written["path"], written["colour"], written["mode"], written["places"]) == ("/x", "BLUE", "FAST", ["c"])
    assert from_dotted(Filed, written) == part and digest(part) != digest(Filed())


@chz.chz
class Unrecorded(Part):
    """Fields that no file can hold."""

    table: dict[str, float] | None = None
    parts: dict[str, Filed] | None = None
    call: Callable[[int], int] | None = None
    anything: Any = None
    text_or_path: str | Path = "a"
    bits: Bits = Bits.A
    mixed: tuple[Any, ...] = ()
    array: Any = None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("table", {"a": 1.0}),
        ("parts", {"a": Filed()}),
        ("call", abs),
        ("anything", Path("a")),
        ("anything", Colour.RED),
        ("anything", {1}),
        ("text_or_path", Path("a")),
        ("bits", Bits.A | Bits.B),
        ("mixed", (Filed(), 1)),
        ("array", np.zeros(3)),
    ],
)
def test_what_no_record_could_hold_is_named(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"Unrecorded\.{field} cannot be recorded .*expected a part, text, a"):
        refuse_unwritable(Unrecorded(**{field: value}))
    refuse_unwritable((Unrecorded(), Filed()))


def test_scalars_of_numpy_are_stored_as_what_they_stand_for() -> None:
    part = Filed(whole=np.int64(3), flag=np.True_, word=np.str_("a"), name=np.str_("x"))
    assert part == Filed() and digest(part) == digest(Filed())
    assert [type(v) for v in (part.whole, part.flag, part.word, part.name)] == [int, bool, str, str]
    assert type(Filed(word=np.int64(1)).word) is int
    eps = RobustError(eps=(np.float64(0.1), np.float32(0.25))).eps
    assert eps == (0.1, 0.25) and not any(isinstance(value, np.generic) for value in eps)
    for field, value in (("flag", np.int64(1)), ("whole", np.True_), ("word", np.int64(2)), ("whole", np.float64(3))):
        with pytest.raises(ValueError, match=rf"Filed\.{field}"):
            Filed(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("path", "a/b", r": in Python Path\('a/b'\)$"),
        ("places", "a,b", r": in Python \(PosixPath"),
        ("colour", "RED", r": in Python Colour\.RED$"),
        ("colour", "red", r"got 'red'$"),
        ("whole", "3", ": without quotes in Python$"),
        ("flag", "yes", ": in Python True$"),
        ("name", 3, "got 3$"),
    ],
)
def test_how_a_text_is_written_in_python(field: str, value: Any, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"Filed\.{field} .*{hint}"):
        Filed(**{field: value})


def test_a_million_values_are_refused_at_once_and_not_repeated() -> None:
    many = tuple(range(1, 1_000_001))
    calls: list[Callable[[], object]] = [
        lambda: Standard(schedule="step", milestones=many),
        lambda: from_dotted(Standard, {"milestones": list(many)}),
        lambda: make(Standard, {"milestones": ",".join(map(str, many))}, {}, "test"),
    ]
    for call in calls:
        with pytest.raises((ValueError, UserError), match=r"at most 100,000 values, got 1,000,000") as caught:
            call()
        assert len(str(caught.value)) < 400
    with pytest.raises(ValueError, match="with schedule=step") as shorter:
        Standard(milestones=many[:50_000])
    assert len(str(shorter.value)) < 400
