"""Diffusion models in energy form, and the products that annealing alone gets wrong."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from experts.noised.score_model import ScoreModel

BETAS = torch.linspace(1e-4, 0.12, 80)
KEPT = (1 - BETAS).cumprod(0)
LINE = poe.Real(1)


class NoiseOfMixture(nn.Module):
    """The best prediction of noise where the data are a mixture of Gaussians on the line."""

    def __init__(
        self, weights: list[float], means: list[float], scale: float, kind: str = "epsilon"
    ) -> None:
        super().__init__()
        self.kind, self.scale = kind, scale
        for name, value in (("weights", weights), ("means", means), ("kept", KEPT)):
            self.register_buffer(name, torch.as_tensor(value))

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        kept = self.kept[t][:, None]
        variance = kept * self.scale**2 + 1 - kept
        exponent = -0.5 * (x - kept.sqrt() * self.means).square() / variance
        return (exponent + self.weights.log() - 0.5 * variance.log()).logsumexp(-1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        kept = self.kept[t][:, None]
        variance = kept * self.scale**2 + 1 - kept
        gap = x - kept.sqrt() * self.means
        share = (-0.5 * gap.square() / variance + self.weights.log()).softmax(-1)
        score = (-share * gap / variance).sum(-1, keepdim=True)
        noise = -(1 - kept).sqrt() * score
        clean = (x - (1 - kept).sqrt() * noise) / kept.sqrt()
        return {
            "epsilon": noise,
            "sample": clean,
            "v_prediction": kept.sqrt() * noise - (1 - kept).sqrt() * clean,
            "energy": -self.log_density(x, t),
        }[self.kind]


OF_A = ([0.5, 0.5], [-2.0, 2.0], 0.2)
OF_B = ([0.9, 0.1], [-2.8, 2.0], 0.2)
A, B = NoiseOfMixture(*OF_A), NoiseOfMixture(*OF_B)


def model(net: nn.Module, kind: str = "epsilon", num_nodes: int = 64) -> ScoreModel:
    return ScoreModel(net, KEPT, space=LINE, prediction=kind, num_nodes=num_nodes)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction", "energy"])
def test_the_integral_of_the_score_is_the_log_density(kind: str) -> None:
    net = NoiseOfMixture([0.3, 0.7], [-2.0, 1.0], 0.4, kind).double()
    expert = ScoreModel(net, KEPT.double(), space=LINE, prediction=kind, num_nodes=64)
    x = torch.linspace(-3, 3, 41, dtype=torch.float64)[:, None]
    for step in (0, 30, 79):
        steps = torch.full((len(x),), step)
        exact = net.log_density(x, steps)
        found = expert.given(step)(x)
        torch.testing.assert_close(found - found[0], exact - exact[0], atol=1e-6, rtol=0)
        place = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(net.log_density(place, steps).sum(), place)
        torch.testing.assert_close(expert.given(step).score(x), score, atol=1e-6, rtol=1e-6)


def test_one_step_a_chain_and_any_batch() -> None:
    expert, x = model(A), torch.ones(2, 1)
    both = torch.cat([expert.given(t)(x[:1]) for t in (0, 50)])
    torch.testing.assert_close(expert.given(torch.tensor([0, 50]))(x), both)
    assert expert.given(3)(torch.ones(2, 3, 1)).shape == (2, 3)


def test_an_object_with_a_sample_is_taken_as_in_diffusers() -> None:
    class Wrapped(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
            return SimpleNamespace(sample=A(x, t))

    x = torch.ones(2, 1)
    torch.testing.assert_close(model(Wrapped()).given(9)(x), model(A).given(9)(x))


def truth() -> tuple[float, float]:
    """Mean, and share on the left, of the product of the two models at step 0, by quadrature."""
    x = torch.linspace(-6, 6, 24_001, dtype=torch.float64)[:, None]
    step = torch.zeros(len(x), dtype=torch.long)
    log_density = sum(net.double().log_density(x, step) for net in (A, B))
    A.float(), B.float()
    share = log_density.softmax(0)
    return float(share @ x[:, 0]), float(share[x[:, 0] < 0].sum())


def product(step: int, kind: str = "epsilon") -> poe.Product:
    a, b = (model(NoiseOfMixture(*of, kind), kind).given(step) for of in (OF_A, OF_B))
    return poe.Product(a=a, b=b)


STEPS = (70, 60, 50, 40, 30, 22, 15, 9, 4)


def test_annealing_alone_ends_at_the_wrong_shares() -> None:
    """Unadjusted Langevin down the noised marginals: off by more than a half, and biased."""
    _, left = truth()
    assert left == pytest.approx(0.1427, abs=5e-5)  # by quadrature, to four digits
    ladder = (*(product(step, "energy") for step in STEPS),)
    variance = [1 - KEPT[step].item() + 0.04 for step in (*STEPS, 0)]
    kernel = poe.samplers.AnnealedLangevin(
        ladder, poe.samplers.ULA(0.1), 40, step_size=tuple(0.05 * v for v in variance)
    )
    target = product(0, "energy")  # the densities of the test below, for one evaluation each
    x = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    g, state = torch.Generator().manual_seed(1), kernel.init(target, x)
    for _ in range(kernel.num_ladder_steps + 40):
        state, _ = kernel.step(target, state, generator=g)
    found = (state.position < 0).double().mean()
    assert kernel.guarantee == "biased"
    assert found - left > 0.5


@pytest.mark.law
def test_weights_mend_it() -> None:
    """The same ladder as a path of SMC: mean and share within four standard errors."""
    mean, left = truth()
    draws = poe.smc(
        product(0),
        4000,
        start=experts.Gaussian([0.0], scale=[1.5]),
        path=[product(step) for step in STEPS],
        generator=torch.Generator().manual_seed(2),
        progress=False,
    )
    assert draws.guarantee == "asymptotically exact"
    weight = draws.log_weights[:, 0].softmax(0)
    is_left = (lambda x: (x < 0).double(), left, 0.05)
    for function, exact, largest_error in ((lambda x: x, mean, 0.2), is_left):
        of_islands = function(draws.samples[..., 0]).double().mean(1)
        found = (weight * of_islands).sum()
        error = ((weight * (of_islands - found)).square().sum() * 16 / 15).sqrt()
        assert error < largest_error
        assert abs(found - exact) < 4 * error, (found, exact, error)


class Turning(nn.Module):
    """The noise of a standard normal in the plane, turned: no gradient field."""

    def __init__(self, turn: float) -> None:
        super().__init__()
        self.turn = turn

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        turned = torch.stack([-x[:, 1], x[:, 0]], -1)
        return (1 - KEPT[t]).sqrt()[:, None] * (x + self.turn * turned)


def test_a_score_that_is_no_gradient_is_told() -> None:
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    straight, turning = (ScoreModel(Turning(turn), KEPT, space=poe.Real(2)) for turn in (0.0, 0.5))
    assert straight.asymmetry(x, 20).item() < 1e-5
    # The integral sees none of the turning part: |0.5 x| / |x + 0.5 turned x|.
    assert turning.asymmetry(x, 20).item() == pytest.approx(0.5 / 1.25**0.5, rel=1e-4)


def test_corrected_kernels_are_exact_for_the_integral_though_the_drift_turns() -> None:
    target = ScoreModel(Turning(0.5), KEPT, space=poe.Real(2), num_nodes=4).given(20)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40_000, 2, generator=g)  # the integral is −|x|² / 2
    for kernel in (poe.samplers.MALA(0.3), poe.samplers.HMC(0.4, 3)):
        state = kernel.init(target, x)
        for _ in range(5):
            state, _ = kernel.step(target, state, generator=g)
        squares = state.position.square()
        z = (squares.mean(0) - 1) / (2 / len(x)) ** 0.5
        assert bool((z.abs() < 4).all()), (kernel, z)
        z = state.position.prod(1).mean() * len(x) ** 0.5
        assert abs(z) < 4, (kernel, z)


REFUSED = {
    "another prediction": (
        lambda: model(A, "noise"),
        "expected a prediction among epsilon, sample, v_prediction, energy, got noise",
    ),
    "rising": (
        lambda: ScoreModel(A, KEPT.flip(0), space=LINE),
        "that fall from almost 1 to almost 0",
    ),
    "betas": (lambda: ScoreModel(A, BETAS, space=LINE), "that fall from almost 1 to almost 0"),
    "no such step": (lambda: model(A).given(80), "a step from 0 to 79, an integer, got 80"),
    "a level of noise": (lambda: model(A).given(0.5), "a step from 0 to 79, an integer, got 0.5"),
    "one number as noise": (
        lambda: model(NoiseOfMixture([1.0], [0.0], 1.0, "energy")).given(0)(torch.ones(2, 1)),
        r"expected epsilon of shape \(2, 1\) from the net for x of shape \(2, 1\), got \(2,\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(poe.PoeError, match=message):
        call()
