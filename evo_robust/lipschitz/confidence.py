"""The confidence constraint Pr[λ_F ≤ λ*] ≥ η of RACL (Dong et al., 2020), and its augmented Lagrangian.

With ln λ_F ~ N(µ, σ²) the constraint holds where (ln λ* − µ)/σ ≥ Φ⁻¹(η), that is where c = µ + Φ⁻¹(η)·σ − ln λ* ≤ 0.
The paper prints c = µ + Φ⁻¹(η)·σ² − ln λ*, without the square root; both are here.

The paper gives neither λ* nor where µ and σ begin: :func:`calibrated_limit` takes λ* from what a search begins with.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal, get_args

import torch
from torch import Tensor

Form = Literal["corrected", "as_printed"]
"""``corrected`` has the standard deviation σ in the constraint, ``as_printed`` the paper's variance σ²."""


def confidence_constraint(
    mu: Tensor | float, var: Tensor | float, *, eta: float, limit: float, form: Form = "corrected"
) -> Tensor:
    """The constraint c: ≤ 0 where λ_F, with ln λ_F ~ N(µ, σ²), is at most λ* with confidence η.

    Differentiable in µ and σ².

    Args:
        mu: mean of ln λ_F.
        var: variance of ln λ_F, > 0.
        eta: confidence η in (0,1); RACL: 0.9.
        limit: λ* > 0.
        form: ``corrected`` (σ) or ``as_printed`` (σ²).

    Raises:
        ValueError: an argument is out of its range.
    """
    if not limit > 0 or math.isinf(limit):
        raise ValueError(f"expected a limit λ* > 0 and finite, got {limit}")
    return _quantile(mu, var, eta, form) - math.log(limit)


def calibrated_limit(
    mu: Tensor | float, var: Tensor | float, *, eta: float, factor: float = 1.0, form: Form = "corrected"
) -> float:
    """λ* relative to the initial supernet, whose ln λ_F ~ N(µ, σ²): ``factor`` times what it keeps with confidence η.

    The constraint of the supernet that it was taken from is c = −ln(factor): met from the start with a factor of 1
    or more, to be reached with a smaller one.

    Args:
        mu: mean of ln λ_F of the initial supernet.
        var: its variance, > 0.
        eta: confidence η in (0,1).
        factor: > 0.
        form: as the constraint will have it.

    Raises:
        ValueError: an argument is out of its range, or λ* is beyond what a float holds.
    """
    if not factor > 0 or math.isinf(factor):
        raise ValueError(f"expected factor > 0 and finite, got {factor}")
    log_limit = _quantile(mu, var, eta, form).item() + math.log(factor)
    try:
        return math.exp(log_limit)
    except OverflowError:
        raise ValueError(f"expected a λ* that a float holds, ln λ* < 709.7, got ln λ* = {log_limit:.1f}") from None


def lagrangian_term(c: Tensor, theta: float, rho: float) -> Tensor:
    """θc + (ρ/2)c², what the search's loss gets beside the cross-entropy; a scalar, differentiable in c.

    As the paper has it the square pulls a slack constraint (c < 0) back to 0 as well, weakly where ρ is small.

    Args:
        c: the constraint.
        theta: its multiplier θ, >= 0.
        rho: ρ > 0; RACL: 0.001.

    Raises:
        ValueError: θ or ρ is out of its range.
    """
    _check_multiplier(theta, rho)
    return theta * c + rho / 2 * c.square()


def dual_update(theta: float, c: Tensor | float, rho: float) -> float:
    """The next multiplier, max(0, θ + ρc): it grows while the constraint is broken, and never pushes towards it.

    Raises:
        ValueError: θ or ρ is out of its range.
    """
    _check_multiplier(theta, rho)
    return max(0.0, theta + rho * torch.as_tensor(c).item())


def check_confidence(eta: float) -> None:
    """Raise ``ValueError`` unless η is in (0,1)."""
    if not 0 < eta < 1:
        raise ValueError(f"expected confidence η in (0,1), such as 0.9, got {eta}")


def _quantile(mu: Tensor | float, var: Tensor | float, eta: float, form: str) -> Tensor:
    """µ + Φ⁻¹(η)·σ, with σ² in place of σ as printed."""
    check_confidence(eta)
    if form not in get_args(Form):
        raise ValueError(f"expected form corrected or as_printed, got {form!r}")
    mu, var = torch.as_tensor(mu), torch.as_tensor(var)
    if not bool((var > 0).all() & var.isfinite().all()):
        raise ValueError(f"expected a variance σ² > 0 of ln λ_F, got {var.min().item():g}")
    return mu + NormalDist().inv_cdf(eta) * (var.sqrt() if form == "corrected" else var)


def _check_multiplier(theta: float, rho: float) -> None:
    if not rho > 0 or math.isinf(rho):
        raise ValueError(f"expected ρ > 0 and finite, got {rho}")
    if not theta >= 0 or math.isinf(theta):
        raise ValueError(f"expected a multiplier θ >= 0 and finite, got {theta}")
