"""Training of deep Boltzmann machines: gradients, likelihoods, and going on from a checkpoint."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

import poe
from experts import DBM, RBM, VisibleDBM
from experts.boltzmann import mean_field
from experts.boltzmann.training import fit_dbm, grow_dbm, pretrain_dbm
from experts.boltzmann.training.dbm_gradient import (
    Moments,
    centred_gradient,
    moments,
    with_odd_means,
)
from experts.boltzmann.training.layerwise import Pair, contrastive_divergence
from poe.normalizers.enumeration import states

PATTERNS = torch.tensor(
    [[1.0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1]]
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def digits_of_six(count: int, seed: int = 0) -> Tensor:
    """Four patterns, each bit flipped with probability 1/20."""
    g = seeded(seed)
    x = PATTERNS[torch.randint(4, (count,), generator=g)]
    return (x - torch.bernoulli(torch.full_like(x, 0.05), generator=g)).abs()


def dbm(*sizes: int, scale: float = 1.0) -> DBM:
    g = seeded(3)
    weights = [scale * torch.randn(pair, generator=g).double() for pair in pairwise(sizes)]
    return DBM(weights, [torch.randn(size, generator=g).double() for size in sizes])


def log_likelihood(expert: DBM, x: Tensor) -> float:
    """Exact mean log p(x), from the table of all x."""
    table = states(expert.visible_space)
    log_density = poe.log_density_bounds(VisibleDBM(expert), table).lower
    place = (x.long() * 2 ** torch.arange(x.shape[1] - 1, -1, -1)).sum(1)
    return (log_density[place].mean() - poe.log_partition(expert).value).item()


@pytest.mark.parametrize("sizes", [(3, 2, 2), (3, 2, 2, 2), (3, 2)])
def test_the_gradient_is_that_of_the_bound(sizes: tuple[int, ...]) -> None:
    """Of L(x) − log Z by autograd, where the means of mean field are held fixed: they are at the
    maximum of the bound, so their own change adds nothing."""
    expert = dbm(*sizes)
    for value in (*expert.weights, *expert.biases):
        value.requires_grad_(True)
    x = states(expert.visible_space).double()[1:4]
    bound = VisibleDBM(expert, 500)(x).mean()
    even = states(expert.space).double()
    log_density = expert(even)
    found = torch.autograd.grad(bound - log_density.logsumexp(0), [*expert.weights, *expert.biases])
    with torch.no_grad():
        weight = log_density.softmax(0)[:, None]
        layers = with_odd_means(expert, even)
        lowered = [layer * weight * len(even) for layer in layers]
        model = Moments(
            moments(lowered).means,
            [moments([a, b]).products[0] for a, b in zip(lowered, layers[1:], strict=False)],
        )
        data = moments(mean_field(expert, x, 500))
        plain = centred_gradient(data, model, [torch.zeros(n).double() for n in sizes])
    for ours, theirs in zip(plain, found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


def test_the_centred_gradient_is_the_plain_one_in_other_parameters() -> None:
    """θ = T φ, φ the parameters of centred units: a step of φ along its gradient moves θ by
    T T' of the plain gradient."""
    sizes, g = (4, 3, 2), seeded()
    layers = [[torch.rand(50, n, generator=g).double() for n in sizes] for _ in range(2)]
    data, model = moments(layers[0]), moments(layers[1])
    centres = [torch.rand(n, generator=g).double() for n in sizes]
    plain = centred_gradient(data, model, [torch.zeros_like(c) for c in centres])
    shapes = [part.shape for part in plain]

    def of_centred(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        *values, b0, b1, b2 = (p.reshape(s) for p, s in zip(parts, shapes, strict=True))
        W0, W1 = values
        o0, o1, o2 = centres
        biases = b0 - W0 @ o1, b1 - o0 @ W0 - W1 @ o2, b2 - o1 @ W1
        return torch.cat([p.flatten() for p in (W0, W1, *biases)])

    flat = torch.cat([part.flatten() for part in plain])
    T = torch.func.jacrev(of_centred)(torch.zeros_like(flat))
    found = torch.cat([p.flatten() for p in centred_gradient(data, model, centres)])
    torch.testing.assert_close(found, T @ T.T @ flat)


@pytest.mark.law
@pytest.mark.parametrize("sizes", [(6, 4, 3), (6, 4, 3, 2)])
def test_training_nears_the_best_likelihood(sizes: tuple[int, ...]) -> None:
    data, test = digits_of_six(4000), digits_of_six(4000, seed=1)
    g = seeded()
    start = pretrain_dbm(data, sizes, num_epochs=2, generator=g, progress=False)
    before = [value.clone() for value in start.weights]
    fitted = fit_dbm(
        start,
        data,
        num_epochs=40,
        batch_size=50,
        learning_rate=0.05,
        generator=g,
        progress=False,
    )
    assert all(map(torch.equal, before, start.weights))
    rates = data.mean(0).clamp(1e-3, 1 - 1e-3)
    base = (test * rates.log() + (1 - test) * (1 - rates).log()).sum(1).mean().item()
    flips = (test[:, None] - PATTERNS).abs().sum(-1)
    truth = (0.05**flips * 0.95 ** (6 - flips) / 4).sum(1).log().mean().item()
    after = log_likelihood(fitted, test)
    assert truth - after < 0.05  # of 1.6 nats between base rates and the truth
    assert base < after < truth + 0.02


def test_what_batches_are_changed_to_is_what_is_learned() -> None:
    """Rows of which some bits are turned to 1, in one half of the pictures: the means say so."""
    data = torch.zeros(1000, 6, dtype=torch.uint8)
    rates = torch.tensor([0.9, 0.9, 0.5, 0.5, 0.1, 0.1]).double()

    def augment(batch: Tensor, generator: torch.Generator) -> Tensor:
        assert batch.dtype == torch.float64
        return batch + torch.bernoulli(rates.expand_as(batch), generator=generator)

    start, settings = dbm(6, 3, 2, scale=0.1), {"num_epochs": 40, "learning_rate": 0.05}
    g = seeded()
    fitted = fit_dbm(start, data, augment=augment, generator=g, progress=False, **settings)
    table = states(fitted.visible_space)
    log_density = poe.log_density_bounds(VisibleDBM(fitted), table).lower
    means = log_density.softmax(0) @ table.double()
    count = 20_000  # draws that the mean of the parameters has seen
    z = (means - rates) / (rates * (1 - rates) / count).sqrt()
    assert (z.abs() < 4).all()


def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    data, path = digits_of_six(300), tmp_path / "run"

    class Stopped(Exception):
        pass

    def stop(epoch: int, expert: DBM) -> None:
        if epoch == 2:
            raise Stopped

    def train(checkpoint: Path | None, report=None) -> tuple[DBM, Tensor]:  # type: ignore[no-untyped-def]
        g = seeded()
        start = pretrain_dbm(data, (6, 4, 3), num_epochs=1, generator=g, progress=False)
        made = fit_dbm(
            start,
            data,
            num_epochs=4,
            generator=g,
            checkpoint=checkpoint,
            report=report,
            progress=False,
        )
        return made, g.get_state()

    whole, state = train(None)
    with pytest.raises(Stopped):
        train(path, stop)
    seen: list[int] = []
    resumed, resumed_state = train(path, lambda epoch, expert: seen.append(epoch))
    assert seen == [3, 4]
    assert torch.equal(state, resumed_state)
    for one, other in zip(
        (*whole.weights, *whole.biases), (*resumed.weights, *resumed.biases), strict=True
    ):
        assert torch.equal(one, other)
    with pytest.raises(poe.StorageError, match="of another run, which differs in dbm"):
        fit_dbm(whole, data, num_epochs=4, generator=seeded(), checkpoint=path, progress=False)


def test_pretraining_doubles_what_a_layer_will_hear_twice() -> None:
    pair = Pair(torch.tensor([[0.5]]), torch.tensor([-1.0]), torch.tensor([0.25]), 2.0, 1.0)
    one = torch.ones(1, 1)
    torch.testing.assert_close(pair.above(one), torch.tensor([[1.25]]).sigmoid())
    torch.testing.assert_close(pair.below(one), torch.tensor([[-0.5]]).sigmoid())


@pytest.mark.parametrize(("up", "down"), [(1.0, 1.0), (2.0, 1.0), (1.0, 2.0)])
def test_contrastive_divergence_is_its_expectation(up: float, down: float) -> None:
    """Its mean over many rows against the sum over all bits of the sweep, in standard errors."""
    g, count = seeded(5), 200_000
    W = torch.randn(2, 2, generator=g).double()
    pair = Pair(W, torch.tensor([0.3, -0.2]).double(), torch.tensor([-0.4, 0.5]).double(), up, down)
    x, bits = torch.tensor([[1.0, 0.0]]).double(), states(poe.Binary(2)).double()
    z = pair.above(x)
    of_z = torch.where(bits == 1, z, 1 - z).prod(1)  # p(z | x) of the four z
    back = pair.below(bits)
    of_x = torch.where(bits[None] == 1, back[:, None], 1 - back[:, None]).prod(-1)
    final = of_z @ of_x  # p(x' | x)
    again = pair.above(bits)
    expected = (
        x.T @ z - (final[:, None] * bits).T @ again,
        (x - final @ bits)[0],
        (z - final @ again)[0],
    )
    found = contrastive_divergence(pair, x.expand(count, 2), g)
    for ours, theirs in zip(found, expected, strict=True):
        assert ((ours - theirs).abs() < 4 * 0.5 / count**0.5).all()  # bits have an sd of at most ½


@pytest.mark.parametrize(
    ("data", "settings", "words"),
    [
        (torch.full((9, 6), 0.5), {}, r"bits, 0 or 1, got 0.5 among the data: binarise"),
        (torch.zeros(9, 5), {}, r"data of shape \(n, 6\), got \(9, 5\)"),
        (torch.zeros(0, 6), {}, r"data of shape \(n, 6\), got \(0, 6\)"),
        (torch.zeros(9, 6), {"num_epochs": 0}, "num_epochs of at least 1, got 0"),
        (torch.zeros(9, 6), {"num_chains": 0}, "num_chains of at least 1, got 0"),
        (torch.zeros(9, 6), {"num_mean_field_steps": 0}, "num_mean_field_steps of at least 1"),
        (torch.zeros(9, 6), {"momentum": 1.5}, r"momentum from 0 to 1, got 1.5"),
    ],
)
def test_what_makes_no_sense_is_refused(data: Tensor, settings: dict, words: str) -> None:
    with pytest.raises(poe.PoeError, match=words):
        fit_dbm(dbm(6, 3, 2), data, progress=False, **settings)


@pytest.mark.parametrize(
    ("data", "sizes", "words"),
    [
        (torch.zeros(9, 6), (6,), "sizes of at least two layers"),
        (torch.zeros(9, 6), (5, 2), r"got \(5, 2\) for data \(9, 6\)"),
        (torch.full((9, 6), 2.0), (6, 2), r"data in \[0, 1\], got 2 to 2"),
    ],
)
def test_pretraining_refuses_too(data: Tensor, sizes: tuple[int, ...], words: str) -> None:
    with pytest.raises(poe.PoeError, match=words):
        pretrain_dbm(data, sizes, progress=False)


@pytest.mark.parametrize("below", [dbm(6, 4).as_rbm(), dbm(6, 4, 3)], ids=["RBM", "DBM"])
def test_a_new_layer_takes_from_the_bias_below_what_it_says_of_each_unit_alone(
    below: RBM | DBM,
) -> None:
    """W/2 + W²/8 of each weight; whatever else there was, and the new biases, are as they were."""
    grown = grow_dbm(below, 5, generator=seeded())
    before = below if isinstance(below, DBM) else DBM([below.W], [below.b, below.c])
    new = grown.weights[-1]
    added = (new / 2 + new.square() / 8).sum(1)
    torch.testing.assert_close(grown.biases[-2], before.biases[-1] - added, rtol=0, atol=1e-14)
    assert (new.square() / 8).sum(1).min() > 1e-10  # far more than the tolerance
    kept = [*grown.weights[:-1], *grown.biases[:-2]]
    assert all(map(torch.equal, kept, [*before.weights, *before.biases[:-1]]))
    assert not grown.biases[-1].any()
    assert grown.layer_sizes == [*before.layer_sizes, 5]
    with pytest.raises(poe.PoeError, match="at least one new unit"):
        grow_dbm(below, 0)


@pytest.mark.parametrize("below", [dbm(6, 4).as_rbm(), dbm(6, 4, 3)], ids=["RBM", "DBM"])
def test_a_new_layer_hardly_changes_the_density(below: RBM | DBM) -> None:
    """Its five units add log 2 each, and of their weights what no bias can take back.

    log(1 + exp(a)) = log 2 + a/2 + a²/8 + O(a⁴) with a = W'h, of which the bias takes the part of
    each unit of h alone. Left are the products hᵢhₖWᵢⱼWₖⱼ/4 of two units: in sum over the new units
    between the least and the largest sum of any subset of them.
    """
    grown = grow_dbm(below, 5, generator=seeded())
    x = states(poe.Binary(6)).double()
    before = below if isinstance(below, DBM) else DBM([below.W], [below.b, below.c])
    old, new = (poe.log_density_bounds(VisibleDBM(e), x).lower for e in (before, grown))
    W, h = grown.weights[-1], states(poe.Binary(before.layer_sizes[-1])).double()
    pairs = ((h @ W).square() - h @ W.square()).sum(1) / 8
    quartic = W.abs().sum(0).pow(4).sum().item() / 192
    added = new - old - 5 * torch.tensor(2.0).log()
    assert added.min() > pairs.min() - quartic - 1e-8
    assert added.max() < pairs.max() + quartic + 1e-8
    assert pairs.max() - pairs.min() < 1e-3
