"""The hidden units of an RBM as features, in scikit-learn's manner.

Needs scikit-learn, which `import experts` does not: `pip install "product-of-experts[anomaly]"`.
"""

from __future__ import annotations

import time
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from experts.boltzmann.block_gibbs import draw_bits, sweep
from experts.boltzmann.rbm import RBM
from experts.boltzmann.training.contrastive_divergence import Centre, difference
from experts.boltzmann.training.rbm import WEIGHT_SCALE
from poe.core.imports import missing

try:
    from scipy.sparse import issparse
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils import check_random_state, check_scalar, gen_even_slices
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise missing("scikit-learn", "anomaly") from error

_DTYPES = (np.float64, np.float32)


class RBMFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """p(zⱼ = 1 | x), what the hidden units of an RBM say of each row, learned without labels.

    Takes the place of ``sklearn.neural_network.BernoulliRBM``: its parameters, methods and fitted
    attributes. Trained by persistent contrastive divergence with ``batch_size`` chains, as that is,
    but with centred gradients and visible biases that begin at the data's log-odds.

    Rows X are ``(n_samples, n_features)``, of numbers from 0 to 1 (not checked, as there), dense or
    sparse. Fitted: ``components_`` W' ``(n_components, n_features)``, ``intercept_hidden_`` c,
    ``intercept_visible_`` b, ``h_samples_`` (the chains' hidden units), ``rbm_`` (an
    ``experts.RBM``), ``n_features_in_``.

    Args:
        n_components: Hidden units.
        learning_rate: How far an update goes along the gradient, above 0.
        batch_size: Rows an update, and chains.
        n_iter: How often it goes through the rows.
        verbose: Whether a line is printed after each time, with the pseudo-likelihood.
        random_state: The seed, or scikit-learn's other sources, of all that is drawn.

    Raises:
        ValueError: From ``fit``, as scikit-learn does, for X and parameters out of range.
        TypeError: From ``fit``, for parameters of another type.

    References:
        Tieleman (2008), Training restricted Boltzmann machines using approximations to the
        likelihood gradient, doi:10.1145/1390156.1390290.

        Melchior, Fischer & Wiskott (2016), How to center deep Boltzmann machines, arXiv:1311.1354.

    Example:
        >>> from experts.boltzmann.training.rbm_features import RBMFeatures
        >>> X = [[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1]]
        >>> RBMFeatures(n_components=2, random_state=0).fit_transform(X).shape
        (4, 2)
    """

    def __init__(
        self,
        n_components: int = 256,
        *,
        learning_rate: float = 0.1,
        batch_size: int = 10,
        n_iter: int = 10,
        verbose: int = 0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_components = n_components
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.verbose = verbose
        self.random_state = random_state

    @property
    def rbm_(self) -> RBM:
        """The expert, which shares the numbers of the fitted attributes."""
        check_is_fitted(self)
        arrays = self.components_.T, self.intercept_visible_, self.intercept_hidden_
        return RBM(*map(torch.from_numpy, arrays))

    def fit(self, X: ArrayLike, y: object = None) -> RBMFeatures:
        """Fit an RBM to the rows of X, from the beginning.

        Args:
            X: Rows of numbers from 0 to 1, ``(n_samples, n_features)``.
            y: Ignored.

        Returns:
            Itself.
        """
        self._check_parameters()
        rows = validate_data(self, X, accept_sparse="csr", dtype=_DTYPES)
        self.random_state_ = check_random_state(self.random_state)
        self._begin(rows)
        num_batches = -(-rows.shape[0] // self.batch_size)
        slices = list(gen_even_slices(rows.shape[0], num_batches))
        began = time.perf_counter()
        for iteration in range(1, self.n_iter + 1):
            self._update(rows, slices)
            if self.verbose:
                likelihood = self.score_samples(rows).mean()
                print(
                    f"[{type(self).__name__}] Iteration {iteration}, pseudo-likelihood = "
                    f"{likelihood:.2f}, time = {time.perf_counter() - began:.2f}s"
                )
                began = time.perf_counter()
        return self

    def partial_fit(self, X: ArrayLike, y: object = None) -> RBMFeatures:
        """One update by the rows of X, from where the last one left off.

        Args:
            X: Rows of numbers from 0 to 1, ``(n_samples, n_features)``.
            y: Ignored.

        Returns:
            Itself.
        """
        self._check_parameters()
        is_first = not hasattr(self, "components_")
        rows = validate_data(self, X, accept_sparse="csr", dtype=_DTYPES, reset=is_first)
        if is_first:
            self.random_state_ = check_random_state(self.random_state)
            self._begin(rows)
        self._update(rows.astype(self.components_.dtype, copy=False), [slice(None)])
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """The features p(zⱼ = 1 | x) of each row.

        Args:
            X: Rows of numbers from 0 to 1, ``(n_samples, n_features)``.

        Returns:
            Probabilities, ``(n_samples, n_components)``.
        """
        check_is_fitted(self)
        rows = validate_data(self, X, accept_sparse="csr", reset=False, dtype=_DTYPES)
        with torch.no_grad():
            found: NDArray[Any] = self.rbm_.hidden_probabilities(self._tensor(rows)).numpy()
        return found.astype(rows.dtype, copy=False)

    def gibbs(self, v: ArrayLike) -> NDArray[np.bool_]:
        """Rows after one sweep of block Gibbs.

        Args:
            v: Rows of 0 and 1, ``(n_samples, n_features)``.

        Returns:
            Rows, ``(n_samples, n_features)``, as booleans.
        """
        rbm = self.rbm_
        if not hasattr(self, "random_state_"):
            self.random_state_ = check_random_state(self.random_state)
        x = self._tensor(np.asarray(v))
        return sweep(rbm, x, generator=self._generator()).bool().numpy()

    def score_samples(self, X: ArrayLike) -> NDArray[Any]:
        """The pseudo-log-likelihood of each row, estimated at one feature.

        n_features · log p(xᵢ | the others), with i a hash of the row by ``random_state``: rows get
        the same score whatever rows are beside them.

        Args:
            X: Rows of numbers from 0 to 1, ``(n_samples, n_features)``.

        Returns:
            Scores, ``(n_samples,)``, in nats.
        """
        check_is_fitted(self)
        rows = validate_data(self, X, accept_sparse="csr", reset=False, dtype=_DTYPES)
        x = self._tensor(rows)
        chosen = _hashes(x, check_random_state(self.random_state)) % x.shape[1]
        flipped = x.scatter(1, chosen, 1 - x.gather(1, chosen))
        with torch.no_grad():
            ratio = self.rbm_(x) - self.rbm_(flipped)
            found: NDArray[Any] = (x.shape[1] * F.logsigmoid(ratio)).numpy()
        return found

    def _begin(self, rows: Any) -> None:
        shape, dtype = (self.n_components, rows.shape[1]), rows.dtype
        components = self.random_state_.normal(0, WEIGHT_SCALE, shape)
        self.components_ = np.asarray(components, order="F", dtype=dtype)
        self.intercept_hidden_ = np.zeros(self.n_components, dtype=dtype)
        self._means = np.asarray(rows.mean(0), dtype=dtype).ravel()
        # Of rows from 0 to 1; of others there are no log-odds.
        ones = np.clip(self._means, 0, 1) * rows.shape[0] + 0.5
        self.intercept_visible_ = np.log(ones / (rows.shape[0] + 1 - ones)).astype(dtype)
        self.h_samples_ = np.zeros((self.batch_size, self.n_components), dtype=dtype)
        self._n_features_out = self.n_components

    @torch.no_grad()
    def _update(self, rows: Any, slices: list[slice]) -> None:
        """A step up the gradient for each slice of the rows."""
        rbm, generator = self.rbm_, self._generator()
        centre = Centre(torch.from_numpy(self._means), torch.full_like(rbm.c, 0.5))
        z = torch.from_numpy(self.h_samples_)
        for part in slices:
            batch = self._tensor(rows[part])
            x = torch.cat([batch, draw_bits(rbm.visible_log_odds(z), generator=generator)])
            log_odds = rbm.hidden_log_odds(x)
            gradient = difference(x, log_odds.sigmoid(), len(batch), centre)
            z = draw_bits(log_odds[len(batch) :], generator=generator)
            rbm.W.addmm_(gradient.x.mT, gradient.z, alpha=self.learning_rate)
            rbm.b.add_(gradient.b, alpha=self.learning_rate)
            rbm.c.add_(gradient.c, alpha=self.learning_rate)
        self.h_samples_ = z.numpy().copy()

    def _tensor(self, rows: Any) -> Tensor:
        dense = rows.toarray() if issparse(rows) else rows
        return torch.from_numpy(np.array(dense, dtype=self.components_.dtype))

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.random_state_.randint(np.iinfo(np.int32).max))

    def _check_parameters(self) -> None:
        check_scalar(self.n_components, "n_components", Integral, min_val=1)
        check_scalar(self.batch_size, "batch_size", Integral, min_val=1)
        check_scalar(self.n_iter, "n_iter", Integral, min_val=0)
        check_scalar(
            self.learning_rate, "learning_rate", Real, min_val=0, include_boundaries="neither"
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _hashes(x: Tensor, random: np.random.RandomState) -> Tensor:
    """A number for each row, as good as random for rows that differ: ``(n, v) -> (n, 1)``."""
    factors = torch.from_numpy(random.randint(2**62, size=(x.shape[1], 2)))
    bits = x.double().view(torch.int64) + factors[:, 0]
    mixed = (bits ^ (bits >> 32)) * (factors[:, 1] | 1)  # modulo 2^64
    return ((mixed ^ (mixed >> 29)).sum(1, keepdim=True) >> 20).abs()
