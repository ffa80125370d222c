"""The variational autoencoder: an expert whose log-density is only bounded."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from experts.families.gaussian import Gaussian
from experts.parameters import ArrayLike, fixed, keep, real, whole
from poe import Conditional, Expert, LogDensityBounds, PoeError, Real, ShapeError
from poe.core.arguments import checked, require_dimensions
from poe.core.randomness import resolve
from poe.density.conditional import log_density_of_rows
from poe.density.latent import Posterior
from poe.io import register
from poe.probabilities.density_bounds import Find, bounds, has_exact_log_density

CONFIDENCE = 0.95


class GaussianDecoder(Conditional):
    """p(x | z) = N(x; m(z), s²), normalised: a network's picture m(z), and noise about it.

    The net alone is what ``expert.at(decoder.net)`` reads an expert through.

    Args:
        net: m, from z ``(n, d)`` to ``(n, *event)``.
        log_scale: log s, ``()`` or ``(*event)``, learned where it is an ``nn.Parameter``.
        shape: Of x, ``(*event)``.

    Example:
        >>> decoder = GaussianDecoder(nn.Linear(2, 3), torch.zeros(()), shape=(3,))
        >>> decoder.sample(torch.zeros(4, 2), 4, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4, 3])
    """

    log_scale: Tensor
    may_be_infinite = ()
    is_normalized = True

    @checked
    def __init__(self, net: nn.Module, log_scale: ArrayLike, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net = net
        self.space = Real(tuple(shape))
        keep(self, "log_scale", real("log_scale", log_scale))

    def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
        """log p(x | z).

        Args:
            x: ``(n, *event)``.
            condition: z, ``(n, d)``.

        Returns:
            ``(n,)``.

        Raises:
            ShapeError: Where the net makes another shape.
        """
        log_scale = self.log_scale.expand(self.space.event_shape)
        whitened = (x - self.mean(condition)) * (-log_scale).exp()
        terms = -0.5 * whitened.square() - log_scale - 0.5 * math.log(2 * math.pi)
        return terms.flatten(1).sum(1)

    def mean(self, z: Tensor) -> Tensor:
        """m(z).

        Args:
            z: ``(n, d)``.

        Returns:
            ``(n, *event)``.

        Raises:
            ShapeError: Where the net makes another shape.
        """
        mean: Tensor = self.net(z)
        if mean.shape != (len(z), *self.space.event_shape):
            raise ShapeError(
                f"expected pictures of shape {(len(z), *self.space.event_shape)} from the "
                f"decoder's net, got {tuple(mean.shape)}"
            )
        return mean

    @checked
    @torch.no_grad()
    def sample(
        self, condition: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """One x for each z.

        Args:
            condition: z, ``(num_samples, d)``.
            num_samples: How many there are.
            generator: Of the noise; a fresh one if left out.

        Returns:
            ``(num_samples, *event)``.
        """
        mean = self.mean(condition)
        noise = torch.empty_like(mean).normal_(generator=resolve(generator, mean.device))
        return mean + self.log_scale.exp() * noise


class VAE(Expert):
    """p(x) = ∫ p(z) p(x | z) dz, as an expert by K draws that the encoder q(z | x) proposes.

    log p̂(x) = log 1/K Σ_k p(z_k) p(x | z_k) / q(z_k | x),  z_k = m(x) + s(x) ε_k

    with p(z) = N(0, I), and the noises ε_k **kept**, the same for every x: so p̂ is one smooth
    function of x, with gradients in x, the encoder and the decoder. As an expert it **is** p̂: what
    kernels see, and what a log Z of it is the log Z of. Over the choice of the noises
    E p̂(x) = p(x), so E log p̂(x) ≤ log p(x), the importance-weighted bound, which rises with K.
    ``bound`` is the same with fresh noises, for training.

    Of p itself: ``poe.log_density_bounds(vae, x)``. Its lower bound is log p̂(x) − log 20, below
    log p(x) for 95 % of the choices of noises by Markov's inequality, or that of an estimate of
    log Z of the posterior where it is higher; its upper one is that estimate's. ``sample`` draws
    exactly from p: z first, then x.

    Args:
        encoder: From x ``(n, *event)`` to means and log standard deviations of q(z | x) side by
            side, ``(n, 2d)``.
        decoder: p(x | z), a normalised ``poe.Conditional`` on x given z ``(n, d)``, such as
            ``GaussianDecoder``.
        noises: ε, standard normals, ``(K, d)``.

    Raises:
        PoeError: For a decoder that is not normalised.
        ShapeError: For noises that are no batch, and, when called, where the encoder makes another
            shape.

    References:
        Kingma & Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114.

        Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders, eq. 8 (the bound),
        arXiv:1509.00519.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> decoder = GaussianDecoder(nn.Linear(2, 3), torch.zeros(()), shape=(3,))
        >>> vae = VAE(nn.Linear(3, 4), decoder, torch.randn(16, 2, generator=g))
        >>> vae(torch.zeros(5, 3)).shape, vae.sample(4, generator=g).shape
        (torch.Size([5]), torch.Size([4, 3]))
    """

    noises: Tensor
    may_be_infinite = ()

    def __init__(self, encoder: nn.Module, decoder: Conditional, noises: ArrayLike) -> None:
        super().__init__()
        if not isinstance(decoder, Conditional) or not decoder.is_normalized:
            raise PoeError(
                f"expected a normalised poe.Conditional as decoder, got {type(decoder).__name__}: "
                "wrap a network as GaussianDecoder(net, log_scale, shape)"
            )
        fixed("noises", noises, "give a tensor")
        noises = real("noises", noises)
        if noises.ndim != 2 or not noises.numel():
            raise ShapeError(
                f"expected noises of shape (K, d), got {tuple(noises.shape)}: give "
                "torch.randn(64, d, generator=g)"
            )
        self.encoder = encoder
        self.decoder = decoder
        self.register_buffer("noises", noises.detach())
        self.space = decoder.space

    @property
    def prior(self) -> Gaussian:
        """p(z) = N(0, I) on ``Real(d)``."""
        zeros = torch.zeros_like(self.noises[0])
        return Gaussian(zeros, scale=torch.ones_like(zeros))

    def forward(self, x: Tensor) -> Tensor:
        """log p̂(x), by the kept noises.

        Args:
            x: ``(*batch, *event)``.

        Returns:
            ``(*batch,)``.
        """
        return self._weighted(x, self.noises[:, None])

    def bound(
        self, x: Tensor, num_samples: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The importance-weighted bound by fresh noises.

        Of one sample it is the evidence lower bound; its mean is what training ascends. Its
        gradient in the encoder weakens as the samples grow more.

        Args:
            x: ``(*batch, *event)``.
            num_samples: K, noises for each x.
            generator: Of the noises; a fresh one if left out.

        Returns:
            ``(*batch,)``.

        References:
            Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
            arXiv:1802.04537.
        """
        rows = self.space.batch_shape(x).numel()
        shape = (num_samples, rows, self.noises.shape[1])
        generator = resolve(generator, x.device)
        noises = torch.empty(shape, dtype=x.dtype, device=x.device).normal_(generator=generator)
        return self._weighted(x, noises)

    def proposal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(z | x).

        Args:
            x: ``(n, *event)``.

        Returns:
            Two tensors, each ``(n, d)``.

        Raises:
            ShapeError: Where the encoder makes another shape.
        """
        out: Tensor = self.encoder(x)
        if out.shape != (len(x), 2 * self.noises.shape[1]):
            raise ShapeError(
                f"expected means and log standard deviations of z, "
                f"{(len(x), 2 * self.noises.shape[1])}, from the encoder, got {tuple(out.shape)}"
            )
        mean, log_scale = out.chunk(2, 1)
        return mean, log_scale

    def posterior(self, x: Tensor) -> Posterior:
        """The expert z -> log p(z) + log p(x | z), for one x.

        Args:
            x: ``(*event)``.

        Returns:
            An expert on ``Real(d)``.
        """
        return Posterior(self.prior, self.decoder, x)

    @checked
    @torch.no_grad()
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws of p, by z ~ p(z) and x ~ p(x | z).

        Args:
            num_samples: How many.
            generator: Of the draws; a fresh one if left out.

        Returns:
            ``(num_samples, *event)``.
        """
        generator = resolve(generator, self.noises.device)
        z = self.prior.sample(num_samples, generator=generator)
        draw = self.decoder.sample
        return draw(z, num_samples, generator=generator)  # type: ignore[operator]

    def _weighted(self, x: Tensor, noises: Tensor) -> Tensor:
        """log of the mean weight; noises ``(K, rows or 1, d)``."""
        batch = self.space.batch_shape(x)
        rows = x.reshape(-1, *self.space.event_shape)
        mean, log_scale = self.proposal(rows)
        z = mean + log_scale.exp() * noises
        # log p(z) - log q(z | x): the constants of the two normals cancel
        log_ratio = (0.5 * noises.square() - 0.5 * z.square() + log_scale).sum(-1)
        each_x = rows.expand(len(z), *rows.shape).flatten(0, 1)
        likelihood = log_density_of_rows(self.decoder, each_x, z.flatten(0, 1))
        log_weights = likelihood.reshape(log_ratio.shape) + log_ratio
        return (log_weights.logsumexp(0) - math.log(len(z))).reshape(batch)

    def extra_repr(self) -> str:
        count, size = self.noises.shape
        return f"{size} latents, {count} kept noises, bounds by poe.log_density_bounds"


@checked
def dense_vae(shape: tuple[int, int], hidden: int, noises: Tensor) -> VAE:
    """A small VAE of pictures in [0, 1]: two hidden layers each way, a noise level for each pixel.

    The initial weights are those of torch's layers.

    Args:
        shape: Of a picture, ``(rows, cols)``.
        hidden: Units of each hidden layer.
        noises: Standard normals, ``(K, d)`` for d latents.

    Returns:
        The VAE, its decoder a ``GaussianDecoder``.

    Example:
        >>> dense_vae((4, 4), 8, torch.randn(16, 2))(torch.zeros(3, 4, 4)).shape
        torch.Size([3])
    """
    require_dimensions("noises", noises, "(K, d)")
    hidden = whole("hidden", hidden)
    pixels, latents = math.prod(shape), noises.shape[1]
    encoder = nn.Sequential(
        nn.Flatten(),
        nn.Linear(pixels, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, 2 * latents),
    )
    net = nn.Sequential(
        nn.Linear(latents, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, pixels),
        nn.Sigmoid(),
        nn.Unflatten(1, shape),
    )
    log_scale = nn.Parameter(torch.full(shape, -2.0))
    return VAE(encoder, GaussianDecoder(net, log_scale, shape), noises)


@has_exact_log_density.register
def _(module: VAE) -> bool:
    return False


@bounds.register
def _(expert: VAE, x: Tensor, find: Find) -> LogDensityBounds:
    batch, value = expert.space.batch_shape(x), expert(x).detach()
    rows = x.reshape(-1, *expert.space.event_shape)
    means, log_scales = (part.detach() for part in expert.proposal(rows))
    starts = [Gaussian(m, scale=s.exp()) for m, s in zip(means, log_scales, strict=True)]
    found = [find(expert.posterior(row), start) for row, start in zip(rows, starts, strict=True)]
    lower, upper = (
        torch.stack([*side]).to(value).reshape(batch) if found else value
        for side in ([one.lower for one in found], [one.upper for one in found])
    )
    confidence = min((one.confidence for one in found), default=1.0)
    return LogDensityBounds(
        torch.maximum(lower, value + math.log(1 - CONFIDENCE)),
        upper,
        max(0.0, confidence + CONFIDENCE - 1),
        "; ".join(dict.fromkeys(one.rests_on for one in found if one.rests_on)),
        tuple(doubt.about(f"x {k}") for k, one in enumerate(found) for doubt in one.doubts),
    )


register(
    GaussianDecoder,
    lambda d: {"net": d.net, "log_scale": d.log_scale, "shape": tuple(d.space.event_shape)},
    lambda f: GaussianDecoder(**f),
    name="experts.GaussianDecoder",
    formerly=("experts.vae.GaussianDecoder",),
)
register(
    VAE,
    lambda v: {"encoder": v.encoder, "decoder": v.decoder, "noises": v.noises},
    lambda f: VAE(**f),
    name="experts.VAE",
    formerly=("experts.vae.VAE",),
)
