"""p(x) p(y | x) as one expert, against the joint Gaussian and against enumeration."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import poe
from experts import Bernoulli, Gaussian, LinearGaussian
from poe.density.capabilities import exact_log_partition
from poe.normalizers.enumeration import states

WEIGHT = torch.tensor([[2.0, 0.5], [0.0, -1.0], [1.0, 1.0]])
BIAS, SCALE = torch.tensor([0.5, -1.0, 0.0]), torch.tensor([0.5, 1.0, 0.3])
PRIOR = Gaussian([1.0, -1.0], covariance=[[1.0, 0.4], [0.4, 2.0]])
STEP = LinearGaussian(WEIGHT, BIAS, SCALE)


def joint() -> Gaussian:
    """(x, y) ~ N with mean (m, Wm + b) and covariance [[S, SW'], [WS, WSW' + D]]."""
    spread = PRIOR.covariance
    cross = spread @ WEIGHT.mT
    corner = WEIGHT @ cross + SCALE.square().diag()
    covariance = torch.cat([torch.cat([spread, cross], 1), torch.cat([cross.mT, corner], 1)])
    return Gaussian(torch.cat([PRIOR.loc, WEIGHT @ PRIOR.loc + BIAS]), covariance=covariance)


@pytest.mark.parametrize("batch", [(), (6,), (2, 3), (0,)])
def test_linear_gaussian_chain_is_the_joint_gaussian(batch: tuple[int, ...]) -> None:
    chain = poe.Chain(PRIOR, STEP)
    z = torch.randn(*batch, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(chain.log_prob(z), joint()(z), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(chain(z), chain.log_prob(z))


def test_score_runs_through_the_condition_too() -> None:
    z = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    chain = poe.Chain(PRIOR, STEP)
    torch.testing.assert_close(chain.score(z), joint().score(z), rtol=1e-3, atol=1e-3)


def test_draws_have_the_moments_of_the_joint_gaussian() -> None:
    n = 20_000
    z = poe.Chain(PRIOR, STEP).sample(n, generator=torch.Generator().manual_seed(0))
    truth = joint()
    error = truth.covariance.diagonal().sqrt() / math.sqrt(n)
    assert bool(((z.mean(0) - truth.loc).abs() < 4 * error).all())
    spread = truth.covariance.diagonal().outer(truth.covariance.diagonal())
    covariance_error = ((spread + truth.covariance.square()) / n).sqrt()
    assert bool(((z.T.cov() - truth.covariance).abs() < 4 * covariance_error).all())


def test_what_is_normalised_is_so_by_both() -> None:
    closed = poe.Chain(PRIOR**2, STEP)
    expected = poe.log_partition(PRIOR**2).value
    torch.testing.assert_close(exact_log_partition(closed), expected)
    z = torch.zeros(3, 5)
    torch.testing.assert_close(closed.log_prob(z), closed(z) - expected)

    class Unnormalized(LinearGaussian):
        is_normalized = False

    free = poe.Chain(PRIOR, Unnormalized(WEIGHT, BIAS, SCALE))
    assert not hasattr(free, "log_prob")
    assert exact_log_partition(free) is None
    quartic = poe.FromEnergy(lambda x: (x**4).sum(-1), space=poe.Real(2))
    assert not hasattr(poe.Chain(quartic, STEP), "log_prob")
    assert not hasattr(poe.Chain(quartic, STEP), "sample")


class Copy(poe.Conditional):
    """Each y_i equals x_i with probability 1 - e."""

    is_normalized = True

    def __init__(self) -> None:
        super().__init__()
        self.space = poe.Binary(2)
        self.error = nn.Parameter(torch.tensor(0.2))

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        is_same = (x == condition).to(self.error.dtype)
        return (is_same * (1 - self.error).log() + (1 - is_same) * self.error.log()).sum(-1)


def test_binary_chain_sums_to_one() -> None:
    prior = Bernoulli([-1.0, 2.0])
    chain = poe.Chain(prior, Copy())
    z = states(chain.space)
    assert z.shape == (16, 4)
    torch.testing.assert_close(chain.log_prob(z).logsumexp(0), torch.zeros(()), atol=1e-6, rtol=0)
    at = torch.tensor([1.0, 0.0, 1.0, 1.0])
    expected = prior(at[:2]) + math.log(0.8) + math.log(0.2)
    torch.testing.assert_close(chain(at), expected)
    assert not hasattr(chain, "sample")  # the conditional has none


@pytest.mark.parametrize(
    "prior",
    [Bernoulli([0.0]), Gaussian(torch.zeros(2, 2), scale=1.0), Gaussian(0.0, scale=1.0)],
    ids=["binary", "matrix", "scalar"],
)
def test_spaces_that_do_not_join_are_refused(prior: poe.Expert) -> None:
    with pytest.raises(poe.PoeError, match=r"both on Real\(n\) or both on Binary\(n\)"):
        poe.Chain(prior, STEP)


def test_what_is_no_conditional_is_refused() -> None:
    with pytest.raises(poe.PoeError, match=r"expected a poe.Conditional p\(y \| x\), got Gaussian"):
        poe.Chain(PRIOR, PRIOR)  # type: ignore[arg-type]


def test_wrong_shape_from_the_conditional_is_refused() -> None:
    class Wrong(LinearGaussian):
        def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
            return super().log_density(x, condition)[:, None]

    with pytest.raises(poe.ShapeError, match=r"shape \(4,\) from Wrong, got \(4, 1\)"):
        poe.Chain(PRIOR, Wrong(WEIGHT, BIAS, SCALE))(torch.zeros(4, 5))


def test_chains_nest_and_compose() -> None:
    chain = poe.Chain(poe.Chain(PRIOR, STEP), LinearGaussian(torch.ones(1, 5), [0.0], [1.0]))
    assert chain.space == poe.Real(6)
    product = chain * Gaussian(torch.zeros(6), scale=2.0)
    assert product(torch.zeros(2, 6)).shape == (2,)


def test_saved_and_loaded(tmp_path: Path) -> None:
    chain = poe.Chain(PRIOR, STEP)
    poe.save(chain, tmp_path)
    z = torch.ones(2, 5)
    assert torch.equal(poe.load(tmp_path)(z), chain(z))
