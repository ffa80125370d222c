"""RBMs of real numbers and of labels against sums over their hidden units, and block Gibbs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import poe
from experts import RBM, GaussianRBM, PottsRBM
from experts.boltzmann import LayerGibbs
from poe.normalizers.enumeration import states
from poe.testing import LawError
from tests.laws.kernels import check_kernel

CHAINS = 40_000


def randn(*shape: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def gaussian(visible: int = 2, hidden: int = 3) -> GaussianRBM:
    scale = torch.linspace(0.5, 1.5, visible, dtype=torch.float64)
    parts = randn(visible, hidden, seed=0), randn(visible, seed=1), randn(hidden, seed=2)
    return GaussianRBM(*parts, scale=scale)


def potts(visible: int = 3, labels: int = 4, hidden: int = 2) -> PottsRBM:
    parts = (visible, labels, hidden), (visible, labels), (hidden,)
    return PottsRBM(*(randn(*shape, seed=k) for k, shape in enumerate(parts)))


def bits(size: int) -> Tensor:
    return states(poe.Binary(size)).double()


def close(found: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def test_gaussian_log_density_by_its_definition() -> None:
    rbm, x, z = gaussian(), randn(5, 2, seed=3), bits(3)
    square = -0.5 * ((x - rbm.b) / rbm.scale).square().sum(-1)
    joint = square[:, None] + (x / rbm.scale**2) @ rbm.W @ z.T + z @ rbm.c
    close(rbm(x), joint.logsumexp(1))
    close(rbm.hidden_probabilities(x), joint.softmax(1) @ z)


def test_gaussian_log_z_is_that_of_the_mixture() -> None:
    rbm, z = gaussian(), bits(3)
    found = poe.log_partition(rbm)
    assert found.method == "closed form"
    by_quadrature = poe.log_partition(rbm, method=poe.normalizers.Quadrature())
    close(found.value, by_quadrature.value, atol=1e-6)
    mixture = torch.distributions.Normal(rbm.visible_mean(z), rbm.scale)
    share = rbm.hidden_density()(z) - found.value
    x = randn(5, 2, seed=3)
    close(
        rbm(x) - found.value,
        (share + mixture.log_prob(x[:, None]).sum(-1)).logsumexp(1),
    )


def test_gaussian_draws_have_the_mixtures_moments() -> None:
    rbm, z = gaussian(), bits(3)
    x = rbm.sample(CHAINS, generator=torch.Generator().manual_seed(0))
    share = rbm.hidden_density()(z).softmax(0)
    mean = share @ rbm.visible_mean(z)
    assert ((x.mean(0) - mean).abs() < 4 * x.std(0) / math.sqrt(CHAINS)).all()
    second = share @ (rbm.visible_mean(z).square() + rbm.scale.square())
    error = x.square().std(0) / math.sqrt(CHAINS)
    assert ((x.square().mean(0) - second).abs() < 4 * error).all()


def test_potts_log_density_and_log_z_against_the_joint() -> None:
    rbm = potts()
    x, z = states(rbm.space), bits(2)
    rows = torch.arange(3)
    joint = torch.stack([rbm.W[rows, one].sum(0) for one in x]) @ z.T + z @ rbm.c
    joint = joint + torch.stack([rbm.b[rows, one].sum() for one in x])[:, None]
    close(rbm(x), joint.logsumexp(1))
    close(rbm.hidden_probabilities(x), joint.softmax(1) @ z)
    close(rbm.hidden_density()(z), joint.logsumexp(0))
    found = poe.log_partition(rbm)
    assert found.method == "closed form"
    close(found.value, joint.flatten().logsumexp(0))
    share_given_z = joint.softmax(0)
    first_label = torch.nn.functional.one_hot(x[:, 0], 4).double()
    close(rbm.visible_logits(z).softmax(-1)[:, 0], share_given_z.T @ first_label)


def test_two_labels_are_a_binary_rbm() -> None:
    binary = RBM(randn(3, 2, seed=0), randn(3, seed=1), randn(2, seed=2))
    W = torch.stack([torch.zeros_like(binary.W), binary.W], 1)
    b = torch.stack([torch.zeros_like(binary.b), binary.b], 1)
    x = bits(3)
    close(PottsRBM(W, b, binary.c)(x.long()), binary(x))


def test_potts_takes_one_hot_rows_for_gradients_and_no_other_label() -> None:
    rbm, x = potts(), torch.tensor([[0, 3, 1]])
    one_hot = nn.functional.one_hot(x, 4).double().requires_grad_()
    close(rbm.log_density_of_one_hot(one_hot), rbm(x))
    (gradient,) = torch.autograd.grad(rbm.log_density_of_one_hot(one_hot).sum(), one_hot)
    p = rbm.hidden_probabilities(x)[0]
    close(gradient[0], rbm.b + rbm.W @ p)
    assert rbm(torch.tensor([[0, 4, 1], [0, -1, 1]])).tolist() == [-math.inf, -math.inf]


TARGETS = {
    "real": gaussian(),
    "labels": potts(),
    "bits": RBM(randn(3, 2, seed=0), randn(3, seed=1), randn(2, seed=2)),
}


@pytest.mark.law
@pytest.mark.parametrize("rbm", TARGETS.values(), ids=TARGETS.keys())
def test_layer_gibbs_leaves_its_rbm_invariant(rbm: poe.Expert) -> None:
    g = torch.Generator().manual_seed(1)
    exact = rbm.sample(CHAINS, generator=g)
    check_kernel(LayerGibbs(rbm), rbm, exact, num_steps=4, generator=g)
    state, _ = LayerGibbs(rbm).step(rbm, LayerGibbs(rbm).init(rbm, exact[:9]), generator=g)
    close(state.log_density, rbm(state.position))


@pytest.mark.law
def test_layer_gibbs_of_another_rbm_is_caught() -> None:
    rbm, g = gaussian(), torch.Generator().manual_seed(1)
    other = GaussianRBM(rbm.W, rbm.b, rbm.c + 0.5, scale=rbm.scale)
    exact = rbm.sample(4 * CHAINS, generator=g)
    with pytest.raises(LawError, match="does not leave its target invariant"):
        check_kernel(LayerGibbs(other), rbm, exact, num_steps=4, generator=g)


@pytest.mark.parametrize("rbm", [gaussian(), potts()], ids=["real", "labels"])
def test_save_and_load(rbm: poe.Expert, tmp_path: Path) -> None:
    poe.save(rbm, tmp_path / "rbm")
    x = rbm.sample(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(poe.load(tmp_path / "rbm")(x), rbm(x))


def test_beyond_25_hidden_units_there_is_no_closed_form_nor_exact_draws() -> None:
    for rbm in (
        GaussianRBM(torch.zeros(2, 26), torch.zeros(2), torch.zeros(26)),
        PottsRBM(torch.zeros(2, 3, 26), torch.zeros(2, 3), torch.zeros(26)),
    ):
        assert poe.density.capabilities.exact_log_partition(rbm) is None
        assert not hasattr(rbm, "sample")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: GaussianRBM([1.0], [0.0], [0.0]), r"W of shape \(visible, hidden\)"),
        (lambda: GaussianRBM([[1.0]], [0.0, 1.0], [0.0]), r"b of shape \(1,\).*got \(2,\)"),
        (lambda: GaussianRBM([[1.0]], [0.0], [0.0], scale=0.0), "scale must be positive, got 0"),
        (lambda: PottsRBM([[1.0]], [0.0], [0.0]), r"\(visible, labels, hidden\), got \(1, 1\)"),
        (lambda: PottsRBM([[[1.0]]], [[0.0]], [0.0, 0.0]), r"c of shape \(1,\).*got \(2,\)"),
    ],
)
def test_what_does_not_fit_is_refused(build, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(poe.PoeError, match=words):
        build()
