"""Threat model and the contract of attacks."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Literal, SupportsFloat, get_args

import chz
import torch
from torch import Tensor, nn

from evo_robust.parts.base import Fraction, Part

Norm = Literal["linf", "l2"]

_SPELLINGS = {"inf": "linf", "infinity": "linf", "linfinity": "linf", "linfty": "linf", "max": "linf", "2": "l2"}


def check_norm(norm: object, known: Sequence[str] = get_args(Norm)) -> None:
    """Refuse an unknown norm, or another spelling such as ``Linf``.

    Raises:
        ValueError: the norm is refused; the message gives the right spelling if it is close.
    """
    if norm in known:
        return
    plain = str(norm).lower().replace("_", "").replace("-", "").replace("∞", "inf")
    plain = _SPELLINGS.get(plain.removesuffix(".0"), plain)
    hint = f": did you mean {plain!r}?" if plain in known else ""
    raise ValueError(f"expected norm {' or '.join(known)}, got {norm!r}{hint}")


LEAST_EPS = 2.0**-25
"""No pixel near 1 notices less, since float32 images hold no such change. Far smaller radii would divide by zero."""


def check_eps(eps: object, norm: Norm = "linf", shape: Sequence[int] | None = None, *, name: str = "eps") -> float:
    """The radius of a ball as a float, checked; there is one rule for every ε.

    In L∞ it is at most 1, the whole pixel range. In L2 it is finite; where the images are known, it is at most their
    diagonal √(c·h·w), the largest possible distance. In both it is at least :data:`LEAST_EPS`.

    Args:
        eps: radius, in units of the pixel range 0..1.
        norm: norm of the ball.
        shape: ``(c, h, w)`` of the images; None where it is not known yet.
        name: name of the radius in a message.

    Raises:
        ValueError: the radius breaks the rule or is no number, or the norm is unknown.

    Example:
        >>> check_eps(8 / 255)
        0.03137254901960784
    """
    check_norm(norm)
    if isinstance(eps, bool) or not isinstance(eps, SupportsFloat):
        raise ValueError(f"expected {name} to be a number such as 8/255, got {eps!r}")
    try:
        value = float(eps)
    except OverflowError:
        value = math.inf
    widest = 1.0 if norm == "linf" else math.inf if shape is None else math.sqrt(math.prod(shape))
    if LEAST_EPS <= value <= widest and math.isfinite(value):
        return value
    if 0 < value < LEAST_EPS:
        raise ValueError(
            f"expected {name} >= {LEAST_EPS:.2g}, since float32 images hold no smaller change (units of the pixel "
            f"range 0..1, such as 8/255), got {value:g}"
        )
    wanted = "> 0 and finite" if math.isinf(widest) else f"in (0, {widest:.6g}]"
    images = "" if norm == "linf" or shape is None else f" and images {tuple(shape)}, whose diagonal that is"
    hint = f": did you mean {value:g}/255?" if 1 < value <= 255 else ""
    raise ValueError(
        f"expected {name} {wanted} with norm={norm}{images} (units of the pixel range 0..1, such as 8/255), "
        f"got {value:g}{hint}"
    )


def widest(norm: Norm, shape: Sequence[int]) -> float:
    """The largest distance between two images ``(c, h, w)`` in [0,1]."""
    return 1.0 if norm == "linf" else math.sqrt(math.prod(shape))


def check_step(step: float, farthest: float, norm: Norm, *, name: str = "step") -> None:
    """Refuse a step longer than a ball's diameter, which leaves the ball from every starting point.

    Raises:
        ValueError: the step is too long; the message gives the largest useful one.
    """
    if step <= farthest * (1 + 1e-6):
        return
    hint = f": did you mean {step:g}/255?" if 1 <= step <= 255 * farthest else ""
    raise ValueError(
        f"expected {name} at most {farthest:.6g}, the diameter of the {norm} ball (units of the pixel range 0..1, such "
        f"as 2/255), or None, which follows eps, got {step:g}{hint}"
    )


@chz.chz
class Threat(Part):
    """The threat model: the ball around an image that perturbations must stay in. Images are in [0,1].

    Training, objectives and final evaluations all use it. ε is in (0, 1] for L∞, and finite and > 0 for L2. An L2 ball
    must not be larger than the images' diagonal; this is checked at the start of a search, and in each attack.
    """

    norm: Norm = chz.field(default="linf", doc="linf or l2")
    eps: Fraction = chz.field(
        default=Fraction(8 / 255), doc="radius, in units of the pixel range 0..1; at most 1 in linf"
    )

    @chz.validate
    def _one_rule(self) -> None:
        check_eps(self.eps, self.norm)

    def check_shape(self, in_shape: tuple[int, int, int], key: str) -> None:
        """See :meth:`Part.check_shape`: no ball is wider than the images' diagonal."""
        check_eps(self.eps, self.norm, in_shape, name=f"{key}eps")


@chz.chz
class Attack(Part, abc.ABC):
    """A way to find adversarial images."""

    @property
    def words(self) -> str:
        """Its name in tables and captions: the class, and the number of steps if there are several."""
        return type(self).__name__

    @property
    def access(self) -> str:
        """What it needs of the network, in words: ``white-box`` (its gradients) unless it says otherwise."""
        return "white-box"

    def check(self, threat: Threat, in_shape: tuple[int, int, int], key: str = "") -> None:  # noqa: B027 (most take any)
        """Refuse a ball in which it cannot attack; parts with an attack call this before anything is written.

        Args:
            threat: the ball; where there are several, the widest. Its radius is in units of the pixel range 0..1.
            in_shape: of the images, ``(c, h, w)``.
            key: what stands before its fields where a user types them, such as ``objectives.1.attack.``.

        Raises:
            ValueError: naming what was expected.
        """

    @abc.abstractmethod
    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
        """Adversarial images, inside the threat's ball around ``x`` and inside [0,1].

        Leaves the model's mode, running statistics, gradients and ``requires_grad`` flags as they were.

        Args:
            model: network from images in [0,1] to logits ``(n, n_classes)``.
            x: float32 images ``(n, c, h, w)`` in [0,1].
            y: true classes, int64 ``(n,)``.
            threat: the ball; its radius is in units of the pixel range 0..1.
            generator: source of all random numbers, on the images' device.

        Returns:
            Images of the shape and type of ``x``.

        Raises:
            ValueError: the attack knows no such ball.
        """


def check_attack(attack: Attack, eps: Sequence[float], norm: Norm, in_shape: tuple[int, int, int], key: str) -> None:
    """What a part with the fields ``attack``, ``eps`` and ``norm`` asks in its :meth:`Part.check_shape`.

    Args:
        attack: of the part.
        eps: its strengths, at least one.
        norm: of the balls.
        in_shape: of the images, ``(c, h, w)``.
        key: what stands before the part's fields where a user types them.

    Raises:
        ValueError: a strength is beyond the images' diagonal, or the attack refuses the widest ball.
    """
    for radius in eps:
        check_eps(radius, norm, in_shape, name=f"{key}eps")
    attack.check(Threat(norm=norm, eps=Fraction(max(eps))), in_shape, f"{key}attack.")
