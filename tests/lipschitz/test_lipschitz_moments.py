"""Moments of log-normal sums, from an edge to the network, and the confidence constraint on them."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evo_robust.lipschitz.chance_constraint import calibrated_limit, confidence_constraint, dual_update, lagrangian_term
from evo_robust.lipschitz.moments import (
    cell_moments,
    edge_moments,
    edges_into_nodes,
    fenton_wilkinson,
    network_moments,
    node_moments,
)

EDGES, OPERATIONS = 14, 8
DRAWS = 20_000


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sampled(mu: Tensor, var: Tensor, draws: int = 400_000) -> tuple[float, float]:
    """Mean and variance of ln Σ exp(N(µ, σ²))."""
    noise = torch.randn(draws, len(mu), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logs = (mu + var.sqrt() * noise).logsumexp(1)
    return logs.mean().item(), logs.var().item()


# --- one sum


def test_vectors_of_the_reference() -> None:
    mu, sigma, constants = doubles(0, -1, 0.5), doubles(0.3, 0.5, 0.2), doubles(1, 0.5, 2)
    found = edge_moments(mu, sigma**2, constants)
    assert [t.item() for t in found] == pytest.approx([1.516722315, 0.026701459], abs=1e-6)
    assert [t.item() for t in fenton_wilkinson(mu + constants.log(), sigma**2)] == [t.item() for t in found]
    assert [t.item() for t in fenton_wilkinson(doubles(0), doubles(0.25))] == pytest.approx([0, 0.25], abs=1e-12)
    two = fenton_wilkinson(doubles(0, 0), doubles(0.25, 0.25))
    assert [t.item() for t in two] == pytest.approx([0.751751, 0.132792], abs=1e-6)


def test_it_works_along_the_last_axis_in_any_precision_and_on_arrays() -> None:
    mu = torch.linspace(-2, 2, 24).reshape(2, 3, 4)
    means, variances = fenton_wilkinson(mu, torch.full((4,), 0.09))
    assert means.shape == variances.shape == (2, 3) and means.dtype == torch.float32
    one = fenton_wilkinson(mu[1, 2].double(), torch.full((4,), 0.09, dtype=torch.float64))
    assert [means[1, 2].item(), variances[1, 2].item()] == pytest.approx([t.item() for t in one], rel=1e-5)
    same = fenton_wilkinson(np.zeros(2), [0.25, 0.25])  # type: ignore[arg-type]
    assert same[0].item() == pytest.approx(0.751751, abs=1e-6)


def test_mean_and_variance_of_the_sum_are_kept() -> None:
    mu, var = doubles(0.3, -2, 1), doubles(0.5, 2, 1e-9)
    matched, spread = fenton_wilkinson(mu, var)
    means = (mu + var / 2).exp()
    assert (matched + spread / 2).exp().item() == pytest.approx(means.sum().item(), rel=1e-12)
    variances = means**2 * torch.expm1(var)
    assert (2 * matched + spread).exp().item() * math.expm1(spread.item()) == pytest.approx(variances.sum().item())


def test_skipped_operations_do_not_count_and_nothing_is_minus_infinity() -> None:
    mu, var = doubles(0, -1, 5), doubles(0.1, 0.2, 0.3)
    skipped = edge_moments(mu, var, doubles(1, 0.5, 0))
    alone = edge_moments(mu[:2], var[:2], doubles(1, 0.5))
    assert [t.item() for t in skipped] == [t.item() for t in alone]
    nothing = edge_moments(mu, var, torch.zeros(3))
    assert [t.item() for t in nothing] == [-math.inf, 0.0]
    # an edge without operations is no input of a node either
    node = node_moments(doubles(0, 0), doubles(0.1, 0.1), doubles(0.7, -math.inf), doubles(0.2, 0))
    assert [t.item() for t in node] == pytest.approx([0.7, 0.3])


def test_gradients_are_those_of_finite_differences() -> None:
    mu = doubles(0, -1, 0.5, 2).requires_grad_()
    var = doubles(0.3, 2.5, 0.01, 1e-6).requires_grad_()
    assert torch.autograd.gradcheck(fenton_wilkinson, (mu, var), eps=1e-7, atol=1e-6)
    mu, var = doubles(0, -math.inf, -math.inf).requires_grad_(), doubles(0.3, 2, 0).requires_grad_()
    sum(fenton_wilkinson(mu, var)).backward()  # type: ignore[union-attr]
    assert mu.grad is not None and mu.grad.tolist() == [1, 0, 0]
    assert var.grad is not None and var.grad.tolist() == pytest.approx([1, 0, 0])
    still = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    fenton_wilkinson(torch.zeros(3, dtype=torch.float64), still)[1].backward()
    assert still.grad is not None and still.grad.tolist() == pytest.approx([1 / 9] * 3)


def test_large_numbers_do_not_overflow() -> None:
    for dtype in (torch.float32, torch.float64):
        mu, var = fenton_wilkinson(
            torch.tensor([5000.0, -5000.0], dtype=dtype), torch.tensor([900.0, 1e-3], dtype=dtype)
        )
        assert mu.item() == pytest.approx(5000) and var.item() == pytest.approx(900)


@pytest.mark.parametrize("sigma", [0.1, 0.2, 0.4])
def test_it_agrees_with_samples_where_sigma_is_small(sigma: float) -> None:
    mu, var = doubles(0, 0.4, -1, 0.2, 0, 1, -0.5, 0), torch.full((8,), sigma**2, dtype=torch.float64)
    mean, variance = sampled(mu, var)
    found = fenton_wilkinson(mu, var)
    assert found[0].item() == pytest.approx(mean, abs=0.003) and found[1].item() == pytest.approx(variance, rel=0.05)


def test_it_breaks_where_sigma_is_large() -> None:
    mu = torch.zeros(8, dtype=torch.float64)
    errors = {}
    for sigma in (0.4, 1.5, 2.0):
        var = torch.full((8,), sigma**2, dtype=torch.float64)
        mean, variance = sampled(mu, var)
        found = fenton_wilkinson(mu, var)
        errors[sigma] = abs(found[0].item() - mean), found[1].item() / variance
    assert errors[0.4][0] < 0.003 and errors[0.4][1] < 1.03
    assert errors[1.5][0] > 0.08 and errors[1.5][1] > 1.4
    assert errors[2.0][0] > 0.35 and errors[2.0][1] > 1.9


# --- cells and networks


def distribution(descriptions: int, sigma: float = 0.25) -> dict[str, Tensor]:
    """Parameters as a search has them in its midst."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    return {
        "mu_alpha": draw(descriptions, EDGES, OPERATIONS) * 2 - 3,
        "var_alpha": (sigma * (0.5 + draw(descriptions, EDGES, OPERATIONS))) ** 2,
        "mu_beta": draw(descriptions, EDGES) - 1.5,
        "var_beta": (sigma * (0.5 + draw(descriptions, EDGES))) ** 2,
    }


def constants(cells: int) -> Tensor:
    """λ of every operation in every cell; the first operation is `none`."""
    found = torch.rand(cells, EDGES, OPERATIONS, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3
    found[..., 0] = 0
    return found


def product_form(
    given: dict[str, Tensor], constants: Tensor, described: list[int], shared: bool
) -> tuple[float, float]:
    """Mean and variance of sampled ln Π_cells Π_nodes Σ_i β Σ_o α_o λ_o."""
    generator = torch.Generator().manual_seed(3)

    def draw(name: str, cell: int) -> Tensor:
        mu, var = given[f"mu_{name}"][cell], given[f"var_{name}"][cell]
        return (mu + var.sqrt() * torch.randn(DRAWS, *mu.shape, generator=generator, dtype=torch.float64)).exp()

    known: dict[int, tuple[Tensor, Tensor]] = {}
    total = torch.zeros(DRAWS, dtype=torch.float64)
    for cell, description in enumerate(described):
        if not shared or description not in known:
            known[description] = draw("alpha", description), draw("beta", description)
        alpha, beta = known[description]
        edges = beta * (alpha * constants[cell]).sum(-1)
        total += torch.stack([edges[:, into].sum(1) for into in edges_into_nodes(EDGES)]).log().sum(0)
    return total.mean().item(), total.var().item()


def test_a_cells_nodes_are_edges_then_nodes() -> None:
    given = {name: value[0] for name, value in distribution(1).items()}
    lambdas = constants(1)[0]
    mu, var = cell_moments(**given, constants=lambdas)
    assert mu.shape == var.shape == (4,)
    mu_edge, var_edge = edge_moments(given["mu_alpha"], given["var_alpha"], lambdas)
    third = node_moments(given["mu_beta"][5:9], given["var_beta"][5:9], mu_edge[5:9], var_edge[5:9])
    assert [mu[2].item(), var[2].item()] == [t.item() for t in third]
    assert [len(range(EDGES)[into]) for into in edges_into_nodes(EDGES)] == [2, 3, 4, 5]


@pytest.mark.parametrize("described", [[0, 0, 1, 0, 0, 1, 0, 0], [0] * 8])
@pytest.mark.parametrize("cells", ["shared", "independent"])
def test_a_networks_moments_agree_with_samples(described: list[int], cells: Any) -> None:
    given, lambdas = distribution(2), constants(8)
    mu, var = network_moments(**given, constants=lambdas, described=described, log_c=1.5, cells=cells)
    mean, variance = product_form(given, lambdas, described, shared=cells == "shared")
    assert mu.item() == pytest.approx(mean + 1.5, abs=4 * math.sqrt(variance / DRAWS) + 0.02)
    assert var.item() == pytest.approx(variance, rel=0.05)


def test_shared_parameters_make_the_variance_n_times_as_large_where_cells_are_equal() -> None:
    given, one = distribution(1), constants(1)
    _, single = network_moments(**given, constants=one, described=[0])
    six = one.expand(6, -1, -1)
    mu, together = network_moments(**given, constants=six, described=[0] * 6)
    same_mu, apart = network_moments(**given, constants=six, described=[0] * 6, cells="independent")
    assert together.item() == pytest.approx(36 * single.item()) and apart.item() == pytest.approx(6 * single.item())
    assert mu.item() == pytest.approx(same_mu.item())
    # other constants in every cell: correlated, but not wholly
    _, different = network_moments(**given, constants=constants(6), described=[0] * 6)
    _, independent = network_moments(**given, constants=constants(6), described=[0] * 6, cells="independent")
    assert 3 * independent < different < 6 * independent


def test_a_genomes_moments_are_those_of_its_operations_alone() -> None:
    given, lambdas = distribution(1), constants(2)
    mask = torch.zeros(EDGES, OPERATIONS, dtype=torch.float64)
    for into in edges_into_nodes(EDGES):  # two edges per node, one operation each
        mask[into.start, 3] = mask[into.stop - 1, 5] = 1
    mu, var = network_moments(**given, constants=lambdas * mask, described=[0, 0])
    mean, variance = product_form(given, lambdas * mask, [0, 0], shared=True)
    assert mu.item() == pytest.approx(mean, abs=4 * math.sqrt(variance / DRAWS))
    assert var.item() == pytest.approx(variance, rel=0.05)
    mask[:2] = 0  # a node that nothing enters is no part of the network
    less, _ = network_moments(**given, constants=lambdas * mask, described=[0, 0])
    nodes, _ = cell_moments(**{name: value[0] for name, value in given.items()}, constants=lambdas * mask)
    assert nodes[:, 0].isneginf().all() and less.item() == pytest.approx(nodes[:, 1:].sum().item())


@pytest.mark.parametrize("cells", ["shared", "independent"])
def test_gradients_reach_every_parameter(cells: Any) -> None:
    given = {
        name: value[:, :5, :3].clone().requires_grad_() if value.ndim == 3 else value[:, :5].clone().requires_grad_()
        for name, value in distribution(2).items()
    }
    lambdas = constants(3)[:, :5, :3]

    def moments(*values: Tensor) -> tuple[Tensor, Tensor]:
        return network_moments(*values, lambdas, [0, 1, 0], cells=cells)

    assert torch.autograd.gradcheck(moments, tuple(given.values()), eps=1e-7, atol=1e-5)


# --- the constraint


@pytest.mark.parametrize("eta", [0.3, 0.7, 0.9])
def test_the_corrected_constraint_holds_exactly_where_the_confidence_is_reached(eta: float) -> None:
    mu, var = 3.0, 0.64
    quantile = math.exp(mu + NormalDist().inv_cdf(eta) * 0.8)
    assert confidence_constraint(mu, var, eta=eta, log_limit=math.log(quantile)).item() == pytest.approx(0, abs=1e-6)
    draws = np.exp(np.random.default_rng(0).normal(mu, 0.8, 200_000))
    for limit in (0.9 * quantile, 1.1 * quantile):
        c = confidence_constraint(mu, var, eta=eta, log_limit=math.log(limit)).item()
        assert (c <= 0) == (np.mean(draws <= limit) >= eta)


def test_as_printed_has_the_variance_in_place_of_the_deviation() -> None:
    mu, var = doubles(2.0)[0].requires_grad_(), doubles(0.09)[0].requires_grad_()
    z = NormalDist().inv_cdf(0.9)
    printed = confidence_constraint(mu, var, eta=0.9, log_limit=math.log(5), form="as_printed")
    corrected = confidence_constraint(mu, var, eta=0.9, log_limit=math.log(5))
    assert printed.item() == pytest.approx(2 + z * 0.09 - math.log(5))
    assert corrected.item() == pytest.approx(2 + z * 0.3 - math.log(5))
    slopes = torch.autograd.grad(corrected, (mu, var))
    assert [s.item() for s in slopes] == pytest.approx([1, z / 0.6])
    assert [s.item() for s in torch.autograd.grad(printed, (mu, var))] == pytest.approx([1, z])


@pytest.mark.parametrize("form", ["corrected", "as_printed"])
def test_a_calibrated_limit_is_a_multiple_of_what_the_initial_supernet_keeps(form: Any) -> None:
    for mu in (40.0, 9000.0):  # λ_F itself may be beyond what a float holds
        for factor in (1.0, 0.25, 1e308):
            log_limit = calibrated_limit(mu, 2.0, eta=0.9, factor=factor, form=form)
            c = confidence_constraint(mu, 2.0, eta=0.9, log_limit=log_limit, form=form)
            assert c.item() == pytest.approx(-math.log(factor), abs=2e-3)


def test_the_lagrangian_and_its_multiplier() -> None:
    c = doubles(0.5)[0].requires_grad_()
    term = lagrangian_term(c, theta=2.0, rho=0.1)
    assert term.item() == pytest.approx(1.0 + 0.05 * 0.25)
    term.backward()
    assert c.grad is not None and c.grad.item() == pytest.approx(2.0 + 0.1 * 0.5)
    assert dual_update(2.0, c, 0.1) == pytest.approx(2.05)
    assert dual_update(0.01, -1.0, 0.1) == 0.0  # never below


def test_the_lagrangian_brings_a_distribution_to_where_the_constraint_holds() -> None:
    """As in RACL: steps of the parameters down θc + (ρ/2)c², against what pulls the other way, and steps of θ."""
    given = {name: value[:, :5].clone().requires_grad_() for name, value in distribution(2).items()}
    lambdas, described = constants(4)[:, :5], [0, 1, 0, 0]
    start = network_moments(**given, constants=lambdas, described=described)
    log_limit, theta = calibrated_limit(*start, eta=0.9, factor=0.5), 0.0
    distances = []
    for _ in range(150):
        mu, var = network_moments(**given, constants=lambdas, described=described)
        c = confidence_constraint(mu, var, eta=0.9, log_limit=log_limit)
        distances.append(c.item())
        loss = -0.3 * mu + lagrangian_term(c, theta, rho=1.0)  # a cross-entropy would want something too
        slopes = torch.autograd.grad(loss, list(given.values()))
        with torch.no_grad():
            for (name, value), slope in zip(given.items(), slopes, strict=True):
                value -= 0.02 * slope
                if name.startswith("var"):
                    value.clamp_(min=1e-4)
        theta = dual_update(theta, c, 1.0)
    assert distances[0] == pytest.approx(math.log(2), abs=1e-5)
    assert max(map(abs, distances[50:])) < 0.1  # around the limit, as multipliers swing
    assert theta == pytest.approx(0.3, abs=0.1)  # as strong as the pull


# --- bad input


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eta": 0.0}, r"expected confidence η in \(0,1\), such as 0.9, got 0.0"),
        ({"eta": 1.0}, r"η in \(0,1\)"),
        ({"eta": math.nan}, r"η in \(0,1\)"),
        ({"log_limit": math.inf}, r"expected a finite logarithm ln λ\* of the limit, got inf"),
        ({"log_limit": math.nan}, r"ln λ\*"),
        ({"var": 0.0}, r"expected a variance σ² > 0 of ln λ_F, got 0"),
        ({"var": -0.5}, r"σ² > 0 .* got -0.5"),
        ({"form": "printed"}, "expected form corrected or as_printed, got 'printed'"),
    ],
)
def test_a_bad_constraint_is_refused(values: dict[str, Any], message: str) -> None:
    good = {"mu": 1.0, "var": 0.5, "eta": 0.9, "log_limit": 1.0}
    with pytest.raises(ValueError, match=message):
        confidence_constraint(**{**good, **values})


def test_bad_multipliers_are_refused() -> None:
    with pytest.raises(ValueError, match="expected ρ > 0 and finite, got 0"):
        lagrangian_term(doubles(1)[0], 1.0, 0.0)
    with pytest.raises(ValueError, match="expected a multiplier θ >= 0 and finite, got -1"):
        dual_update(-1.0, 1.0, 0.1)
    with pytest.raises(ValueError, match="expected factor > 0 and finite, got -2"):
        calibrated_limit(1.0, 1.0, eta=0.9, factor=-2.0)


def test_bad_moments_are_refused() -> None:
    with pytest.raises(ValueError, match="expected variances >= 0 of logarithms, got -0.5"):
        fenton_wilkinson(doubles(0, 1), doubles(0.5, -0.5))
    with pytest.raises(ValueError, match="finite means of logarithms .* got one that is NaN or inf"):
        fenton_wilkinson(doubles(0, math.nan), doubles(0.5, 0.5))
    with pytest.raises(ValueError, match="expected variances σ² > 0 of ln α and ln β, got 0"):
        edge_moments(doubles(0, 1), doubles(0.5, 0), doubles(1, 1))
    with pytest.raises(ValueError, match="σ² > 0 of ln α and ln β, got -1"):
        node_moments(doubles(0, 1), doubles(0.5, -1), doubles(1, 1), doubles(1, 1))
    with pytest.raises(ValueError, match="expected Lipschitz constants >= 0 and finite, got -2"):
        edge_moments(doubles(0, 1), doubles(0.5, 1), doubles(1, -2))
    with pytest.raises(ValueError, match="expected the edges of a cell .* got 13"):
        edges_into_nodes(13)


def test_bad_networks_are_refused() -> None:
    given, lambdas = distribution(2), constants(3)
    with pytest.raises(ValueError, match="expected cells independent or shared, got 'equal'"):
        network_moments(**given, constants=lambdas, described=[0, 1, 0], cells="equal")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected constants of shape .* \(2, 14, 8\), got \(3, 14, 8\)"):
        network_moments(**given, constants=lambdas, described=[0, 1])
    with pytest.raises(ValueError, match=r"expected descriptions 0 to 1 of the cells, got \[0, 1, 2\]"):
        network_moments(**given, constants=lambdas, described=[0, 1, 2])
    with pytest.raises(ValueError, match=r"µ and σ² of ln β of shape \(2, 14\)"):
        network_moments(**{**given, "var_beta": given["var_beta"][:1]}, constants=lambdas, described=[0, 1, 0])
    with pytest.raises(ValueError, match="µ and σ² of ln α of one shape"):
        network_moments(**{**given, "var_alpha": given["var_alpha"][0]}, constants=lambdas, described=[0, 1, 0])
