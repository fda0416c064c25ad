"""What this package uses of chz beside its public names: when chz changes it, this says so."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import tomllib
from typing import Any

import chz
import pytest
from chz.blueprint import _entrypoint
from places import ROOT

from evo_robust.parts.base import Part
from evo_robust.parts.chz_inside import (
    Missing,
    Refused,
    Unknown,
    arguments_of,
    build,
    class_made_of,
    given_name,
    is_default,
    is_required,
    values_of,
)


@chz.chz
class Wheel(Part):
    size: int = 3


@chz.chz
class Spoked(Wheel):
    spokes: int = 20


@chz.chz
class Cart(Part):
    owner: str = chz.field(doc="whose it is")
    wheel: Wheel = chz.field(default_factory=lambda: Spoked(spokes=8), blueprint_unspecified=Wheel, doc="on it rolls")
    others: tuple[Wheel, ...] = ()
    load: int = chz.field(default=2, munger=lambda _, value: 10 * value)


def test_messages_of_refusals_are_read() -> None:
    with pytest.raises(Unknown) as unknown:
        build(Cart, [("a", {"owner": "me", "whel": 1})])
    assert unknown.value.key == "whel"
    with pytest.raises(Missing) as missing:
        build(Cart, [("a", {"load": 1})])
    assert missing.value.keys == "owner"
    with pytest.raises(Refused) as refused:
        build(Cart, [("a", {"owner": "me", "wheel": Wheel(), "wheel.size": 3})])
    assert not isinstance(refused.value, (Unknown, Missing)) and "wheel" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_chz_itself_raises_what_is_caught() -> None:
    # the words that are read are chz's own, said here as it says them
    blueprint = chz.Blueprint(Cart)
    with pytest.raises(_entrypoint.EntrypointException, match=r"^Extraneous argument 'whel'"):
        blueprint.clone().apply({"owner": "me", "whel": 1}).make()
    with pytest.raises(
        _entrypoint.EntrypointException, match=r"^Missing required arguments for parameter\(s\): owner$"
    ):
        blueprint.clone().make()


def test_later_values_lie_over_earlier_ones() -> None:
    assert build(Cart, [("a", {"owner": "me", "wheel.size": 5}), ("b", {"wheel.size": 6})]) == Cart(
        owner="me", wheel=Wheel(size=6)
    )


def test_keys_with_values_types_and_meanings() -> None:
    layers: list[tuple[str, dict[str, Any]]] = [("base", {"wheel": Spoked}), ("line", {"others.0": Wheel, "load": 4})]
    found = {argument.key: argument for argument in arguments_of(Cart, layers)}
    keys = ["owner", "wheel", "wheel.size", "wheel.spokes", "others", "others.0", "others.0.size", "load"]
    assert sorted(found) == sorted(keys)
    assert (found["owner"].required, found["owner"].doc, found["owner"].kind) == (True, "whose it is", str)
    assert (found["wheel"].value, found["wheel"].layer) == (Spoked, "base")
    assert (found["wheel.spokes"].value, found["wheel.spokes"].layer) == (20, None)
    assert (found["load"].value, found["load"].layer, found["load"].required) == (4, "line", False)
    assert found["others.0"].value is Wheel and not found["others"].required
    with pytest.raises(Refused):
        arguments_of(Cart, [("a", {"wheel": 7, "wheel.size": 3})])


def test_values_by_dotted_key() -> None:
    values = values_of(Cart(owner="me", wheel=Spoked(), load=3))
    assert values["wheel"] is Spoked and values["wheel.spokes"] == 20 and values["owner"] == "me"
    assert build(Cart, [("a", values)]).load == 30


def test_private_attributes_of_fields() -> None:
    fields = chz.chz_fields(Cart)
    assert {name: is_required(field) for name, field in fields.items()} == {
        "owner": True, "wheel": False, "others": False, "load": False,
    }  # fmt: skip
    assert is_default(fields["load"], 2) and not is_default(fields["load"], 3)
    assert is_default(fields["wheel"], Spoked(spokes=8)) and not is_default(fields["wheel"], Wheel())
    assert class_made_of(fields["wheel"]) is Wheel and class_made_of(fields["owner"]) is None
    cart = Cart(owner="me", load=3)
    assert getattr(cart, given_name(fields["load"])) == 3 and cart.load == 30
    assert getattr(cart, given_name(fields["owner"])) == "me"


def test_no_other_file_uses_what_is_private() -> None:
    private = {
        node.attr
        for node in ast.walk(ast.parse((ROOT / "evo_robust/parts/chz_inside.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_")
    } - {"__init__"}
    assert private >= {"_munger", "_default", "_default_factory", "_blueprint_unspecified", "_make_lazy", "_arg_map"}
    for path in [*(ROOT / "evo_robust").rglob("*.py"), *(ROOT / "problems").glob("*.py")]:
        if path == ROOT / "evo_robust/parts/chz_inside.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                assert node.attr not in private, f"{path}:{node.lineno}"
                assert node.attr not in ("Blueprint", "beta_to_blueprint_values"), f"{path}:{node.lineno}"
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("chz"), f"{path}:{node.lineno}"


def test_the_version_is_bounded() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (bounds,) = [one for one in wanted if one.startswith("chz")]
    match = re.fullmatch(r"chz>=(\d+)\.(\d+),<(\d+)\.(\d+)", bounds)
    assert match, bounds
    low, high = (tuple(map(int, pair)) for pair in (match.groups()[:2], match.groups()[2:]))
    installed = tuple(map(int, importlib.metadata.version("chz").split(".")[:2]))
    assert low <= installed < high
