"""Experts, powers and products: shapes, operators, infinities, names."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

import poe
from experts import Gaussian
from tests.seeds import seeded

X = torch.tensor([[0.0, 1.0], [-1.0, 2.0], [3.0, -0.5]])


def constant(*values: float) -> poe.Expert:
    """An expert on Real(1) that says `values`, whatever x is."""
    return poe.FromLogDensity(lambda x: torch.tensor(values, dtype=x.dtype), space=poe.Real(1))


def from_function(fn: Callable[[Tensor], object]) -> poe.Expert:
    return poe.FromLogDensity(fn, space=poe.Real(2))  # type: ignore[arg-type]


@pytest.fixture
def a() -> Gaussian:
    return Gaussian([0.0, 0.0], scale=1.0)


@pytest.fixture
def b() -> Gaussian:
    return Gaussian([1.0, 2.0], scale=2.0)


def test_log_density_energy_and_call_agree(a: Gaussian) -> None:
    assert torch.equal(a(X), a.log_density(X))
    assert torch.equal(a.energy(X), -a(X))


def test_score_is_the_gradient_and_detached(a: Gaussian) -> None:
    value, score = a.log_density_and_score(X)
    torch.testing.assert_close(score, -X)
    torch.testing.assert_close(a.score(X), score)
    assert not value.requires_grad
    assert not score.requires_grad


def test_score_works_under_no_grad_and_inference_mode(a: Gaussian) -> None:
    with torch.no_grad():
        torch.testing.assert_close(a.score(X), -X)
    with torch.inference_mode():
        torch.testing.assert_close(a.score(X.clone()), -X)


def test_score_leaves_x_and_parameters_alone() -> None:
    expert = Gaussian(nn.Parameter(torch.zeros(2)), scale=1.0)
    x = X.clone().requires_grad_()
    expert.score(x)
    assert x.grad is None
    assert expert.loc.grad is None


def test_score_of_a_constant_is_zero() -> None:
    assert torch.equal(constant(1.0, 2.0, 3.0).score(X[:, :1]), torch.zeros(3, 1))


def test_counts_have_the_score_of_their_formula_at_real_numbers() -> None:
    counts, x = poe.as_expert(torch.distributions.Poisson(0.3)), torch.tensor([0.0, 4.0])
    torch.testing.assert_close(counts.score(x), math.log(0.3) - torch.digamma(x + 1))


@pytest.mark.parametrize(
    ("fn", "got"),
    [
        (lambda x: x.sum(-1, keepdim=True), r"got \(3, 1\)"),
        (lambda x: x.sum(), r"got \(\)"),
        (lambda x: x, r"got \(3, 2\)"),
        (lambda x: x.sum(-1)[:1], r"got \(1,\)"),
    ],
)
def test_output_of_the_wrong_shape_is_refused(fn: Callable[[Tensor], object], got: str) -> None:
    with pytest.raises(poe.ShapeError, match=rf"expected a log-density of shape \(3,\).*{got}"):
        from_function(fn)(X)


def test_output_that_is_no_float_tensor_is_refused() -> None:
    with pytest.raises(poe.DtypeError, match="to return a tensor, got float"):
        from_function(lambda x: 1.0)(X)
    with pytest.raises(poe.DtypeError, match="expected a floating-point log-density"):
        from_function(lambda x: x.sum(-1).long())(X)


def test_input_is_checked_at_the_boundary(a: Gaussian) -> None:
    for call in (a, a.log_density, a.energy, a.score, (a * a).contributions):
        with pytest.raises(poe.ShapeError, match="put the batch first"):
            call(torch.zeros(3))
        with pytest.raises(poe.DtypeError, match="expected floating-point x"):
            call(torch.zeros(3, 2, dtype=torch.long))


@seeded()
def test_wrong_dtype_is_explained() -> None:
    expert = poe.link.exponential(nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), poe.Real(2))
    with pytest.raises(poe.DtypeError, match=r"expected x of torch.float32.*got torch.float64"):
        expert(X.double())


def test_wrong_device_is_explained(a: Gaussian) -> None:
    with pytest.raises(poe.DtypeError, match=r"expected x on cpu.*got meta"):
        a(X.to("meta"))


def test_other_runtime_errors_pass_unchanged() -> None:
    def explode(x: Tensor) -> Tensor:
        raise RuntimeError("my own trouble")

    with pytest.raises(RuntimeError, match="my own trouble"):
        from_function(explode)(X)


def test_nan_is_what_the_model_says() -> None:
    assert from_function(lambda x: x.sum(-1) * torch.nan)(X).isnan().all()


# Operators


def test_operators_are_products_and_powers(a: Gaussian, b: Gaussian) -> None:
    torch.testing.assert_close((a * b)(X), a(X) + b(X))
    torch.testing.assert_close((a / b)(X), a(X) - b(X))
    torch.testing.assert_close((a**0.5)(X), 0.5 * a(X))
    torch.testing.assert_close((a / b**0.3)(X), a(X) - 0.3 * b(X))
    torch.testing.assert_close(((a * b) ** 2)(X), 2 * (a(X) + b(X)))
    torch.testing.assert_close(((a / b) / (a / b))(X), torch.zeros(3))


REFUSED: dict[str, tuple[Callable[[poe.Expert], object], str]] = {
    "2 * a": (lambda a: 2 * a, r"to weight an expert use `expert \*\* 2`"),
    "a * 2": (lambda a: a * 2, r"to weight an expert use `expert \*\* 2`"),
    "tensor * a": (lambda a: torch.tensor(2.0) * a, r"to weight an expert use `expert \*\* 2`"),
    "a * tensor": (lambda a: a * torch.ones(3), r"to weight an expert use `expert \*\* 2`"),
    "a * distribution": (lambda a: a * Normal(0.0, 1.0), r"use poe.as_expert\(distribution\)"),
    "a * function": (lambda a: a * torch.sum, r"poe.FromLogDensity\(fn, space=...\)"),
    "a / 2": (lambda a: a / 2, r"for a temperature T use `expert \*\* \(1 / T\)`"),
    "1 / a": (lambda a: 1 / a, r"`b \*\* -1`"),
    "a + a": (lambda a: a + a, r"`a \* b` for AND, `a \| b` for OR"),
    "1 + a": (lambda a: 1 + a, r"`a \* b` for AND"),
    "sum": (lambda a: sum([a, a]), r"`a \* b` for AND"),
    "a - a": (lambda a: a - a, r"`a / b \*\* alpha`"),
    "1 - a": (lambda a: 1 - a, r"`a / b \*\* alpha`"),
    "-a": (lambda a: -a, r"`a / b \*\* alpha`"),
    "a ** a": (lambda a: a**a, r"for both together use `a \* b`"),
    "2 ** a": (lambda a: 2**a, r"use `expert \*\* 2`"),
    "a ** '2'": (lambda a: a ** "2", "expected an exponent that is a number"),
    "a ** True": (lambda a: a**True, "expected an exponent that is a number"),
    "a | 2": (lambda a: a | 2, r"use `a \| b`"),
    "2 | a": (lambda a: 2 | a, r"use `a \| b`"),
    "Product(fn)": (lambda a: poe.Product(a, torch.sum), "expected an Expert, got builtin"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operator_is_refused_with_a_remedy(name: str, a: Gaussian) -> None:
    operation, remedy = REFUSED[name]
    with pytest.raises(poe.OperatorError, match=remedy):
        operation(a)


def test_refusals_are_type_errors_and_value_errors(a: Gaussian) -> None:
    with pytest.raises(TypeError):
        2 * a
    assert issubclass(poe.OperatorError, ValueError)


@pytest.mark.parametrize("exponent", [torch.ones(2), torch.ones(1)])
def test_exponent_is_one_number(exponent: Tensor, a: Gaussian) -> None:
    with pytest.raises(poe.ShapeError, match=r"expected an exponent of shape \(\)"):
        a**exponent


@pytest.mark.parametrize("exponent", [torch.nan, torch.inf, torch.tensor(-torch.inf)])
def test_exponent_is_finite(exponent: float | Tensor, a: Gaussian) -> None:
    with pytest.raises(poe.PoeError, match="expected a finite exponent"):
        a**exponent


def test_exponent_is_as_exact_as_the_expert(a: Gaussian) -> None:
    third = Gaussian(torch.zeros(2, dtype=torch.float64), scale=1.0) ** (1 / 3)
    assert third.exponent.item() == 1 / 3
    assert (a ** (1 / 3)).exponent.dtype == torch.float32


def test_missing_methods_say_what_to_do() -> None:
    expert = from_function(lambda x: -x.square().sum(-1))
    for owner in (expert, expert**2, expert * expert):
        with pytest.raises(AttributeError, match=r"poe\.log_partition"):
            owner.log_prob(X)
        with pytest.raises(AttributeError, match=r"poe\.sample"):
            owner.sample(3)
        assert not hasattr(owner, "log_prob")
    with pytest.raises(AttributeError, match="no attribute 'foo'"):
        _ = expert.foo


# Infinities


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
@pytest.mark.parametrize("exponent", [0, 0.0, torch.tensor(0.0), nn.Parameter(torch.tensor(0.0))])
def test_weight_zero_has_no_say(value: float, exponent: float | Tensor) -> None:
    assert (constant(value) ** exponent)(torch.zeros(1, 1)).item() == 0


def test_learned_weight_zero_has_a_finite_gradient() -> None:
    exponent = nn.Parameter(torch.tensor(0.0))
    (constant(-torch.inf, 2.0) ** exponent)(torch.zeros(2, 1)).sum().backward()
    assert exponent.grad is not None
    assert exponent.grad.item() == 2.0


def test_weight_zero_does_not_hide_nan() -> None:
    assert (constant(torch.nan) ** 0)(torch.zeros(1, 1)).isnan()


@pytest.mark.parametrize(
    ("top", "bottom", "expected"),
    [
        (-torch.inf, 1.0, -torch.inf),
        (1.0, -torch.inf, torch.inf),
        (-torch.inf, -torch.inf, -torch.inf),  # 0 / 0 is 0
        (2.0, 0.5, 1.5),
        (torch.nan, -torch.inf, torch.nan),
        (-torch.inf, torch.nan, torch.nan),
    ],
)
def test_quotients_of_infinities(top: float, bottom: float, expected: float) -> None:
    quotient = constant(top) / constant(bottom)
    x = torch.zeros(1, 1)
    torch.testing.assert_close(quotient(x), torch.tensor([expected]), equal_nan=True)
    torch.testing.assert_close(quotient.contributions(x).sum(-1), quotient(x), equal_nan=True)


# Structure


def test_products_flatten_and_powers_distribute(a: Gaussian, b: Gaussian) -> None:
    product = ((a * b) ** 2 * (a / b)) ** 0.5
    assert len(product.experts) == 4
    assert [expert.exponent.item() for expert in product.experts] == [1.0, 1.0, 0.5, -0.5]
    assert not any(isinstance(e, poe.Product) for e in list(product.modules())[1:])
    assert len(poe.Product(poe.Tempered(a * b, 2.0)).experts) == 2


def test_powers_of_powers_multiply(a: Gaussian) -> None:
    assert ((a**2) ** 3).exponent.item() == 6
    assert isinstance(((a**2) ** 3).expert, Gaussian)


def test_learned_exponents_keep_their_gradient_when_flattened(a: Gaussian, b: Gaussian) -> None:
    weight = nn.Parameter(torch.tensor(0.5))
    product = ((a * b) ** weight * b) ** 2
    product(X).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, 2 * (a(X) + b(X)).sum())
    assert [name for name, _ in product.named_parameters()] != []


def test_names_are_keywords_or_classes(a: Gaussian, b: Gaussian) -> None:
    assert (a * b).names == ("Gaussian", "Gaussian_2")
    assert (a * b / a).names == ("Gaussian", "Gaussian_2", "Gaussian_3")
    assert poe.Product(prior=a, style=b).names == ("prior", "style")
    assert (poe.Product(prior=a, style=b) ** 0.5 * a).names == ("prior", "style", "Gaussian")
    assert (poe.Product(prior=a) * poe.Product(prior=b)).names == ("prior", "prior_2")
    assert poe.Product(a, both=a * b).names == ("Gaussian", "both.Gaussian", "both.Gaussian_2")
    assert poe.Product(a, prior=b**-1).names == ("Gaussian", "prior")


def test_suffix_never_collides_with_a_given_name(a: Gaussian) -> None:
    names = poe.Product(poe.Product(Gaussian_2=a), a, a).names
    assert len(set(names)) == 3


def test_contributions_sum_to_the_product(a: Gaussian, b: Gaussian) -> None:
    product = poe.Product(prior=a, style=b**0.5) / b**0.2
    contributions = product.contributions(X)
    assert contributions.shape == (3, 3)
    torch.testing.assert_close(contributions.sum(-1), product(X))
    torch.testing.assert_close(contributions[:, 1], 0.5 * b(X))


def test_space_mismatch_prints_both_and_names_the_bridge(a: Gaussian) -> None:
    other = Gaussian([0.0], scale=1.0)
    with pytest.raises(poe.SpaceMismatchError) as caught:
        a * other
    message = str(caught.value)
    words = "Real(2)", "Real(1)", ".at", "no bijection"
    assert all(word in message for word in words), message


def test_empty_product_is_refused() -> None:
    with pytest.raises(poe.PoeError, match="at least one expert"):
        poe.Product()


def test_building_evaluates_nothing() -> None:
    def never(x: Tensor) -> Tensor:
        raise AssertionError("evaluated")

    expert = from_function(never)
    poe.Product(expert, expert**-1, other=(expert / expert) ** 0.5)


def test_improper_product_can_be_built_and_mended(a: Gaussian, b: Gaussian) -> None:
    improper = b / a
    torch.testing.assert_close(improper(X), b(X) - a(X))
    with pytest.raises(poe.ImproperError, match=r"Gaussian_2 \*\* -1"):
        poe.log_partition(improper)
    with pytest.raises(poe.ImproperError, match=r"no_prior \*\* -1"):
        poe.log_partition(poe.Product(b, no_prior=a**-1))
    assert poe.log_partition(improper * a).value.isfinite()


def test_composition_moves_and_prints_as_a_tree(a: Gaussian, b: Gaussian) -> None:
    product = (poe.Product(prior=a) * b**-0.5).to(torch.float64)
    assert product(X.double()).dtype == torch.float64
    assert "names=['prior', 'Gaussian']" in repr(product)
    assert "exponent=-0.5" in repr(product)
    assert "learned" in repr(a ** nn.Parameter(torch.tensor(1.0)))


@pytest.mark.compiled
def test_product_compiles_in_one_graph(a: Gaussian, b: Gaussian) -> None:
    product = a * b**0.5
    compiled = torch.compile(product, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), product(X))
