"""Linear chains: all sums against enumeration and factor graphs, products, and many at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import experts
import poe
from experts import LinearChain
from experts.graphs import Chains, stack_chains
from experts.graphs.linear_chain import as_factor_graph
from poe.normalizers.enumeration import log_sum, states
from poe.structure.twists import twists
from tests.seeds import seeded

NUM_DRAWS = 40_000


def randn(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def holed(*shape: int, seed: int = 0) -> Tensor:
    """A third of the entries −inf."""
    values = randn(*shape, seed=seed)
    return values.masked_fill(randn(*shape, seed=seed + 99) > 0.45, -torch.inf)


CHAINS: dict[str, LinearChain] = {
    "one table for all": LinearChain(randn(4, 3), randn(3, 3, seed=1)),
    "a table for each step": LinearChain(randn(5, 2), randn(4, 2, 2, seed=1)),
    "hard": LinearChain(holed(4, 3, seed=3), holed(3, 3, 3, seed=4)),
    "tokens": LinearChain(randn(3, 4), 3 * randn(4, 4, seed=1), poe.Sequence(4, 3)),
    "one tag": LinearChain(randn(1, 4), randn(4, 4)),
    "one value": LinearChain(randn(3, 1), randn(1, 1)),
}
each_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())


def by_hand(chain: LinearChain) -> Tensor:
    """log p̃ of all states."""
    x = states(chain.space)
    total = chain.unary[0][x[:, 0]]
    for t in range(1, x.shape[1]):
        pairs = chain.pairs if chain.pairs.ndim == 2 else chain.pairs[t - 1]
        total = total + chain.unary[t][x[:, t]] + pairs[x[:, t - 1], x[:, t]]
    return total


@each_chain
def test_log_density_and_log_z_by_definition(chain: LinearChain) -> None:
    expected = by_hand(chain)
    torch.testing.assert_close(chain(states(chain.space)), expected)
    found = poe.log_partition(chain)
    assert found.method == "closed form"
    torch.testing.assert_close(found.value, expected.logsumexp(0))
    outside = torch.full((1, len(chain.unary)), chain.unary.shape[1])
    assert chain(outside).tolist() == [-torch.inf]


@each_chain
def test_draws_have_the_frequencies_of_the_table(chain: LinearChain) -> None:
    truth = by_hand(chain).softmax(0)
    drawn = poe.sample(chain, NUM_DRAWS, generator=torch.Generator().manual_seed(0))
    assert drawn.guarantee == "exact"
    length, k = chain.unary.shape
    x = drawn.samples.reshape(-1, length)
    place = (x * k ** torch.arange(length - 1, -1, -1)).sum(1)
    found = torch.bincount(place, minlength=k**length).double() / len(x)
    std_error = (truth * (1 - truth) / len(x)).sqrt()
    # Of some hundred states the largest |z| of honest draws is above 4.8 once in some thousands.
    assert ((found - truth).abs() <= 4.8 * std_error + 1e-12).all()


@each_chain
def test_marginals_and_the_most_probable_against_the_table(chain: LinearChain) -> None:
    x, p = states(chain.space), by_hand(chain).softmax(0)
    k = chain.unary.shape[1]
    z = nn.functional.one_hot(x, k).double()
    tags, pairs = chain.marginals()
    torch.testing.assert_close(tags, torch.einsum("s,sta->ta", p, z))
    torch.testing.assert_close(pairs, torch.einsum("s,sta,stb->tab", p, z[:, :-1], z[:, 1:]))
    torch.testing.assert_close(chain.most_probable(), x[by_hand(chain).argmax()])


@each_chain
def test_the_factor_graph_of_its_tables_is_the_same(chain: LinearChain) -> None:
    graph = as_factor_graph(chain)
    x = states(chain.space)
    torch.testing.assert_close(graph(x), chain(x))
    torch.testing.assert_close(poe.log_partition(graph).value, poe.log_partition(chain).value)
    assert len(twists(chain)) == 1


def test_a_product_with_single_tags_is_a_chain_and_stays_exact() -> None:
    chain, hard = CHAINS["one table for all"], CHAINS["hard"]
    tagger = experts.Categorical(randn(4, 3, seed=7))
    product = chain**0.7 * hard**2 * tagger / experts.Categorical(randn(4, 3, seed=8))
    simple, log_constant = poe.simplify(product)
    assert isinstance(simple, LinearChain)
    x = states(chain.space)
    torch.testing.assert_close(simple(x) + log_constant, product(x))
    torch.testing.assert_close(poe.log_partition(product).value, log_sum(product))
    both = chain * chain**2
    assert poe.simplify(both).expert.pairs.shape == (3, 3)  # one table stays one
    assert (poe.simplify(hard**0.0).expert(x) == 0).all()
    assert isinstance(poe.simplify(chain / hard).expert, poe.Product)  # 0 / 0 is 0: no table


def test_beside_other_families_classes_and_chains_become_theirs() -> None:
    chain, tagger = CHAINS["one table for all"], experts.Categorical(randn(4, 3, seed=7))
    skip = experts.FactorGraph(chain.space, [((0, 3), randn(3, 3, seed=5))])
    for product in (chain * skip, chain * skip * tagger, skip * tagger):
        assert isinstance(poe.simplify(product).expert, experts.FactorGraph)
        torch.testing.assert_close(poe.log_partition(product).value, log_sum(product))
    potts = experts.Potts([[0], [1]], 0.5, randn(4, 3), 4, 3)
    assert isinstance(poe.simplify(potts * tagger).expert, experts.Potts)


@seeded()
def test_learned_exponents_keep_their_gradients() -> None:
    w = nn.Parameter(torch.tensor([0.5, 1.5], dtype=torch.float64))
    tagger = experts.Categorical(randn(4, 3, seed=7))

    def log_z(w: Tensor) -> Tensor:
        product = CHAINS["hard"] ** w[0] * tagger ** w[1]
        value = poe.density.capabilities.exact_log_partition(product)
        assert value is not None
        return value

    assert torch.autograd.gradcheck(log_z, w)
    assert torch.autograd.gradgradcheck(log_z, w)


def test_gradients_in_one_hot_tags_are_the_differences() -> None:
    for chain in (CHAINS["tokens"], CHAINS["one tag"]):
        x = states(chain.space)
        k = chain.unary.shape[1]
        z = nn.functional.one_hot(x, k).double().requires_grad_()
        value = chain.log_density_of_one_hot(z)
        torch.testing.assert_close(value, chain(x))
        (gradient,) = torch.autograd.grad(value.sum(), z)
        for place in range(x.shape[1]):
            for v in range(k):
                moved = x.clone()
                moved[:, place] = v
                own = gradient[torch.arange(len(x)), place, x[:, place]]
                torch.testing.assert_close(gradient[:, place, v] - own, chain(moved) - chain(x))


def test_scores_can_be_parameters_with_finite_gradients_past_what_is_forbidden() -> None:
    never = torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]], dtype=torch.float64)
    unary = nn.Parameter(randn(3, 2))
    chain = LinearChain(unary, never)
    log_z = poe.density.capabilities.exact_log_partition(chain)
    assert log_z is not None
    torch.testing.assert_close(log_z, unary[:, 0].sum())  # 000 is all that is left
    log_z.backward()
    assert unary.grad is not None
    assert unary.grad.tolist() == [[1, 0], [1, 0], [1, 0]]
    assert list(dict(chain.named_parameters())) == ["unary"]


def test_many_chains_at_once_are_each_of_them_alone() -> None:
    single = [CHAINS["one table for all"], CHAINS["hard"], LinearChain(randn(1, 3), randn(3, 3))]
    chains = stack_chains(single)
    assert chains.lengths.tolist() == [4, 4, 1]
    noisy = torch.where(chains.is_tag[..., None], chains.unary, torch.nan)  # padding has no say
    chains = Chains(noisy, chains.pairs, chains.lengths)
    marginals, best = chains.marginals(), chains.most_probable()
    tags = chains.sample(NUM_DRAWS, generator=torch.Generator().manual_seed(0))
    assert (tags[:, 2, 1:] == 0).all()
    for i, chain in enumerate(single):
        length = len(chain.unary)
        own = chain.marginals()
        torch.testing.assert_close(chains.log_partition()[i], poe.log_partition(chain).value)
        torch.testing.assert_close(marginals.tags[i, :length], own.tags)
        torch.testing.assert_close(marginals.pairs[i, : length - 1], own.pairs)
        assert not marginals.tags[i, length:].any()
        assert best.tags[i, :length].tolist() == chain.most_probable().tolist()
        torch.testing.assert_close(best.log_density[i], chain(chain.most_probable()[None])[0])
        torch.testing.assert_close(chains.log_density(tags)[:9, i], chain(tags[:9, i, :length]))
        z = nn.functional.one_hot(tags[:, i, :length], 3).double()
        std_error = (own.tags * (1 - own.tags) / NUM_DRAWS).sqrt()
        assert ((z.mean(0) - own.tags).abs() <= 4 * std_error + 1e-12).all()


def test_log_prob_sums_to_one_and_can_be_learned_by() -> None:
    chains = Chains(randn(1, 3, 2).requires_grad_(), randn(2, 2, seed=1), torch.tensor([3]))
    x = states(poe.Sequence(2, 3))[:, None]
    log_prob = chains.log_prob(x)[:, 0]
    torch.testing.assert_close(log_prob.exp().sum(), torch.ones((), dtype=torch.float64))
    (gradient,) = torch.autograd.grad(log_prob[5], chains.unary)
    expected = nn.functional.one_hot(x[5], 2) - chains.marginals().tags
    torch.testing.assert_close(gradient, expected)


def test_a_long_chain_that_nobody_could_enumerate() -> None:
    """90 bits, no two neighbours 1: the number of such states is a Fibonacci number."""
    never_both = torch.tensor([[0.0, 0.0], [0.0, -torch.inf]], dtype=torch.float64)
    chain = LinearChain(torch.zeros(90, 2, dtype=torch.float64), never_both)
    a, b = 1, 2
    for _ in range(90):
        a, b = b, a + b
    torch.testing.assert_close(
        poe.log_partition(chain).value.exp(), torch.tensor(float(a)).double()
    )


def test_the_sums_compute_on_any_device() -> None:
    with torch.device("meta"):
        chains = Chains(torch.zeros(2, 3, 4), torch.zeros(4, 4), torch.ones(2, dtype=torch.long))
    assert chains.log_partition().device.type == "meta"
    assert chains.marginals().pairs.shape == (2, 2, 4, 4)
    assert chains.most_probable().tags.device.type == "meta"


def test_saved_and_loaded(tmp_path: Path) -> None:
    for name, chain in CHAINS.items():
        poe.save(chain, tmp_path / name)
        loaded = poe.load(tmp_path / name)
        assert torch.equal(loaded(states(chain.space)), chain(states(chain.space)))
        assert repr(loaded) == repr(chain)


FORBIDDEN = torch.full((2, 2), -torch.inf)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: LinearChain(torch.zeros(3), FORBIDDEN), r"unary \(length, k\)"),
        (lambda: LinearChain(torch.zeros(3, 2), torch.zeros(3, 2, 2)), r"or \(2, 2, 2\)"),
        (lambda: LinearChain(torch.zeros(3, 2), FORBIDDEN, poe.Sequence(3, 2)), "3 tags of 2"),
        (
            lambda: LinearChain([[0.0, torch.nan]], FORBIDDEN),
            "unary must be numbers or -inf, got nan",
        ),
        (lambda: LinearChain(torch.zeros(2, 2), FORBIDDEN).most_probable(), "at least one seq"),
        (lambda: LinearChain(torch.zeros(2, 2), FORBIDDEN).sample(1), "look for -inf"),
        (lambda: Chains(torch.zeros(3, 2), FORBIDDEN, torch.ones(3)), r"\(n, length, k\)"),
        (lambda: Chains(torch.zeros(2, 3, 2), FORBIDDEN, torch.ones(3)), r"lengths \(2,\)"),
        (lambda: Chains(torch.zeros(1, 3, 2), FORBIDDEN, torch.tensor([4])), "from 1 to 3"),
        (
            lambda: Chains(torch.zeros(1, 3, 2), FORBIDDEN, torch.tensor([3])).log_density(
                torch.zeros(3, dtype=torch.long)
            ),
            r"tags \(\*batch, 1, 3\)",
        ),
        (lambda: stack_chains([]), "one number of tags"),
    ],
)
def test_bad_chains_are_refused_in_words(build: Callable[[], object], words: str) -> None:
    with pytest.raises(poe.PoeError, match=words):
        build()
