"""Closed forms, exact samplers and structure belong to the class that has them, by its own forward.

Every expert is made another density, by a subclass, a hook or a method of the instance. Then it is
a plain density: nothing that is known of its class is said of it.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import experts
import poe
from experts.families.linear_gaussian import LinearGaussian
from poe.density.capabilities import (
    check_proper,
    conditional_tails,
    conditionals,
    exact_log_partition,
    label_pairs,
    log_density_of_one_hot,
    log_prob_of,
    sampler_of,
    simplify,
    spin_pairs,
    tails,
)
from poe.density.questions import interchangeable, speaks_as
from poe.structure.gaussian_factors import gaussian_factors
from poe.structure.twists import twists
from tests.laws.test_expert_laws import EXPERTS
from tests.seeds import seeded

KNOWN_OF_A_CLASS = (
    conditionals,
    exact_log_partition,
    gaussian_factors,
    label_pairs,
    log_density_of_one_hot,
    log_prob_of,
    sampler_of,
    spin_pairs,
    tails,
    twists,
)


def by_subclass(expert: poe.Expert) -> None:
    kind = type(expert)

    def forward(self: Any, x: Tensor) -> Tensor:
        return 4.0 * kind.forward(self, x)  # type: ignore[no-any-return]

    expert.__class__ = type(f"Sharp{kind.__name__}", (kind,), {"forward": forward})


def by_hook(expert: poe.Expert) -> None:
    expert.register_forward_hook(lambda module, inputs, output: 4.0 * output)


def by_pre_hook(expert: poe.Expert) -> None:
    expert.register_forward_pre_hook(lambda module, inputs: (inputs[0].flip(0),))


def by_instance(expert: poe.Expert) -> None:
    own = expert.forward
    expert.forward = lambda x: 4.0 * own(x)


@pytest.mark.parametrize("change", [by_subclass, by_hook, by_pre_hook, by_instance])
@pytest.mark.parametrize("name", EXPERTS)
def test_a_changed_expert_is_a_plain_density(
    name: str, change: Callable[[poe.Expert], None]
) -> None:
    with seeded():
        plain, _ = EXPERTS[name]()
    expert = copy.deepcopy(plain)
    change(expert)
    for ask in KNOWN_OF_A_CLASS:
        assert not ask(expert), ask.__name__
    assert simplify(expert).expert is expert
    assert [factor for _, factor in expert._factors()] == [expert]
    assert check_proper(expert) is None  # type: ignore[func-returns-value]
    for method in ("log_prob", "sample", "log_density_of_one_hot"):
        with pytest.raises((AttributeError, poe.PoeError)):
            getattr(expert, method)(3)
    with pytest.raises(poe.StorageError, match="cannot save"):
        poe.save(expert, "nowhere")


def normal() -> experts.Gaussian:
    return experts.Gaussian([0.0], scale=[1.0])


class Sharp(experts.Gaussian):
    def forward(self, x: Tensor) -> Tensor:
        return 4.0 * super().forward(x)


class SharpWithin(experts.Gaussian):
    """What ``forward`` goes through is another."""

    def _whiten(self, centered: Tensor) -> Tensor:
        return 2 * super()._whiten(centered)


class SharpCall(experts.Gaussian):
    def __call__(self, x: Tensor) -> Tensor:
        return 4.0 * super().__call__(x)


class SharpChunked(poe.Chunked):
    def forward(self, x: Tensor) -> Tensor:
        return 4.0 * super().forward(x)


class ChangedLater(experts.Gaussian):
    pass


class Tilted(experts.Gamma):
    """Another base measure than its parent's, which its parent's density goes through."""

    @property
    def has_base_measure(self) -> bool:
        return True

    def log_base_measure(self, x: Tensor) -> Tensor:
        return -x.square().sum(-1)


def hooked(expert: poe.Expert, factor: float = 4.0) -> poe.Expert:
    expert.register_forward_hook(lambda module, inputs, output: factor * output)
    return expert


def sharp_ones() -> Iterator[tuple[str, poe.Expert]]:
    """Densities of a standard normal to the fourth power, each behind a closed form of another."""
    yield "subclass", Sharp([0.0], scale=[1.0])
    yield "within", SharpWithin([0.0], scale=[1.0])
    yield "call", SharpCall([0.0], scale=[1.0])
    yield "hook", hooked(normal())
    yield "wrapper", SharpChunked(normal(), 100)
    yield "hooked wrapper", hooked(poe.Chunked(normal(), 100))
    yield "hooked product", hooked(normal() * normal(), 2.0)
    yield "hooked power", hooked(normal() ** 2, 2.0)
    yield "hooked mixture", hooked(normal() | normal())
    yield "a hooked factor beside its like", hooked(normal(), 3.0) * normal()
    yield "a hooked factor behind its like", normal() * hooked(normal(), 3.0)
    yield "a power of a hooked product", hooked(normal() * normal()) ** 0.5
    yield "in a wrapper", poe.Chunked(Sharp([0.0], scale=[1.0]), 100)
    yield "moved", poe.Transformed(Sharp([0.0], scale=[1.0]), torch.distributions.ExpTransform())


@pytest.mark.parametrize("expert", [pytest.param(expert, id=name) for name, expert in sharp_ones()])
def test_draws_and_log_partition_are_those_of_the_log_density(expert: poe.Expert) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = poe.sample(expert, 2000, num_chains=8, warmup=300, generator=generator, progress=False)
    x = draws.samples if isinstance(expert.space, poe.Real) else draws.samples.log()
    assert abs(x.std() - 0.5) < 4.5 * poe.diagnostics.mcse_sd(x).item()
    assert draws.guarantee == "asymptotically exact"
    found = poe.log_partition(expert, progress=False)
    assert found.method != "closed form"
    grid = torch.linspace(-8, 8, 4001)[:, None]
    at = grid if isinstance(expert.space, poe.Real) else grid.exp()
    jacobian = torch.zeros(len(grid)) if isinstance(expert.space, poe.Real) else grid[:, 0]
    total = (expert(at).double() + jacobian).logsumexp(0) + torch.tensor(16 / 4000).log()
    assert abs(found.value - total) < 1e-3


def test_a_method_that_is_replaced_later_is_seen() -> None:
    expert = ChangedLater([0.0], scale=[1.0])
    assert log_prob_of(expert) is not None
    ChangedLater.forward = lambda self, x: 4 * experts.Gaussian.forward(self, x)  # type: ignore[method-assign]
    assert log_prob_of(expert) is None


def test_a_hook_that_is_taken_off_is_forgotten() -> None:
    expert = normal()
    handle = expert.register_forward_hook(lambda module, inputs, output: print("seen"))
    with pytest.raises(poe.NormalizationError, match=r"handle\.remove"):
        expert.log_prob(torch.zeros(1, 1))
    handle.remove()
    assert poe.log_partition(expert).method == "closed form"


def test_hooks_on_every_module_count_save_those_of_torch_itself() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output)
    try:
        assert log_prob_of(normal()) is None
    finally:
        handle.remove()
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False):
        assert poe.log_partition(normal()).method == "closed form"


def test_a_family_is_extended_by_what_it_leaves_open_alone() -> None:
    assert log_prob_of(Tilted([2.0], [1.0])) is None
    assert simplify(Tilted([2.0], [1.0]) ** 2).expert.expert.__class__ is Tilted
    assert log_prob_of(experts.Poisson([2.0])) is not None  # has a base measure of its own
    with seeded():
        made = experts.MADE(3)
    assert log_prob_of(made) is not None  # has a forward of its own


class Rewritten(experts.Gaussian):
    @interchangeable
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class OwnAnswer(experts.Gaussian):
    """Another density, and what is known of it."""

    def forward(self, x: Tensor) -> Tensor:
        return 4.0 * super().forward(x)

    def log_prob(self, x: Tensor) -> Tensor:
        return -2 * x.square().sum(-1) - 0.2257913526

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        return super().sample(num_samples, generator=generator) / 2


def test_a_class_may_say_that_it_says_the_same_or_answer_for_itself() -> None:
    assert simplify(Rewritten([0.0], scale=[1.0]) ** 2).expert.__class__ is experts.Gaussian
    own = OwnAnswer([0.0], scale=[1.0])
    assert own.log_prob(torch.zeros(1, 1)).isfinite()
    assert own.sample(4000, generator=torch.Generator().manual_seed(0)).std() < 0.6
    assert not hasattr(own, "rsample")
    assert tails(own) is None


class LeftOpen(poe.Expert):
    """What its subclasses are to define, by an abstract method or by NotImplementedError."""

    space = poe.Real(1)

    @abc.abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...

    def log_prob(self, x: Tensor) -> Tensor:
        return self(x) - self.log_z()

    def log_z(self) -> float:
        raise NotImplementedError


class FilledIn(LeftOpen):
    def forward(self, x: Tensor) -> Tensor:
        return -0.5 * x.square().sum(-1)

    def log_z(self) -> float:
        return 0.9189385332


class Widened(FilledIn):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 4


def test_a_class_that_others_fill_in_lends_its_methods() -> None:
    assert abs(FilledIn().log_prob(torch.zeros(1, 1)) + 0.9189385) < 1e-6
    with pytest.raises(AttributeError, match=r"does not inherit log_prob from LeftOpen.*define"):
        Widened().log_prob(torch.zeros(1, 1))


class SharpStep(LinearGaussian):
    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        return 4.0 * super().log_density(x, condition)


def test_a_conditional_of_another_log_density_inherits_nothing() -> None:
    step = SharpStep([[2.0]], bias=[1.0], scale=[0.5])
    assert not step.is_normalized
    assert step.exact_marginal(normal()) is None
    assert conditional_tails(step) is None
    bound = step.given(torch.tensor([0.5]))
    assert log_prob_of(bound) is None
    assert sampler_of(bound) is None
    assert exact_log_partition(poe.Chain(normal(), step)) is None
    assert (
        LinearGaussian([[2.0]], bias=[1.0], scale=[0.5]).exact_marginal(Sharp([0.0], 1.0)) is None
    )


def test_a_conditional_with_a_method_of_its_own_is_not_known() -> None:
    step = LinearGaussian([[2.0]], bias=[1.0], scale=[0.5])
    step.log_density = lambda x, condition: -x.square().sum(-1)  # type: ignore[method-assign]
    for known in (log_prob_of, sampler_of, exact_log_partition):
        assert known(step.given(torch.tensor([0.5]))) is None
        assert known(poe.Chain(normal(), step)) is None
    assert conditional_tails(step) is None
    with pytest.raises(poe.NormalizationError):
        poe.Marginal(normal(), step, torch.zeros(4, 1))


class SharpMADE(experts.MADE):
    def forward(self, x: Tensor) -> Tensor:
        return 4.0 * super().forward(x)


def test_what_asks_for_a_class_takes_no_other_density_for_it() -> None:
    rbm = experts.RBM(torch.ones(3, 2), torch.zeros(3), torch.zeros(2))
    field = hooked(experts.Bernoulli([0.5, 0.0, 1.0]))
    assert isinstance(simplify(rbm * field).expert, poe.Product)
    with seeded():
        made = SharpMADE(3)
    with pytest.raises(poe.PoeError, match="Autoregressive"):
        poe.samplers.SuffixMetropolisHastings(made)
    with pytest.raises(poe.PoeError, match="Ising"):
        experts.spins.belief_propagation(hooked(experts.Ising([[0.0, 0.5], [0.5, 0.0]])))
    with pytest.raises(poe.PoeError, match="RBM"):
        experts.boltzmann.BaseRateAIS()(hooked(rbm), None, torch.Generator(), lambda t, a: None)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_parametrized_tensors_are_read_as_they_are() -> None:
    expert = experts.Gaussian(nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1)))
    parametrize.register_parametrization(expert, "loc", Doubled())
    parametrize.register_parametrization(expert, "scale", Doubled())
    same = experts.Gaussian([2.0], scale=[2.0])
    x = torch.linspace(-1, 1, 5)[:, None]
    torch.testing.assert_close(expert.log_prob(x), same.log_prob(x))
    product = expert * normal()
    assert isinstance(simplify(product).expert, poe.Product | experts.Gaussian)
    value, expected = (
        poe.log_partition(e * normal(), progress=False).value for e in (expert, same)
    )
    assert abs(value - expected) < 1e-4
    assert (
        abs(expert.sample(4000, generator=torch.Generator().manual_seed(0)).mean() - 2)
        < 4.5 * 2 / 4000**0.5
    )


def test_a_pruned_expert_is_the_density_that_it_evaluates_to() -> None:
    expert = experts.RBM(nn.Parameter(torch.ones(3, 2)), torch.zeros(3), torch.zeros(2))
    prune.l1_unstructured(expert, "W", amount=3)
    assert poe.log_partition(expert).method == "enumeration"
    kept = experts.RBM(expert.W.detach(), torch.zeros(3), torch.zeros(2))
    assert abs(poe.log_partition(expert).value - poe.log_partition(kept).value) < 1e-5
    prune.remove(expert, "W")
    assert speaks_as(expert, experts.RBM)
