"""The confidence constraint Pr[λ_F ≤ λ*] ≥ η of RACL (Dong et al., 2020), and its augmented Lagrangian.

With ln λ_F ~ N(µ, σ²) the constraint holds where (ln λ* − µ)/σ ≥ Φ⁻¹(η), that is where c = µ + Φ⁻¹(η)·σ − ln λ* ≤ 0.
The paper prints c = µ + Φ⁻¹(η)·σ² − ln λ*, without the square root. Both are here.

Where σ is too large for moments, :func:`kept` can draw instead.

The paper gives neither λ* nor the first µ and σ. :func:`calibrated_limit` takes λ* from the first supernet of a search.

λ_F of a deep network is too large for a float. So limits are logarithms, ln λ*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from evo_robust.lipschitz.moments import CHECKED, Cells, network_moments
from evo_robust.lipschitz.operations import ConstantRule
from evo_robust.lipschitz.sampled import network_draws

ConstraintForm = Literal["corrected", "as_printed"]
"""``corrected`` has the standard deviation σ in the constraint, ``as_printed`` the paper's variance σ²."""


Quantile = Literal["moments", "sampled"]
"""How what λ_F keeps with confidence is found: from its moments, as in the paper, or from draws."""


class Settings(Protocol):
    """What the constraint on a distribution and that on an architecture both let a user choose."""

    @property
    def eta(self) -> float: ...  # noqa: D102
    @property
    def form(self) -> ConstraintForm: ...  # noqa: D102
    @property
    def cells(self) -> Cells: ...  # noqa: D102
    @property
    def constants(self) -> ConstantRule: ...  # noqa: D102
    @property
    def quantile(self) -> Quantile: ...  # noqa: D102
    @property
    def draws(self) -> int: ...  # noqa: D102


def checks(settings: Settings) -> tuple[tuple[str, bool, str], ...]:
    """Their ranges, as :func:`evo_robust.parts.base.refuse_unless` takes them."""
    return (
        ("eta", 0 < settings.eta < 1, "in (0,1), such as 0.9"),
        ("form", settings.form in get_args(ConstraintForm), "corrected or as_printed"),
        ("cells", settings.cells in get_args(Cells), "shared or independent"),
        ("constants", settings.constants in get_args(ConstantRule), "joint, layers or paper"),
        ("quantile", settings.quantile in get_args(Quantile), "moments or sampled"),
        ("draws", 100 <= settings.draws <= 10**7, "in 100..10000000"),
        (
            "form",
            settings.form == "corrected" or settings.quantile == "moments",
            "corrected with quantile=sampled, which asks for no σ",
        ),
    )


class Kept(NamedTuple):
    """What λ_F keeps with confidence η.

    Attributes:
        log: its logarithm; scalar, differentiable.
        mu: mean of ln λ_F.
        var: its variance; both as they were matched, or of the draws.
    """

    log: Tensor
    mu: Tensor
    var: Tensor


def kept(
    distribution: Sequence[Tensor],
    constants: Tensor,
    described: Sequence[int],
    *,
    log_c: Tensor | float,
    settings: Settings,
) -> Kept:
    """What λ_F keeps with confidence where α and β are log-normal, by moments or by draws as the settings say.

    Args:
        distribution: µ and σ of ln α ``(descriptions, edges, operations)``, µ and σ of ln β ``(descriptions, edges)``.
        constants: λ of the operations in every cell ``(cells, edges, operations)``, 0 where there is none.
        described: for every cell which description it follows.
        log_c: ln C, what multiplies the cells' part.
        settings: η, form, what cells have in common, and how the quantile is found.
    """
    mu_alpha, sigma_alpha, mu_beta, sigma_beta = distribution
    if settings.quantile == "sampled":
        found = network_draws(
            *(mu_alpha, sigma_alpha, mu_beta, sigma_beta),
            *(constants, described),
            log_c=log_c,
            cells=settings.cells,
            draws=settings.draws,
        )
        return Kept(found.quantile(settings.eta), found.logs.mean(), found.logs.var())
    mu, var = network_moments(
        *(mu_alpha, sigma_alpha.square(), mu_beta, sigma_beta.square()),
        *(constants, described),
        log_c=log_c,
        cells=settings.cells,
    )
    return Kept(log_quantile(mu, var, eta=settings.eta, form=settings.form), mu, var)


def caution(sigmas: Sequence[Tensor], settings: Settings, what: str) -> str | None:
    """One line of warning where σ is beyond what the moments were checked for; None where all is well.

    Args:
        sigmas: σ of α and β.
        settings: as :func:`kept` takes them.
        what: whose they are, as a user knows it, such as ``algorithm.gradient.confidence``.
    """
    checked = CHECKED[settings.cells]
    if settings.quantile == "sampled" or all(bool((sigma <= checked).all()) for sigma in sigmas):
        return None
    return (
        f"{what}: σ of the distribution's weights is beyond {checked:g}, up to which the moments of λ_F were checked "
        f"with cells={settings.cells} (co_training.csv, sigma_max): what they say is kept may be too small, and the "
        "constraint be called met where it is not; quantile=sampled draws instead"
    )


def log_quantile(mu: Tensor | float, var: Tensor | float, *, eta: float, form: ConstraintForm = "corrected") -> Tensor:
    """Logarithm of what λ_F, with ln λ_F ~ N(µ, σ²), keeps with confidence η: µ + Φ⁻¹(η)·σ, or σ² as printed.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not 0 < eta < 1:
        raise ValueError(f"expected confidence η in (0,1), such as 0.9, got {eta}")
    if form not in get_args(ConstraintForm):
        raise ValueError(f"expected form corrected or as_printed, got {form!r}")
    mu, var = torch.as_tensor(mu), torch.as_tensor(var)
    if not bool((var > 0).all() & var.isfinite().all()):
        raise ValueError(f"expected a variance σ² > 0 of ln λ_F, got {var.min().item():g}")
    return mu + NormalDist().inv_cdf(eta) * (var.sqrt() if form == "corrected" else var)


def confidence_constraint(
    mu: Tensor | float, var: Tensor | float, *, eta: float, log_limit: float, form: ConstraintForm = "corrected"
) -> Tensor:
    """The constraint c: ≤ 0 where λ_F, with ln λ_F ~ N(µ, σ²), is at most λ* with confidence η.

    Differentiable in µ and σ².

    Args:
        mu: mean of ln λ_F.
        var: variance of ln λ_F, > 0.
        eta: confidence η in (0,1); RACL: 0.9.
        log_limit: ln λ*.
        form: ``corrected`` (σ) or ``as_printed`` (σ²).

    Raises:
        ValueError: an argument is out of its range.
    """
    if not math.isfinite(log_limit):
        raise ValueError(f"expected a finite logarithm ln λ* of the limit, got {log_limit}")
    return log_quantile(mu, var, eta=eta, form=form) - log_limit


def calibrated_limit(
    mu: Tensor | float, var: Tensor | float, *, eta: float, factor: float = 1.0, form: ConstraintForm = "corrected"
) -> float:
    """Logarithm of λ*, ``factor`` times what the initial supernet, with ln λ_F ~ N(µ, σ²), keeps with confidence η.

    For the supernet that it was taken from the constraint is c = −ln(factor): met from the start with a factor of 1
    or more, and still to be reached with a smaller one.

    Args:
        mu: mean of ln λ_F of the initial supernet.
        var: its variance, > 0.
        eta: confidence η in (0,1).
        factor: > 0.
        form: as the constraint will have it.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not factor > 0 or math.isinf(factor):
        raise ValueError(f"expected factor > 0 and finite, got {factor}")
    return log_quantile(mu, var, eta=eta, form=form).item() + math.log(factor)


def lagrangian_term(c: Tensor, theta: float, rho: float) -> Tensor:
    """θc + (ρ/2)c², what the search's loss gets beside the cross-entropy; a scalar, differentiable in c.

    As in the paper, the square also pulls a slack constraint (c < 0) back to 0, weakly where ρ is small.

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


def _check_multiplier(theta: float, rho: float) -> None:
    if not rho > 0 or math.isinf(rho):
        raise ValueError(f"expected ρ > 0 and finite, got {rho}")
    if not theta >= 0 or math.isinf(theta):
        raise ValueError(f"expected a multiplier θ >= 0 and finite, got {theta}")
