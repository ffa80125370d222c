"""The transformer: scikit-learn's own checks, and BernoulliRBM beside it."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import BernoulliRBM
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import poe
from experts import RBM
from experts.boltzmann.training.rbm_features import RBMFeatures
from tests.seeds import seeded


def rows(n: int = 400, seed: int = 0) -> NDArray[np.float64]:
    """Two patterns of six bits, each bit turned with probability 0.1."""
    random = np.random.default_rng(seed)
    pattern = np.array([[1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 1]])
    return np.abs(pattern[random.integers(2, size=n)] - (random.random((n, 6)) < 0.1)).astype(float)


@parametrize_with_checks([RBMFeatures()])
@seeded()
def test_scikit_learns_own_checks(estimator: RBMFeatures, check: Any) -> None:
    check(estimator)


def fitted(**settings: Any) -> RBMFeatures:
    return RBMFeatures(3, n_iter=30, random_state=0, **settings).fit(rows())


@seeded()
def test_it_takes_the_parameters_and_has_the_attributes_of_bernoulli_rbm() -> None:
    assert RBMFeatures().get_params() == BernoulliRBM().get_params()
    ours, theirs = fitted(), BernoulliRBM(3, n_iter=1).fit(rows())
    for name in ("components_", "intercept_hidden_", "intercept_visible_", "h_samples_"):
        assert getattr(ours, name).shape == getattr(theirs, name).shape
    assert isinstance(clone(ours), RBMFeatures)
    for name in ("gibbs", "transform"):
        found, expected = (getattr(one, name)(rows(5)) for one in (ours, theirs))
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)


@seeded()
def test_features_are_theirs_for_the_same_numbers() -> None:
    ours, theirs = fitted(), BernoulliRBM(3, n_iter=1).fit(rows())
    for name in ("components_", "intercept_hidden_", "intercept_visible_"):
        setattr(theirs, name, getattr(ours, name))
    np.testing.assert_allclose(ours.transform(rows()), theirs.transform(rows()))
    np.testing.assert_allclose(ours.transform(csr_matrix(rows())), theirs.transform(rows()))
    many = np.repeat(rows(1), 20_000, 0)
    error = 4 * np.sqrt(0.5 / len(many))  # of a difference of two shares
    assert np.abs(ours.gibbs(many).mean(0) - theirs.gibbs(many).mean(0)).max() < error


def test_the_expert_shares_its_numbers() -> None:
    found = fitted()
    assert isinstance(found.rbm_, RBM)
    found.components_ += 1.0
    np.testing.assert_array_equal(found.rbm_.W.numpy(), found.components_.T)
    x = torch.from_numpy(rows(5))
    np.testing.assert_allclose(found.transform(rows(5)), found.rbm_.hidden_probabilities(x))


def log_likelihood(model: Any) -> float:
    """Mean log p(x) of new rows, with log Z exact."""
    arrays = model.components_.T, model.intercept_visible_, model.intercept_hidden_
    rbm = RBM(*(torch.from_numpy(np.array(array)) for array in arrays))
    x = torch.from_numpy(rows(4000, 1))
    return (rbm(x).mean() - poe.log_partition(rbm).value).item()


def test_it_learns_what_binds_the_bits_as_well_as_theirs() -> None:
    ours = log_likelihood(fitted())
    theirs = log_likelihood(BernoulliRBM(3, n_iter=30, random_state=0).fit(rows()))
    # log 2 for the pattern and the entropy of six bits, of which no model has less.
    least = -(np.log(2) - 6 * (0.1 * np.log(0.1) + 0.9 * np.log(0.9)))
    assert ours > theirs - 0.05
    assert ours > least - 0.25  # independent bits are 1.5 below


def test_scores_are_of_one_feature_each_and_average_to_the_pseudo_likelihood() -> None:
    found, x = fitted(), torch.from_numpy(rows(3000, 2))
    flipped = torch.stack([(x - one).abs() for one in torch.eye(6, dtype=torch.float64)])
    ratio = found.rbm_(x) - torch.stack([found.rbm_(one) for one in flipped])
    each = 6 * torch.nn.functional.logsigmoid(ratio)  # (features, rows)
    scores = torch.from_numpy(found.score_samples(x.numpy()))
    assert torch.isclose(each, scores).any(0).all()


def test_partial_fit_goes_on_and_same_seed_gives_the_same_numbers() -> None:
    one, other = (RBMFeatures(3, random_state=1) for _ in range(2))
    for _ in range(50):
        for part in np.array_split(rows(), 8):
            one.partial_fit(part)
            other.partial_fit(part)
    np.testing.assert_array_equal(one.components_, other.components_)
    assert np.abs(one.components_).max() > 0.5
    assert one.partial_fit(rows()) is one
    copied = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(copied.transform(rows()), one.transform(rows()))


def test_one_update_is_the_one_worked_out_by_hand() -> None:
    """θ + η g: the gradient counts x from the data's means and each hidden unit from ½.

    g_W = E (x − μ)(z − ½)' over the data less that over the particles, g_b = E x − g_W ½ and
    g_c = E z − μ g_W likewise; particles are drawn from the visible biases, as the first z are 0.
    """
    X, rate = rows(7), 0.5
    found = RBMFeatures(3, learning_rate=rate, batch_size=4, random_state=5).partial_fit(X)
    random = np.random.RandomState(5)
    W = random.normal(0, 0.01, (3, 6)).T
    generator = torch.Generator().manual_seed(random.randint(np.iinfo(np.int32).max))
    mean, half = X.mean(0), np.full(3, 0.5)
    b = np.log((X.sum(0) + 0.5) / (7.5 - X.sum(0)))
    uniform = torch.empty(4, 6, dtype=torch.float64).uniform_(generator=generator).numpy()
    x = (uniform < 1 / (1 + np.exp(-b))).astype(float)
    of_data, of_model = (1 / (1 + np.exp(-rows @ W)) for rows in (X, x))
    W_slope = (X - mean).T @ (of_data - half) / 7 - (x - mean).T @ (of_model - half) / 4
    b_slope = mean - x.mean(0) - W_slope @ half
    c_slope = of_data.mean(0) - of_model.mean(0) - mean @ W_slope
    np.testing.assert_allclose(found.components_.T, W + rate * W_slope, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.intercept_visible_, b + rate * b_slope, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.intercept_hidden_, rate * c_slope, rtol=0, atol=1e-12)


def test_in_a_pipeline_with_names() -> None:
    model = make_pipeline(fitted(), LogisticRegression())
    model.fit(rows(), rows()[:, 0])
    assert model.score(rows(500, 3), rows(500, 3)[:, 0]) > 0.8
    assert list(model[0].get_feature_names_out()) == [f"rbmfeatures{i}" for i in range(3)]


def test_it_says_how_training_goes(capsys: pytest.CaptureFixture[str]) -> None:
    RBMFeatures(2, n_iter=2, verbose=1, random_state=0).fit(rows())
    assert capsys.readouterr().out.count("[RBMFeatures] Iteration") == 2


@pytest.mark.parametrize(
    "settings", [{"n_components": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"n_iter": -1}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        RBMFeatures(**settings).fit(rows())
