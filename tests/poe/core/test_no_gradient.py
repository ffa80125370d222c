"""A value without a graph to x: flat, in steps, or found out."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import experts
import poe
from poe.core.no_gradient import has_steps, leads_to, varies_smoothly


def normal(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)


def of(fn: Callable[[Tensor], Tensor], space: poe.Space | None = None) -> poe.Expert:
    return poe.FromLogDensity(fn, space=space or poe.Real(2))


X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))

FLAT: dict[str, Callable[[Tensor], Tensor]] = {
    "a constant": lambda x: torch.zeros(x.shape[:-1]),
    "steps": lambda x: x.detach().floor().sum(-1),
    "an indicator": lambda x: (x > 0).all(-1).log(),
    "a count": lambda x: (x.abs() > 0.5).double().sum(-1),
    "a constraint": lambda x: (
        x[..., 0].detach().new_zeros(x.shape[:-1]).masked_fill(x.sum(-1) > 1, -torch.inf)
    ),
    "a flat piece": lambda x: -(x.detach().abs() - 9).relu().sum(-1),
    "rounding": lambda x: x.detach().softmax(-1).sum(-1),
    "steps by numpy": lambda x: torch.from_numpy(np.floor(x.detach().numpy()).sum(-1)),
}


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_score_of_0_that_is_right_is_given_however_often(name: str, dtype: torch.dtype) -> None:
    expert, x = of(FLAT[name]), X.to(dtype)
    for _ in range(20):
        assert torch.equal(expert.score(x), torch.zeros_like(x))
    assert torch.equal(expert.score(x.round()), torch.zeros_like(x))
    lattice = torch.cartesian_prod(torch.arange(-3.0, 4.0), torch.arange(-3.0, 4.0))
    assert not expert.score(lattice).any()


def test_flatness_costs_nothing_in_the_long_run() -> None:
    calls = []

    def flat(x: Tensor) -> Tensor:
        calls.append(len(x))
        return torch.zeros(len(x))

    expert = of(flat)
    for _ in range(64):
        expert.score(X)
    before = len(calls)
    for _ in range(60):
        expert.score(X)
    assert len(calls) == before + 60


def test_a_piece_that_is_flat_does_not_vouch_for_the_rest() -> None:
    expert = of(FLAT["a flat piece"])
    assert not expert.score(X).any()
    for _ in range(3):
        with pytest.raises(poe.GradientError, match="carries none"):
            expert.score(20 + X)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("start", [0.0, 1.0, -1e3])
def test_at_any_scale_and_place(scale: float, start: float) -> None:
    expert = of(lambda x: normal((x.detach() - start) / scale))
    for dtype in (torch.float32, torch.float64):
        with pytest.raises(poe.GradientError):
            expert.score(torch.full((1, 2), start + scale, dtype=dtype))


SPACES: dict[str, tuple[poe.Space, Callable[[Tensor], Tensor], Tensor]] = {
    "Positive": (poe.Positive(2), lambda x: -x.sum(-1), torch.ones(3, 2)),
    "Interval": (poe.Interval((), 0, 1), lambda x: -x, torch.full((3,), 0.5)),
    "Simplex": (poe.Simplex(3), lambda x: x.log().sum(-1), torch.full((2, 3), 1 / 3)),
    "PositiveDefinite": (
        poe.PositiveDefinite(2),
        lambda x: torch.logdet(x) - x.diagonal(dim1=-1, dim2=-2).sum(-1),
        torch.eye(2).expand(3, 2, 2),
    ),
    "Binary": (poe.Binary(3), lambda x: (2 * x).sum(-1), torch.ones(2, 3)),
}


@pytest.mark.parametrize("name", SPACES)
def test_on_every_space_with_a_score(name: str) -> None:
    space, fn, x = SPACES[name]
    of(fn, space).score(x)
    with pytest.raises(poe.GradientError):
        of(lambda x: fn(x.detach()), space).score(x)


@pytest.mark.parametrize("lost", [lambda z: z.detach(), lambda z: torch.from_numpy(z.numpy())])
def test_in_the_one_hot_encoding(lost: Callable[[Tensor], Tensor]) -> None:
    weights = torch.arange(3.0)
    expert = poe.FromOneHot(
        lambda z: (lost(z) * weights).sum((-2, -1)), space=poe.Categorical((2,), 3)
    )
    with pytest.raises(poe.GradientError, match="FromOneHot"):
        expert.score(torch.tensor([[0, 1]]))


class OwnLogProb(poe.Expert):
    """A log-density with a graph, and a log_prob without."""

    space = poe.Real(2)

    def forward(self, x: Tensor) -> Tensor:
        return normal(x)

    def log_prob(self, x: Tensor) -> Tensor:
        return normal(x.detach())


def test_a_component_of_a_mixture_is_looked_at_by_what_is_mixed() -> None:
    both = poe.Mixture([OwnLogProb(), experts.Gaussian([0.0, 0.0], scale=1.0)])
    with pytest.raises(poe.GradientError, match="OwnLogProb"):
        both.score(X)


def test_numpy_is_explained_only_where_a_score_is_asked_for() -> None:
    expert = of(lambda x: torch.from_numpy((-(x.numpy() ** 2)).sum(-1)))
    assert expert(X).shape == (5,)
    with pytest.raises(poe.GradientError, match=r"numpy, which knows no gradient.*autograd\.Func"):
        expert.score(X)
    weight = nn.Parameter(torch.ones(2))
    learned = of(lambda x: torch.from_numpy((weight * x).numpy()).sum(-1))
    with pytest.raises(RuntimeError, match="Can't call numpy"):
        learned(X)


class OwnGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return normal(x.detach())

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient[:, None] * torch.ones(2)


@pytest.mark.parametrize(
    "fn",
    [
        normal,
        OwnGradient.apply,
        lambda x: checkpoint(normal, x, use_reentrant=False),
        lambda x: normal(x) + normal(x.detach()),
    ],
)
def test_a_graph_to_x_is_enough_for_a_score(fn: Callable[[Tensor], Tensor]) -> None:
    assert of(fn).score(X).any()


def test_copies_are_looked_at_anew_and_transforms_left_alone() -> None:
    expert = of(normal)
    expert.score(X)
    copy.deepcopy(expert).score(X)
    one = torch.func.vmap(torch.func.grad(lambda row: expert(row[None])[0]))
    torch.testing.assert_close(one(X), -X)
    with torch.inference_mode():
        torch.testing.assert_close(expert.score(X), -X)


def test_what_is_followed() -> None:
    x, weight = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    inner = 2 * x
    assert leads_to((weight * inner).sum(), x)
    assert leads_to((weight * inner).sum(), inner)
    assert not leads_to(weight.sum(), x)
    assert not leads_to(torch.ones(()), x)
    assert has_steps((x.floor() + x).sum())
    assert not has_steps(x.sum())


def test_what_refuses_places_near_by_is_left_alone() -> None:
    def strict(x: Tensor) -> Tensor:
        if not torch.equal(x.detach(), x.detach().round()):
            raise ValueError("whole numbers only")
        return x.detach().sum(-1)

    assert not varies_smoothly(strict, torch.ones(3, 2), poe.Real(2))
