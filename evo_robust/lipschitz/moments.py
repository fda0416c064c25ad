"""Moments of ln λ where operations are weighed at random, from edges to the network (RACL, Dong et al., 2020).

A node is I_j = Σ_i β^(i,j) Σ_o α_o^(i,j) o(I_i) with α ~ LN(µ_α, diag σ_α²) and β ~ LN(µ_β, diag σ_β²). So its
Lipschitz constant is a sum of sums of log-normal numbers. Fenton and Wilkinson treat such a sum as log-normal too, with
the sum's mean and variance. That is good where σ is small. Where it is large, the logarithm of the sum has other
moments (eight terms with µ=0 and σ=2: mean 3.47 and variance 1.01; this says 3.06 and 2.04), and a network has many
sums.

**How far it was checked** (``tests/benchmarks/bench_moments.py``: eight cells of four nodes, σ of every α and β uniform
in a range, against 60,000 draws). The variance is always too large and the mean too small. Where σ is large, the mean
matters more: the quantile comes out *too small*, and the constraint is called met where it is not.

- σ of .15 to .45: the 90% quantile of ln λ_F is right to .1, with cells of either kind.
- .3 to .9: with ``shared`` cells it is too large by .2 (variance 37 where 30 is right), with ``independent`` ones too
  small by .2 already.
- .5 to 1.5: too small by 3 with ``shared`` cells (55.7 where 58.8 is right), by 6 with ``independent`` ones.
- .75 to 2.25: too small by 33, and by 42.

:data:`CHECKED` holds the largest σ at which the moments may be trusted. :mod:`evo_robust.lipschitz.sampled` has no such
limit.

All arguments and results are µ and σ², the mean and the *variance* of natural logarithms. For the whole network the
paper takes its product form λ_F ≤ C Π_cells Π_nodes λ(I_j), λ(I_j) = Σ_i β Σ_o α_o λ_o. That is no bound of a network;
see :mod:`evo_robust.lipschitz.network`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Cells = Literal["independent", "shared"]
"""What the weights α and β of a network's cells have in common.

- ``independent``: every cell draws its own, so that σ² = ΣΣ σ²_I(j), as the paper has it.
- ``shared``: cells of one description (all normal ones, say) have the *same* α and β, as in the search. Over the cells
  k, l of one description σ² adds up Σ_j Σ_k Σ_l Cov[ln λ(I_j)_k, ln λ(I_j)_l]: a node of one cell goes with the same
  node of the others, for they weigh by the same numbers. Different nodes of a cell are independent, different
  descriptions too. Where n cells have equal constants as well, this is n² times one cell's variance, not n times. The
  covariances are those of jointly log-normal numbers that covary as the sums do (Fenton–Wilkinson for pairs).
"""


CHECKED: dict[Cells, float] = {"shared": 0.9, "independent": 0.45}
"""The largest σ of α and β with which the 90% quantile was seen to be right, or too large: see the module."""


def fenton_wilkinson(mu: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """µ and σ² of the log-normal number that has mean and variance of Σ_o w_o, ln w_o ~ N(µ_o, σ_o²) independent.

    M = Σ exp(µ_o + σ_o²/2);  σ² = ln[1 + Σ exp(2µ_o + σ_o²)(exp(σ_o²) − 1)/M²];  µ = ln M − σ²/2 (RACL, eqs 11, 12).
    All exponents are taken relative to the largest, so that none overflows.

    Args:
        mu: means of the logarithms ``(…, n)``; -inf for a term that is absent.
        var: variances of the logarithms, >= 0, in a shape that broadcasts with that of ``mu``.

    Returns:
        Mean and variance of the sum's logarithm, both ``(…)``; -inf and 0 of a sum without terms. Differentiable.

    Raises:
        ValueError: a variance is negative, or something is not a number.
    """
    mu, var = torch.broadcast_tensors(_floats(mu), _floats(var))
    _refuse_bad(mu, var)
    absent = mu.isneginf()
    log_mean, shares = _shares(mu, var, absent)
    variance = _log_spread(2 * shares, var, absent)
    return log_mean - variance / 2, variance


def edge_moments(mu_alpha: Tensor, var_alpha: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of ln Σ_o α_o λ_o of edges.

    Args:
        mu_alpha: means of ln α ``(…, operations)``.
        var_alpha: their variances, > 0.
        constants: λ of the operations, >= 0, in a shape that broadcasts with theirs; those with λ=0 do not count.

    Returns:
        µ_I(i,j) and σ²_I(i,j), both ``(…)``.

    Raises:
        ValueError: a variance is not > 0, or a constant is negative or infinite.
    """
    _refuse_unless_positive(var_alpha)
    return fenton_wilkinson(mu_alpha + _logs(constants), var_alpha)


def node_moments(mu_beta: Tensor, var_beta: Tensor, mu_edge: Tensor, var_edge: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of ln Σ_i β_i λ_i of nodes, over their predecessors: terms with µ_β + µ_I(i,j) and σ_β² + σ²_I(i,j).

    Args:
        mu_beta: means of ln β ``(…, predecessors)``.
        var_beta: their variances, > 0.
        mu_edge: µ_I(i,j) ``(…, predecessors)``, -inf where an edge has no operation.
        var_edge: σ²_I(i,j), >= 0.

    Returns:
        µ_I(j) and σ²_I(j), both ``(…)``.

    Raises:
        ValueError: a variance is not positive.
    """
    _refuse_unless_positive(var_beta)
    return fenton_wilkinson(mu_beta + mu_edge, var_beta + var_edge)


def cell_moments(
    mu_alpha: Tensor, var_alpha: Tensor, mu_beta: Tensor, var_beta: Tensor, constants: Tensor
) -> tuple[Tensor, Tensor]:
    """Moments of ln λ(I_j) of a cell's nodes, or of several cells'.

    The nodes of one cell are independent: every edge has α and β of its own.

    Args:
        mu_alpha: means of ln α ``(…, edges, operations)``, edges in the order 0→2, 1→2, 0→3, 1→3, 2→3, ….
        var_alpha: their variances, > 0.
        mu_beta: means of ln β ``(…, edges)``.
        var_beta: their variances, > 0.
        constants: λ of the operations ``(…, edges, operations)``, 0 where there is none.

    Returns:
        µ_I(j) and σ²_I(j), both ``(…, nodes)``.
    """
    mu_edge, var_edge = edge_moments(mu_alpha, var_alpha, constants)
    mu_beta, var_beta = mu_beta.expand_as(mu_edge), var_beta.expand_as(mu_edge)
    found = [
        node_moments(mu_beta[..., into], var_beta[..., into], mu_edge[..., into], var_edge[..., into])
        for into in edges_into_nodes(mu_edge.shape[-1])
    ]
    return torch.stack([mu for mu, _ in found], -1), torch.stack([var for _, var in found], -1)


def network_moments(
    mu_alpha: Tensor,
    var_alpha: Tensor,
    mu_beta: Tensor,
    var_beta: Tensor,
    constants: Tensor,
    described: Sequence[int],
    *,
    log_c: Tensor | float = 0.0,
    cells: Cells = "shared",
) -> tuple[Tensor, Tensor]:
    """Moments of ln λ_F = ln C + Σ_cells Σ_nodes ln λ(I_j), the logarithm of the paper's product form.

    µ = ln C + ΣΣ µ_I(j) in any case. The variance depends on what the cells have in common, see :data:`Cells`.
    Nodes that no operation enters are left out, since they do not belong to the network.

    Args:
        mu_alpha: means of ln α ``(descriptions, edges, operations)``, such as normal and reduction.
        var_alpha: their variances, > 0.
        mu_beta: means of ln β ``(descriptions, edges)``.
        var_beta: their variances, > 0.
        constants: λ of the operations in every cell of the network ``(cells, edges, operations)``; 0 where there is
            none. Times a mask of 0 and 1 it is that of a genome's chosen operations.
        described: for every cell of the network, which description it follows, 0..descriptions-1.
        log_c: ln C, what multiplies the cells' part (stem, classifier).
        cells: ``shared`` or ``independent``.

    Returns:
        µ and σ² of ln λ_F, both scalars, differentiable.

    Raises:
        ValueError: shapes that do not fit, variances that are not positive, or an unknown way.
    """
    check_cells(cells)
    check_shapes(mu_alpha, var_alpha, mu_beta, var_beta, constants, described)
    mu, var = mu_alpha.new_tensor(0.0) + log_c, mu_alpha.new_tensor(0.0)
    for description in sorted(set(described)):
        members = [cell for cell, number in enumerate(described) if number == description]
        own = (mu_alpha[description], var_alpha[description], mu_beta[description], var_beta[description])
        if cells == "independent":
            mu_nodes, var_nodes = cell_moments(*own, constants[members])
        else:
            mu_nodes, var_nodes = _together(*own, constants[members])
        mu = mu + mu_nodes.masked_fill(mu_nodes.isneginf(), 0.0).sum()
        var = var + var_nodes.sum()
    return mu, var


def edges_into_nodes(n_edges: int) -> list[slice]:
    """The edges into each intermediate node of a cell whose nodes may read every earlier one: 2, 3, 4, … of them.

    Raises:
        ValueError: no such cell has that many edges.
    """
    nodes = (math.isqrt(9 + 8 * n_edges) - 3) // 2
    if n_edges < 2 or nodes * (nodes + 3) != 2 * n_edges:
        raise ValueError(f"expected the edges of a cell (2, 5, 9, 14, … for 1, 2, 3, 4 nodes), got {n_edges}")
    starts = [node * (node + 3) // 2 for node in range(nodes + 1)]
    return [slice(start, stop) for start, stop in zip(starts, starts[1:], strict=False)]


def _together(
    mu_alpha: Tensor, var_alpha: Tensor, mu_beta: Tensor, var_beta: Tensor, constants: Tensor
) -> tuple[Tensor, Tensor]:
    """µ ``(cells, nodes)`` and the covariances ``(cells, cells, nodes)`` of cells that weigh by the same α and β."""
    _refuse_unless_positive(var_alpha)
    _refuse_unless_positive(var_beta)
    mu_edge, cov_edge = _joint(
        (mu_alpha + _logs(constants)).movedim(0, -2),  # edges, cells, operations
        var_alpha[:, None, None, :],  # one and the same α: covariance is variance
    )
    mu_terms = mu_beta[:, None] + mu_edge  # edges, cells
    cov_terms = var_beta[:, None, None] + cov_edge  # edges, cells, cells
    found = [_joint(mu_terms[into].T, cov_terms[into].movedim(0, -1)) for into in edges_into_nodes(len(mu_beta))]
    return torch.stack([mu for mu, _ in found], -1), torch.stack([cov for _, cov in found], -1)


def _joint(mu: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """Fenton–Wilkinson of several sums: means ``(…, k)`` and covariances ``(…, k, k)`` of their logarithms.

    Term o of one sum goes with term o of the others, and with no other term.

    Args:
        mu: means of the terms' logarithms ``(…, k, n)``; -inf is a term that is not there.
        cov: covariances of the terms' logarithms, >= 0, in a shape that broadcasts with ``(…, k, k, n)``.
    """
    _refuse_bad(mu, cov)
    absent = mu.isneginf()
    cov = cov.expand(*mu.shape[:-1], *mu.shape[-2:])
    log_mean, shares = _shares(mu, cov.diagonal(dim1=-3, dim2=-2).mT, absent)
    either = absent.unsqueeze(-2) | absent.unsqueeze(-3)
    covariance = _log_spread(shares.unsqueeze(-2) + shares.unsqueeze(-3), cov, either)
    return log_mean - covariance.diagonal(dim1=-2, dim2=-1) / 2, covariance


def _shares(mu: Tensor, var: Tensor, absent: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of the sum's mean ``(…)``, -inf of no terms, and of each term's share of it ``(…, n)``, 0 if absent."""
    terms = mu.masked_fill(absent, 0.0) + var / 2  # a finite number keeps gradients of what is masked below finite
    empty = absent.all(-1, keepdim=True)
    log_mean = terms.masked_fill(absent & ~empty, -torch.inf).logsumexp(-1, keepdim=True)
    shares = (terms - log_mean).masked_fill(absent, 0.0)
    return log_mean.masked_fill(empty, -torch.inf).squeeze(-1), shares


def _log_spread(log_weights: Tensor, cov: Tensor, absent: Tensor) -> Tensor:
    """ln(1 + Σ_o exp(w_o)(exp(c_o) − 1)) over the last axis, without overflow; differentiable at c=0 too."""
    exponents = (log_weights + cov).masked_fill(absent, -torch.inf)
    # a shift by the largest exponent, where that is above 0: below, ln(1 + …) is accurate as it stands
    shift = exponents.detach().amax(-1, keepdim=True).clamp_min(0.0)
    # exp(w)(exp(c) − 1) is exp(w + c)(1 − exp(−c))
    total = ((exponents - shift).exp() * -torch.expm1(-cov)).sum(-1)
    shift = shift.squeeze(-1)
    return shift + torch.log1p(total + torch.expm1(-shift))


def _floats(value: Any) -> Tensor:
    """A floating-point tensor of what was given; numbers and arrays in double precision."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value
    return torch.as_tensor(value, dtype=torch.float64)


def _logs(constants: Tensor) -> Tensor:
    """Logarithms of constants, -inf where λ=0."""
    constants = _floats(constants)
    if not bool((constants >= 0).all() & constants.isfinite().all()):
        raise ValueError(f"expected Lipschitz constants >= 0 and finite, got {_worst(constants)}")
    return constants.log()


def _worst(values: Tensor) -> float:
    """A value to show of those that should be finite and not negative."""
    odd = ~values.isfinite()
    return (values[odd][0] if odd.any() else values.min()).item()


def _refuse_bad(mu: Tensor, var: Tensor) -> None:
    if bool(mu.isnan().any() | mu.isposinf().any()):
        raise ValueError("expected finite means of logarithms (or -inf: no term), got one that is NaN or inf")
    if not bool((var >= 0).all() & var.isfinite().all()):
        raise ValueError(f"expected variances >= 0 of logarithms, got {_worst(var)}")


def _refuse_unless_positive(var: Tensor) -> None:
    if not bool((var > 0).all()):
        raise ValueError(f"expected variances σ² > 0 of ln α and ln β, got {_worst(var):g}")


def check_cells(cells: str) -> None:
    """Raise ``ValueError`` where it is not known what the cells have in common."""
    if cells not in get_args(Cells):
        raise ValueError(f"expected cells independent or shared, got {cells!r}")


def check_shapes(
    mu_alpha: Tensor,
    var_alpha: Tensor,
    mu_beta: Tensor,
    var_beta: Tensor,
    constants: Tensor,
    described: Sequence[int],
) -> None:
    """Raise ``ValueError`` where the shapes of a distribution (σ or σ²) and of a network's constants do not fit."""
    if mu_alpha.ndim != 3 or var_alpha.shape != mu_alpha.shape:
        raise ValueError(
            "expected µ and σ² of ln α of one shape (descriptions, edges, operations), "
            f"got {tuple(mu_alpha.shape)} and {tuple(var_alpha.shape)}"
        )
    if not mu_beta.shape == var_beta.shape == mu_alpha.shape[:2]:
        raise ValueError(
            f"expected µ and σ² of ln β of shape {tuple(mu_alpha.shape[:2])}, "
            f"got {tuple(mu_beta.shape)} and {tuple(var_beta.shape)}"
        )
    if constants.shape != (len(described), *mu_alpha.shape[1:]):
        raise ValueError(
            f"expected constants of shape (cells, edges, operations), {(len(described), *mu_alpha.shape[1:])}, "
            f"got {tuple(constants.shape)}"
        )
    if any(not 0 <= number < len(mu_alpha) for number in described):
        raise ValueError(f"expected descriptions 0 to {len(mu_alpha) - 1} of the cells, got {list(described)}")
