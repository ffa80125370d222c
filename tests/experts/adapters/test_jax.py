"""Log-densities in JAX, and NumPyro's distributions, through DLPack."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
import torch

import experts
import poe
from experts.adapters.jax import JaxLogDensity

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.5]])


def correlated(x: jax.Array) -> jax.Array:
    precision = jnp.linalg.inv(jnp.asarray(COVARIANCE.numpy()))
    return -0.5 * x @ precision @ x


def test_value_and_score_are_those_of_jax_in_both_precisions() -> None:
    expert = JaxLogDensity(lambda x: -jnp.sum(x**4) + jnp.prod(x), space=poe.Real(2))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        x = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
        value, score = expert(x), expert.score(x)
        assert value.dtype == score.dtype == dtype
        close = {"atol": tolerance, "rtol": tolerance}
        torch.testing.assert_close(value, -(x**4).sum(-1) + x.prod(-1), **close)
        torch.testing.assert_close(score, -4 * x**3 + x.flip(-1), **close)
    assert not jax.config.jax_enable_x64


def test_arrays_are_handed_over_without_a_copy() -> None:
    seen: list[int] = []
    expert = JaxLogDensity(jnp.sum, space=poe.Real(64))
    x = torch.zeros(64, 64)
    array = jnp.from_dlpack(x)
    seen = [array.unsafe_buffer_pointer()]
    assert seen == [x.data_ptr()]
    assert expert(x).shape == (64,)


def test_in_a_product_by_autograd() -> None:
    expert = JaxLogDensity(correlated, space=poe.Real(2))
    gaussian = experts.Gaussian([0.0, 0.0], covariance=COVARIANCE)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    other = experts.Gaussian([1.0, -1.0], scale=2.0)
    torch.testing.assert_close((expert**0.5 * other).score(x), (gaussian**0.5 * other).score(x))


@pytest.mark.parametrize(
    "kernel",
    [poe.samplers.MALA(0.15), poe.samplers.HMC(0.3, 3)],
    ids=lambda kernel: type(kernel).__name__,
)
def test_kernels_leave_it_as_it_is(kernel: poe.samplers.Kernel) -> None:
    g = torch.Generator().manual_seed(1)
    gaussian = experts.Gaussian([0.0, 0.0], covariance=COVARIANCE)
    x = gaussian.sample(40_000, generator=g)
    target = JaxLogDensity(correlated, space=poe.Real(2))
    state = kernel.init(target, x)
    for _ in range(8):
        state, _ = kernel.step(target, state, generator=g)
    moved = state.position
    z = moved.mean(0) / (COVARIANCE.diagonal() / len(x)).sqrt()
    assert bool((z.abs() < 4).all()), z
    variance = COVARIANCE.diagonal()
    z = (moved.square().mean(0) / variance - 1) / (2 / len(x)) ** 0.5
    assert bool((z.abs() < 4).all()), z


@pytest.mark.law
def test_poe_sample_follows_its_score() -> None:
    target = JaxLogDensity(correlated, space=poe.Real(2)) * experts.Gaussian([1.0, 0.0], scale=1.0)
    closed = poe.simplify(
        experts.Gaussian([0.0, 0.0], covariance=COVARIANCE)
        * experts.Gaussian([1.0, 0.0], scale=1.0)
    ).expert
    draws = poe.sample(
        target, 1000, generator=torch.Generator().manual_seed(0), progress=False, warmup=100
    )
    assert draws.choice.startswith("a score in 2 dimensions")
    summary = draws.summary()
    z = (summary.mean - closed.loc) / summary.mcse
    assert bool((z.abs() < 4).all()), z


def test_a_second_derivative_is_refused() -> None:
    x = torch.ones(1, 2, requires_grad=True)
    expert = JaxLogDensity(correlated, space=poe.Real(2)) * experts.Gaussian([0.0, 0.0], 1.0)
    (score,) = torch.autograd.grad(expert(x).sum(), x, create_graph=True)
    with pytest.raises(poe.GradientError, match="the score of a JaxLogDensity has no gradient"):
        score.sum().backward()


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a vector": (
        lambda x: x,
        r"to one number, got float32\[2\]: sum over the event, and leave the",
    ),
    "a truth value": (lambda x: x[0] > 0, r"to one number, got bool\[\]"),
    "a tuple": (lambda x: (x.sum(), x), "to one number, got tuple"),
    "NumPy inside": (lambda x: float(x[0]), "one that fails there.*may use jax.numpy only"),
    "a batch": (lambda x: x.sum(-2).sum(), "one that fails there.*it is mapped over the batch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    fn, message = REFUSED[name]
    with pytest.raises(poe.AdaptationError, match=message):
        JaxLogDensity(fn, space=poe.Real(2))


def test_discrete_spaces_are_refused() -> None:
    with pytest.raises(
        poe.AdaptationError, match=r"a continuous space, got function and Binary\(2"
    ):
        JaxLogDensity(correlated, space=poe.Binary(2))


def test_missing_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(ImportError, match=r'pip install "product-of-experts\[jax\]"'):
        JaxLogDensity(correlated, space=poe.Real(2))


TWINS = [
    (dist.Normal(0.5, 2.0), torch.distributions.Normal(0.5, 2.0)),
    (dist.Beta(2.0, 3.0), torch.distributions.Beta(2.0, 3.0)),
    (dist.Gamma(2.0, 3.0), torch.distributions.Gamma(2.0, 3.0)),
    (dist.Uniform(-1.0, 2.0), torch.distributions.Uniform(-1.0, 2.0)),
    (dist.VonMises(0.3, 1.0), torch.distributions.VonMises(0.3, 1.0)),
    (dist.Dirichlet(jnp.ones(3) * 2), torch.distributions.Dirichlet(torch.ones(3) * 2)),
    (
        dist.MultivariateNormal(jnp.zeros(2), jnp.asarray(COVARIANCE.numpy())),
        torch.distributions.MultivariateNormal(torch.zeros(2), COVARIANCE),
    ),
]


@pytest.mark.law
@pytest.mark.parametrize("twins", TWINS, ids=lambda twins: type(twins[0]).__name__)
def test_numpyro_distributions_are_those_of_torch(twins: Any) -> None:
    ours, theirs = poe.as_expert(twins[0]), poe.as_expert(twins[1])
    assert ours.space == theirs.space
    x = ours.sample(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, ours.sample(50, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.score(x), theirs.score(x), atol=1e-3, rtol=1e-3)


def test_numpyro_outside_the_support_is_no_density() -> None:
    assert poe.as_expert(dist.Uniform(0.0, 1.0))(torch.tensor([2.0])).item() == -torch.inf


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (dist.Normal(jnp.zeros(2), 1.0), r"got a batch of shape \(2,\); use distribution.to_event"),
        (dist.Poisson(2.0), "expected a continuous distribution.*got Poisson.*torch.distributions"),
        (dist.LKJCholesky(3, 1.0), "got LKJCholesky on _CorrCholesky: use .*JaxLogDensity"),
        (
            dist.Uniform(jnp.zeros(2), jnp.array([1.0, 2.0])).to_event(1),
            "got Independent on _?Interval",
        ),
    ],
    ids=["a batch", "discrete", "another space", "bounds that differ"],
)
def test_numpyro_refused(distribution: dist.Distribution, message: str) -> None:
    with pytest.raises(poe.AdaptationError, match=message):
        poe.as_expert(distribution)


def ring(x: Any) -> Any:
    return -4 * (jnp.linalg.norm(x) - 2) ** 2


def reloaded(expert: poe.Expert) -> poe.Expert:
    file = io.BytesIO()
    torch.save(expert, file)
    file.seek(0)
    loaded: poe.Expert = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.parametrize(
    "again",
    [lambda expert: pickle.loads(pickle.dumps(expert)), copy.deepcopy, copy.copy, reloaded],
    ids=["pickle", "deepcopy", "copy", "torch.save"],
)
def test_a_copy_says_the_same(again: Callable[[poe.Expert], poe.Expert]) -> None:
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    expert = JaxLogDensity(ring, space=poe.Real(2))
    product = expert**0.5 * experts.Gaussian([0.0, 0.0], scale=1.0)
    normal = poe.as_expert(dist.Normal(jnp.zeros(2), jnp.ones(2)).to_event(1))
    for whole in (expert, product, normal):
        other = again(whole)
        for points in (x, x.double()):
            assert torch.equal(other(points), whole(points))
        assert torch.equal(other.score(x), whole.score(x))


def test_a_function_without_a_name_to_find_it_by_is_not_pickled() -> None:
    with pytest.raises((AttributeError, pickle.PicklingError), match="ambda"):
        pickle.dumps(JaxLogDensity(lambda x: -jnp.sum(x**2), space=poe.Real(2)))
