"""Experts of one architecture in one call: the same density, from fewer calls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from poe.samplers import MALA
from poe.sampling.compiled import Block
from poe.testing import check_expert
from tests.seeds import seeded

SPACE = poe.Real(2)
X = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))


class Counting(poe.Expert):
    """−w |x|⁴, excluded where w x₀ is large; counts its calls."""

    space = SPACE
    num_calls = 0

    def __init__(self, weight: float, bound: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(weight))
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        Counting.num_calls += 1
        value = -self.weight * x.square().sum(-1).square()
        return torch.where(self.weight * x[..., 0] > self.bound, -torch.inf, value)


class Branching(poe.Expert):
    """Decides on the host."""

    space = SPACE

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return -x.square().sum(-1) if self.weight > 0 else x.sum(-1)


class Squeezed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(-1)


def network(width: int = 4, beta: float = 1.0) -> nn.Module:
    layers = nn.Linear(2, width), nn.Softplus(beta), nn.Linear(width, 1)
    return nn.Sequential(*layers, Squeezed())


def energy(width: int = 4, beta: float = 1.0) -> poe.Expert:
    return poe.FromEnergy(network(width, beta), space=SPACE)


def labels() -> poe.Product:
    """Alike but for the label; its convolutions choose a layout that vmap has not."""
    model = experts.ReconstructionEnergy((8, 8), ["thin", "thick", "any"], 0.1, channels=4)
    return model.given("thin") * model.given("thick")


@seeded()
def mixed() -> poe.Product:
    """Two architectures in turn, and one expert that is like nothing else."""
    return poe.Product(
        first=energy(),
        wide=energy(8),
        alone=Counting(0.3),
        second=energy(),
        wider=energy(8) ** 0.5,
        third=energy(),
        widest=energy(8),
    )


def test_says_what_the_product_says() -> None:
    product = mixed()
    together = poe.Together(product)
    assert together.order == [[0, 3, 5], [1, 6], [2], [4]]
    torch.testing.assert_close(together.log_density_and_score(X), product.log_density_and_score(X))
    torch.testing.assert_close(together(X[None]), product(X)[None])
    torch.testing.assert_close(together(X[0]), product(X[0]))
    assert together(X[:0]).shape == (0,)
    check_expert(together, X)


def test_calls_once_for_all_and_keeps_what_is_excluded_out() -> None:
    product = poe.Product(*(Counting(weight) for weight in (0.1, 1.0, 0.5)))
    together, before = poe.Together(product), Counting.num_calls
    together(X)
    assert Counting.num_calls == before + 1
    divided = product / Counting(0.7)
    assert (divided.contributions(X) == -torch.inf).any()
    value = poe.Together(divided)(X)
    assert 0 < (value == -torch.inf).sum() < len(X)
    assert torch.equal(value, divided(X))


def opaque(net: nn.Module) -> poe.Expert:
    return poe.FromEnergy(lambda x: net(x), space=SPACE)


with seeded():
    DIFFERENT = {
        "width": energy(8),
        "setting": energy(beta=2.0),
        "dtype": energy().double(),
        "class": poe.FromLogDensity(network(), space=SPACE),
        "space": poe.FromEnergy(network(), space=poe.Interval(2, -9, 9)),
        "exponent": energy() ** 0.5,
        "function": opaque(network()),
    }


@pytest.mark.parametrize("other", DIFFERENT.values(), ids=DIFFERENT)
@seeded()
def test_what_differs_in_more_than_tensors_is_not_alike(other: poe.Expert) -> None:
    one = energy() if other.space == SPACE else poe.FromEnergy(network(), space=other.space)
    two = other if other.space == SPACE else poe.FromLogDensity(network(), space=other.space)
    with pytest.raises(poe.PoeError, match="2 that are all different"):
        poe.Together(one * two)
    assert poe.Together(one * two * one).order == [[0, 2], [1]]


def test_tensors_of_other_shapes_are_not_alike() -> None:
    one, other = Counting(1.0), Counting(2.0)
    other.weight = other.weight.expand(7)
    with pytest.raises(poe.PoeError, match="all different"):
        poe.Together(one * other)


def test_a_tensor_that_is_not_registered_is_not_seen_as_equal() -> None:
    one, other = Counting(1.0), Counting(2.0)
    one.bound, other.bound = torch.ones(2), torch.ones(2)  # type: ignore[assignment]
    with pytest.raises(poe.PoeError, match="all different"):
        poe.Together(one * other)


def test_functions_without_tensors_have_nothing_to_stack() -> None:
    expert = poe.FromEnergy(torch.linalg.vector_norm, space=SPACE)
    with pytest.raises(poe.PoeError, match=r"all different \(FromEnergy, FromEnergy_2\)"):
        poe.Together(expert * expert)


@seeded()
def test_refuses_what_is_no_product_or_cannot_be_vectorised() -> None:
    with pytest.raises(poe.PoeError, match="expected a product of experts, got FromEnergy"):
        poe.Together(energy())  # type: ignore[arg-type]
    for refused, x in ((Branching() * Branching(), X), (labels(), torch.zeros(1, 8, 8))):
        with pytest.raises(
            poe.PoeError, match=r"works alone but.* poe.Together\(others\) \* these"
        ):
            poe.Together(refused)(x)


@seeded()
def test_errors_of_the_experts_are_their_own() -> None:
    with pytest.raises(poe.DtypeError, match="float64"):
        poe.Together(energy() * energy())(X.double())
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        poe.Together(
            poe.FromEnergy(nn.Linear(3, 1), space=SPACE)
            * poe.FromEnergy(nn.Linear(3, 1), space=SPACE)
        )(X)


def test_moves_and_loads_as_one_and_comes_apart_again() -> None:
    product = mixed()
    together = poe.Together(product).double()
    apart = together.product
    assert apart.names == product.names
    torch.testing.assert_close(apart.contributions(X.double()).float(), product.contributions(X))
    torch.testing.assert_close(together(X.double()), apart(X.double()))
    before = together(X.double())
    for tensor in (*apart.parameters(), *apart.buffers()):
        tensor.data.zero_()
    assert torch.equal(together(X.double()), before)
    other = poe.Together(mixed())
    for tensor in other.buffers():
        tensor.mul_(2.0)
    other.load_state_dict(poe.Together(product).state_dict())
    torch.testing.assert_close(other(X), product(X))


@seeded()
def test_copies_so_that_the_experts_stay_their_own() -> None:
    product = energy() * energy()
    together = poe.Together(product)
    before = together(X)
    for weight in product.parameters():
        weight.data.zero_()
    assert torch.equal(together(X), before)


@seeded()
def test_runs_on_the_meta_device() -> None:
    together = poe.Together(energy() * energy()).to("meta")
    value, score = together.log_density_and_score(X.to("meta"))
    assert value.is_meta
    assert score.is_meta
    built_there = poe.Together((energy() * energy()).to("meta"))
    assert built_there(X.to("meta")).is_meta


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled:UserWarning")
@seeded()
def test_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poe.sampling.compiled, "GRADIENTS_PER_BLOCK", 2)
    torch._dynamo.reset()
    kernel, together = MALA(0.1), poe.Together(energy() * energy())
    block, state = Block(kernel, together), kernel.init(together, X)
    noises = block.draw_noise(X, torch.Generator().manual_seed(0))
    found, _ = block(state, noises)
    assert not block.failure
    for noise in noises:
        state, _ = kernel.transition(together, state, noise)
    torch.testing.assert_close(found, state)
    torch._dynamo.reset()


def test_a_module_or_a_tensor_shared_within_an_expert_stays_the_users() -> None:
    def shared(rate: float, power: float) -> poe.Expert:
        inner, exponent = (
            experts.Gaussian([rate], scale=[1.0]),
            torch.nn.Parameter(torch.tensor(power)),
        )
        mixture = poe.Mixture([inner, inner], [0.3, 0.7])
        return mixture**exponent * experts.Gaussian([1.0], scale=[2.0]) ** exponent

    one, other = shared(0.5, 0.4), shared(2.0, 0.9)
    product, x = poe.Product(one, other), torch.linspace(-2, 2, 5)[:, None]
    expected = product(x)
    together = poe.Together(product)
    torch.testing.assert_close(together(x), expected)
    torch.testing.assert_close(product(x), expected)  # the user's own experts are as they were
    copies = [copied for group in together.groups for copied in group.experts]
    torch.testing.assert_close(sum(copied(x) for copied in copies), expected)
