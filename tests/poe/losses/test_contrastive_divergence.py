"""Contrastive divergence: its gradient is that of the likelihood, and nothing is made up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import poe
from experts import Gaussian, Ising, NeuralEnergy
from poe.losses import contrastive_divergence
from poe.normalizers.enumeration import states
from poe.normalizers.quadrature import nodes
from tests.seeds import seeded


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ising() -> Ising:
    edges = [[0, 0, 1, 2], [1, 2, 3, 3]]
    couplings = nn.Parameter(torch.tensor([0.3, -0.4, 0.5, 0.2], dtype=torch.float64))
    fields = nn.Parameter(torch.tensor([0.1, -0.2, 0.3, 0.0], dtype=torch.float64))
    return Ising.from_edges(edges, couplings, fields, 4)  # type: ignore[arg-type]


class Net(nn.Module):
    """A smooth energy in the plane with a bowl around it, so that it has a normaliser."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 6), nn.Linear(6, 1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=rng(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).tanh())[..., 0] - 0.5 * x.square().sum(-1)


def gradient(value: Tensor, expert: nn.Module) -> Tensor:
    grads = torch.autograd.grad(value, list(expert.parameters()), materialize_grads=True)
    return torch.cat([grad.flatten() for grad in grads])


def test_the_gradient_is_the_likelihoods_on_an_enumerable_model() -> None:
    expert, table = ising(), states(poe.Binary(4)).double()
    data = table[torch.tensor([0, 3, 3, 7, 12, 15])]
    log_z = expert(table).logsumexp(0)
    exact = gradient(log_z - expert(data).mean(), expert)
    log_weights = expert(table).detach()
    loss = contrastive_divergence(expert, data, table, log_weights=log_weights)
    torch.testing.assert_close(gradient(loss.value, expert), exact, rtol=1e-12, atol=1e-14)


def test_with_exact_draws_the_gradient_is_the_likelihoods_in_standard_errors() -> None:
    expert, table = ising(), states(poe.Binary(4)).double()
    data = table[torch.tensor([0, 3, 3, 7, 12, 15])]
    exact = gradient(expert(table).logsumexp(0) - expert(data).mean(), expert)
    draws = expert.sample(40_000, generator=rng()).double()
    found = torch.stack(
        [gradient(contrastive_divergence(expert, data, part).value, expert)
         for part in draws.split(1000)]
    )  # fmt: skip
    z = (found.mean(0) - exact) / (found.std(0) / len(found) ** 0.5)
    assert (z.abs() < 4).all()


@pytest.mark.law
@seeded()
def test_the_gradient_is_the_likelihoods_in_the_plane_by_quadrature() -> None:
    expert = NeuralEnergy(Net(), poe.Real(2)).double()
    data = torch.randn(20, 2, generator=rng(1), dtype=torch.float64)
    # The exact one by differences of log Z, which knows nothing of the loss.
    exact = []
    for parameter in expert.parameters():
        for place in range(parameter.numel()):
            values = []
            for step in (1e-4, -1e-4):
                with torch.no_grad():
                    parameter.view(-1)[place] += step
                    values.append(poe.log_partition(expert).value - expert(data).mean())
                    parameter.view(-1)[place] -= step
            exact.append((values[0] - values[1]) / 2e-4)
    x, log_weights = nodes(expert, 1e-8)
    with torch.no_grad():
        log_weights = log_weights + expert(x)
    kept = log_weights > log_weights.max() - 60  # far out f is what the loss calls exploded
    x, log_weights = x[kept], log_weights[kept]
    loss = contrastive_divergence(expert, data, x, log_weights=log_weights)
    # Central differences in float64: h² f''' is 1e-8, rounding 1e-10 / h.
    torch.testing.assert_close(gradient(loss.value, expert), torch.stack(exact), rtol=0, atol=3e-6)


def test_the_parts_and_the_regularizer() -> None:
    expert = Gaussian(nn.Parameter(torch.zeros(1)), scale=[1.0]) ** 2
    data, model = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [0.5], [2.0]])
    on_data, on_model = expert(data).detach(), expert(model).detach()
    value, parts = contrastive_divergence(expert, data, model, regularization=0.1)
    torch.testing.assert_close(parts["on_data"], on_data.mean())
    torch.testing.assert_close(parts["on_model"], on_model.mean())
    regularizer = 0.1 * (on_data.square().mean() + on_model.square().mean())
    torch.testing.assert_close(parts["regularizer"], regularizer)
    torch.testing.assert_close(value.detach(), on_model.mean() - on_data.mean() + regularizer)
    assert not any(part.requires_grad for part in parts.values())


def test_no_gradient_flows_into_the_draws() -> None:
    expert = Gaussian(nn.Parameter(torch.zeros(1)), scale=[1.0])
    model = torch.ones(3, 1, requires_grad=True)
    value, _ = contrastive_divergence(expert, torch.ones(2, 1), model)
    value.backward()
    assert model.grad is None


class Faulty(nn.Module):
    """Says what it is told to of x[..., 0] > 1."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[..., 0] > 1, self.value, -x.square().sum(-1))


@pytest.mark.parametrize(
    ("value", "kind"),
    [(torch.nan, "NaN"), (torch.inf, "+inf"), (-torch.inf, "-inf"), (-3e4, "too large")],
)
def test_what_is_no_number_is_refused_with_the_factor_and_the_rows(value: float, kind: str) -> None:
    faulty = NeuralEnergy(Faulty(value), poe.Real(2))
    expert = poe.Product(prior=Gaussian([0.0, 0.0], scale=1.0), style=faulty**0.7)
    fine, data = torch.zeros(3, 2), torch.tensor([[0.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.5, 0.0]])
    with pytest.raises(poe.NonFiniteError) as caught:
        contrastive_divergence(expert, data, fine)
    said = str(caught.value)
    assert "2 of 4 rows of data" in said
    assert f"2 {kind}" in said
    assert "expert 'style'" in said
    assert "prior" not in said
    with pytest.raises(poe.NonFiniteError, match=r"2 of 4 rows of model .* expert 'style'"):
        contrastive_divergence(expert, fine, data)
    with pytest.raises(poe.NonFiniteError, match="NeuralEnergy"):
        contrastive_divergence(faulty * faulty**0.5, data, fine)


def test_a_sum_that_is_no_number_though_every_factor_is_one() -> None:
    large = NeuralEnergy(Faulty(-1.5e4), poe.Real(2))
    expert = poe.Product(one=large, other=large)
    with pytest.raises(poe.NonFiniteError, match=r"Product \(one, other\), no factor by itself"):
        contrastive_divergence(expert, torch.full((1, 2), 2.0), torch.zeros(1, 2))


def test_shapes_are_refused_in_words() -> None:
    expert = Gaussian([0.0, 0.0], scale=1.0)
    fine = torch.zeros(3, 2)
    for data, model in ((torch.zeros(2), fine), (fine, torch.zeros(0, 2)), (fine, fine[None])):
        with pytest.raises(poe.ShapeError, match="rows of"):
            contrastive_divergence(expert, data, model)
    with pytest.raises(poe.ShapeError, match="log_weights"):
        contrastive_divergence(expert, fine, fine, log_weights=torch.zeros(2))


def test_on_meta() -> None:
    expert = Gaussian([0.0, 0.0], scale=1.0).to("meta")
    x = torch.zeros(3, 2, device="meta")
    assert contrastive_divergence(expert, x, x).value.shape == ()
