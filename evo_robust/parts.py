"""Configurable parts: immutable typed values, what they are made of as plain text, and their digest."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import chz


@chz.chz
class Part:
    """Base of everything that a problem is made of: immutable, typed, keyword-only."""


class Fraction(float):
    """A float that may be written as a quotient: ``8/255`` on the command line is 0.03137…"""

    @classmethod
    def __chz_cast__(cls, text: str) -> Fraction:
        numerator, slash, denominator = text.partition("/")
        try:
            return cls(float(numerator) / float(denominator) if slash else float(numerator))
        except (ValueError, ZeroDivisionError):
            # chz swallows this type and falls back to its own message, so the text says it all
            raise ValueError(f"expected a number such as 0.03 or 8/255, got {text!r}") from None


class UserError(Exception):
    """A mistake that the person at the keyboard can mend: shown as one message, exit status 2."""


def nearest(word: str, options: Iterable[str]) -> str:
    """Sentence that names the options closest to ``word``, or all of them when none is close."""
    known = sorted(options)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"expected one of: {', '.join(known)}"


def dotted(part: object) -> dict[str, Any]:
    """Flat values of ``part`` as a user types them: ``{"algorithm": "NSGA2", "algorithm.pop_size": 40, …}``.

    Parts appear by class name, everything else as JSON values (tuples as lists).
    """
    values = chz.beta_to_blueprint_values(part)
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Part):
        return {"class": type(value).__name__, **dotted(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(value)
    if value is None or isinstance(value, (str, int, bool)):
        return value
    raise TypeError(f"expected a part, text, number or tuple of these, got {value!r}")


def digest(*things: object, length: int = 16) -> str:
    """Hexadecimal digest of parts and plain values; equal for equal settings in every process."""
    payload = [
        {"class": type(t).__name__, **dotted(t)} if isinstance(t, Part) else t for t in things
    ]
    text = json.dumps(payload, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def seed_from(*things: object) -> int:
    """Seed in [0, 2**63) that depends on its arguments alone, never on order of work or clock."""
    return int(digest(*things), 16) >> 1


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines ``key: old → new`` for every key whose value differs."""
    keys = sorted(old.keys() | new.keys())
    missing = "(absent)"
    return [
        f"{k}: {old.get(k, missing)} → {new.get(k, missing)}"
        for k in keys
        if old.get(k, missing) != new.get(k, missing)
    ]
