"""A good call of every public callable: a new one enters by one line.

``CALLS`` has a callable by its path and what makes the arguments of a good call, by name; those of
``*args`` stand under their own name with the star. ``RECORDS`` are results: tuples and frozen
dataclasses that hold what they are given. ``METHODS`` are the arguments of methods, by name.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import experts
import poe
import poe.diagnostics
import poe.exponents
import poe.hub
import poe.testing
from poe import samplers
from poe.structure.gaussian_factors import GaussianFactor
from tests.seeds import seeded

FACES: tuple[ModuleType, ...] = (
    poe,
    poe.samplers,
    poe.losses,
    poe.diagnostics,
    poe.exponents,
    poe.plot,
    poe.normalizers,
    poe.testing,
    poe.link,
    poe.ranges,
    experts,
    *(
        getattr(experts, name)
        for name in experts.__all__
        if isinstance(getattr(experts, name), ModuleType)
    ),
)
"""Where public names are found: each has an ``__all__``, or shows all that it has."""


def public_callables() -> dict[str, Callable[..., Any]]:
    """Every one, by the first path at which it is found; errors, protocols and aliases left out."""
    found: dict[str, Callable[..., Any]] = {}
    seen = set()
    for face in FACES:
        for name in _names(face):
            value = getattr(face, name)
            is_ours = getattr(value, "__module__", "").partition(".")[0] in ("poe", "experts")
            if not callable(value) or not is_ours or id(value) in seen or name in PLUMBING:
                continue
            seen.add(id(value))
            if inspect.isclass(value) and (
                issubclass(value, Exception) or getattr(value, "_is_protocol", False)
            ):
                continue
            found[f"{face.__name__}.{name}"] = value
    return found


def _names(face: ModuleType) -> list[str]:
    shown = [name for name in vars(face) if not name.startswith("_")]
    return list(getattr(face, "__all__", shown))


# --- Values of good calls


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def other_generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator())


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator())


def bits(*shape: int) -> Tensor:
    return torch.bernoulli(torch.full(shape, 0.5), generator=generator())


def gaussian(loc: float = 0.0) -> poe.Expert:
    return experts.Gaussian([loc, 0.0], scale=[1.0, 2.0])


def plain() -> poe.Expert:
    return poe.FromLogDensity(lambda x: -x.square().sum(-1), space=poe.Real(2))


def product() -> poe.Product:
    return poe.Product(a=gaussian(), b=gaussian(1.0))


def half() -> poe.Product:
    return poe.Product(a=gaussian(), b=plain())


def ising() -> poe.Expert:
    return experts.Ising([[0.0, 0.5], [0.5, 0.0]], [0.1, -0.1])


def potts() -> poe.Expert:
    return experts.Potts([[0], [1]], [0.5], torch.zeros(2, 3), 2, 3)


def rbm() -> Any:
    return experts.RBM(normal(3, 2), [0.1, 0.0, -0.1], [0.0, 0.2])


def dbm() -> Any:
    return experts.DBM([normal(3, 2), normal(2, 2)], [[0.0] * 3, [0.0] * 2, [0.0] * 2])


def chain() -> Any:
    return experts.LinearChain(normal(4, 3), normal(3, 3))


def sequence_model() -> Any:
    with seeded():
        return experts.CausalTransformer(3, 4, width=8, num_heads=2, num_layers=1)


def vocabulary() -> Any:
    return experts.language.Vocabulary(["a", "b", "ab", ""], ends=[3])


def automaton() -> Any:
    return experts.language.contains("ab", vocabulary(), 4)


class LastScalar(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1)


class OneLogit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def linear() -> nn.Module:
    with seeded():
        return nn.Linear(2, 2)


def labelled() -> poe.Conditional:
    return experts.GaussianDecoder(linear(), [0.0, 0.0], (2,))


def draws() -> poe.Draws:
    return poe.sample(gaussian(), 40, generator=generator(), progress=False)


def log_z() -> poe.LogPartition:
    return poe.log_partition(gaussian(), generator=generator())


def noisy() -> Any:
    with seeded():
        return experts.NoisyEnergy((4, 4), ["a", "b"], 0.2, channels=(2, 2))


def nflow(context: int | None = None) -> Any:
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import MaskedAffineAutoregressiveTransform

    with seeded():
        made = MaskedAffineAutoregressiveTransform(2, 8, context_features=context)
        return Flow(made, StandardNormal([2]))


def folder() -> Path:
    return Path(tempfile.mkdtemp(dir="."))


def saved() -> Path:
    poe.save(gaussian(), path := folder() / "saved")
    return path


def saved_draws() -> Path:
    poe.save_draws(draws(), path := folder() / "draws.safetensors")
    return path


def tempering_state() -> Any:
    kernel = samplers.ParallelTempering(gaussian(), samplers.MALA(0.1), (0.5, 1.0), (0.1, 0.1))
    return kernel.init(plain(), normal(6, 2))


def gaussian_factors() -> tuple[GaussianFactor, ...]:
    found = poe.gaussian_factors(gaussian())
    assert found is not None
    return found


def field_of_experts() -> Any:
    filters = normal(2, 2, 2)
    return experts.FieldOfExperts(filters, torch.zeros(2, 2), torch.ones(2, 2), (4, 4))


def patches() -> Any:
    filters, trils = torch.eye(4).reshape(4, 2, 2), torch.eye(4).expand(2, 4, 4)
    return experts.PatchMixture(filters, [0.0, 0.0], trils, (4, 4))


QUIET = {"progress": False}
SHORT = {**QUIET, "generator": generator}

CALLS: dict[str, dict[str, Any]] = {
    # the algebra
    "poe.At": {"expert": gaussian, "generator": linear, "space": poe.Real(2)},
    "poe.Autocast": {"expert": gaussian, "dtype": torch.bfloat16},
    "poe.Binary": {"shape": 2},
    "poe.Categorical": {"shape": 2, "k": 3},
    "poe.Chain": {"prior": gaussian, "conditional": labelled},
    "poe.Chunked": {"expert": gaussian, "chunk_size": 2},
    "poe.Count": {"shape": 2},
    "poe.Dequantized": {"expert": ising},
    "poe.FromDistribution": {"distribution": lambda: torch.distributions.Normal(0.0, 1.0)},
    "poe.FromEnergy": {"fn": lambda: lambda x: x.square().sum(-1), "space": poe.Real(2)},
    "poe.FromLogDensity": {"fn": lambda: lambda x: -x.square().sum(-1), "space": poe.Real(2)},
    "poe.FromOneHot": {"fn": lambda: lambda z: z[..., 0].sum(-1), "space": poe.Categorical(2, 3)},
    "poe.Given": {"conditional": labelled, "condition": lambda: normal(2)},
    "poe.Interval": {"shape": 2, "low": 0.0, "high": 1.0},
    "poe.Joint": {"parts": (poe.Real(2), poe.Binary(2))},
    "poe.LocalProduct": {"space": poe.Sequence(3, 4), "factors": lambda: [sequence_model()]},
    "poe.Marginal": {"prior": gaussian, "conditional": labelled, "draws": lambda: normal(5, 2)},
    "poe.Mixture": {
        "experts": lambda: [gaussian(), gaussian(1.0)],
        "weights": lambda: [0.5, 0.5],
        "log_partitions": (None, None),
    },
    "poe.Normalized": {"expert": gaussian, "log_partition": log_z},
    "poe.OnPrefixes": {
        "fn": lambda: lambda x: x.float().sum(-1),
        "space": poe.Sequence(3, 4),
        "looks_ahead": True,
    },
    "poe.Positive": {"shape": 2},
    "poe.PositiveDefinite": {"k": 2},
    "poe.Product": {"*experts": lambda: (gaussian(), gaussian(1.0))},
    "poe.Real": {"shape": 2},
    "poe.Relaxed": {"expert": ising},
    "poe.ReplayBuffer": {
        "start": gaussian,
        "num_chains": 4,
        "reseeded": 0.1,
        "generator": generator,
    },
    "poe.Reached": {"ess": 50.0, "r_hat": 1.1, "max_gradients": 1000, "max_seconds": 9.0},
    "poe.Sequence": {"vocab_size": 3, "length": 4},
    "poe.Simplex": {"k": 3},
    "poe.Tempered": {"expert": gaussian, "exponent": 2.0},
    "poe.TensorBoard": {"folder": folder},
    "poe.Together": {"product": product},
    "poe.Transformed": {
        "expert": gaussian,
        "bijection": lambda: torch.distributions.AffineTransform(1.0, 2.0),
        "space": None,
    },
    "poe.Warmup": {"num_steps": 10, "per_chain": False},
    "poe.as_expert": {"*source": lambda: (torch.distributions.Normal(0.0, 1.0),)},
    "poe.contrast": {"q": gaussian, "r": lambda: gaussian(1.0), "a": 0.1},
    "poe.gaussian_factors": {"*expert": lambda: (gaussian(),)},
    "poe.simplify": {"*expert": lambda: (product(),)},
    "poe.twists": {"*expert": lambda: (sequence_model(),)},
    # what is asked of densities
    "poe.advance": {
        "expert": gaussian,
        "kernel": lambda: samplers.MALA(0.1),
        "x": lambda: normal(4, 2),
        "num_steps": 2,
        "generator": generator,
    },
    "poe.any_of": {
        "*experts": lambda: (gaussian(), gaussian(1.0)),
        "weights": lambda: [0.5, 0.5],
        "generator": generator,
    },
    "poe.calibrate": {"product": product, "x": lambda: normal(20, 2)},
    "poe.compatibility": {
        "*experts": lambda: (gaussian(), gaussian(1.0)),
        "generator": generator,
    },
    "poe.evidence_ratio": {
        "numerator": gaussian,
        "denominator": lambda: gaussian(1.0),
        "generator": generator,
    },
    "poe.fit_exponents_by_likelihood": {
        "product": product,
        "x": lambda: normal(20, 2),
        "num_particles": 64,
        **SHORT,
    },
    "poe.fit_exponents_by_log_score": {
        "product": product,
        "x": lambda: normal(20, 2),
        "generator": generator,
    },
    "poe.fit_exponents_by_score_matching": {
        "product": product,
        "x": lambda: normal(20, 2),
        "generator": generator,
    },
    "poe.load": {"path": saved},
    "poe.load_draws": {"path": saved_draws},
    "poe.log_density_bounds": {
        "expert": gaussian,
        "x": lambda: normal(3, 2),
        "generator": generator,
    },
    "poe.log_density_error": {"expert": gaussian, "x": lambda: normal(3, 2)},
    "poe.log_partition": {"target": gaussian, **SHORT},
    "poe.log_prob_ratio": {
        "p": gaussian,
        "q": lambda: gaussian(1.0),
        "x": lambda: normal(3, 2),
        "generator": generator,
    },
    "poe.log_ratio": {
        "target": gaussian,
        "x": lambda: normal(3, 2),
        "x_prime": lambda: normal(3, 2),
    },
    "poe.log_ratio_contributions": {
        "product": product,
        "x": lambda: normal(3, 2),
        "x_prime": lambda: normal(3, 2),
        "rows_at_once": 2,
    },
    "poe.normalize": {"expert": gaussian, "log_partition": None, "generator": generator},
    "poe.sample": {
        "target": plain,
        "num_samples": 20,
        "kernel": lambda: samplers.MALA(0.1),
        "num_chains": 4,
        "warmup": 10,
        "initial": lambda: normal(4, 2),
        "chains_at_once": 2,
        "callback": lambda: lambda told: None,
        "collect": lambda: lambda x: x,
        "compile": False,
        "until": lambda: poe.Reached(ess=2, r_hat=9.0),
        **SHORT,
    },
    "poe.save": {"expert": gaussian, "path": lambda: folder() / "saved"},
    "poe.save_draws": {"draws": draws, "path": lambda: folder() / "draws.safetensors"},
    "poe.short_run": {
        "expert": gaussian,
        "start": lambda: normal(4, 2),
        "num_steps": 2,
        "step_size": 0.1,
        "noise": 0.1,
        "generator": generator,
    },
    "poe.simulated_annealing": {
        "target": ising,
        "num_chains": 2,
        "schedule": (0.5, 1.0),
        "generator": generator,
    },
    "poe.smc": {
        "target": half,
        "num_samples": 64,
        "start": gaussian,
        "kernel": lambda: samplers.MALA(0.1),
        "path": (),
        "temperatures": (0.5, 1.0),
        "num_islands": 4,
        "num_moves": 2,
        "max_thinning": 1,
        "conditional_ess": 0.5,
        **SHORT,
    },
    "poe.smc_over_positions": {
        "target": sequence_model,
        "num_samples": 16,
        "num_islands": 2,
        "ess_threshold": 0.5,
        "num_moves": 0,
        **SHORT,
    },
    "poe.tune_ladder": {
        "target": plain,
        "kernel": lambda: samplers.AnnealedLangevin((plain() ** 0.1,), steps_per_level=2),
        "x": lambda: normal(6, 2),
        "num_steps": 10,
        "per_chain": False,
        "generator": generator,
    },
    "poe.tune_tempering": {
        "target": plain,
        "start": gaussian,
        "kernel": lambda: samplers.MALA(0.1),
        "x": lambda: normal(6, 2),
        "num_steps": 100,
        "num_levels": 3,
        "generator": generator,
    },
    "poe.warm_up": {
        "target": plain,
        "kernel": lambda: samplers.MALA(),
        "x": lambda: normal(6, 2),
        "warmup": lambda: poe.Warmup(10),
        "generator": generator,
    },
    # kernels
    "poe.samplers.DMALA": {"space": poe.Binary(2), "step_size": 0.1},
    "poe.samplers.DULA": {"space": poe.Binary(2), "step_size": 0.1},
    "poe.samplers.HMC": {"step_size": 0.1, "num_steps": 3, "jitter": 0.2},
    "poe.samplers.MALA": {"step_size": 0.1},
    "poe.samplers.MCLMC": {"step_size": 0.1, "decoherence_length": 1.0},
    "poe.samplers.ULA": {"step_size": 0.1},
    "poe.samplers.AdjustedMCLMC": {"step_size": 0.1, "num_steps": 2, "jitter": 0.1},
    "poe.samplers.Alternating": {
        "space": poe.Joint((poe.Real(2), poe.Binary(2))),
        "kernels": lambda: (samplers.MALA(0.1), samplers.Gibbs(poe.Binary(2))),
    },
    "poe.samplers.AnnealedLangevin": {
        "ladder": lambda: (gaussian(),),
        "kernel": lambda: samplers.MALA(0.1),
        "steps_per_level": 2,
        "step_size": (0.1, 0.1),
    },
    "poe.samplers.BlockGibbs": {"conditionals": lambda: _conditionals(rbm())},
    "poe.samplers.Checkerboard": {"pairs": lambda: _pairs(), "shape": (4, 4)},
    "poe.samplers.ChromaticGibbs": {"pairs": lambda: _label_pairs()},
    "poe.samplers.DelayedAcceptance": {
        "kernel": lambda: samplers.MALA(0.1),
        "surrogate": gaussian,
        "num_steps": 1,
    },
    "poe.samplers.Dense": {"loc": lambda: normal(2), "factor": lambda: torch.eye(2)},
    "poe.samplers.Diagonal": {"loc": lambda: normal(2), "scale": lambda: torch.ones(2)},
    "poe.samplers.GaussianGibbs": {"factors": gaussian_factors, "num_steps": 5},
    "poe.samplers.GeneralizedHMC": {"step_size": 0.1, "num_steps": 1, "friction": 0.7},
    "poe.samplers.Gibbs": {"space": poe.Binary(2)},
    "poe.samplers.GibbsWithGradients": {"space": poe.Binary(2)},
    "poe.samplers.LabelClusters": {"pairs": lambda: _label_pairs()},
    "poe.samplers.LowRank": {
        "loc": lambda: normal(2),
        "scale": lambda: torch.ones(2),
        "directions": lambda: torch.eye(2)[:, :1],
        "stretch": lambda: torch.ones(1),
    },
    "poe.samplers.MetropolisHastings": {"scale": 0.5},
    "poe.samplers.ModeJumps": {
        "kernel": lambda: samplers.MALA(0.1),
        "loc": lambda: torch.tensor([[0.0, 0.0], [3.0, 0.0]]),
        "factor": lambda: torch.eye(2).repeat(2, 1, 1),
    },
    "poe.samplers.ParallelTempering": {
        "start": gaussian,
        "kernel": lambda: samplers.MALA(0.1),
        "exponents": (0.5, 1.0),
        "step_size": (0.1, 0.1),
    },
    "poe.samplers.LatticeGibbs": {"space": poe.Count(2)},
    "poe.samplers.LatticeMALA": {"space": poe.Count(2), "step_size": 0.3, "num_windows": 2},
    "poe.samplers.PathAuxiliary": {"space": poe.Binary(2), "mean_length": 2.0},
    "poe.samplers.Preconditioned": {
        "kernel": lambda: samplers.MALA(0.1),
        "affine": lambda: samplers.Diagonal(torch.zeros(2), torch.ones(2)),
    },
    "poe.samplers.RandomScanGibbs": {"space": poe.Binary(2)},
    "poe.samplers.SingleSiteMetropolis": {"space": poe.Binary(2)},
    "poe.samplers.AdaptiveStepHMC": {"step_size": 0.1, "num_steps": 2, "jitter": 0.1},
    "poe.samplers.Repeated": {"kernel": lambda: samplers.MALA(0.1), "times": 2},
    "poe.samplers.SplitHMC": {"step_size": 0.1, "num_steps": 2, "jitter": 0.1},
    "poe.samplers.IndependenceMetropolisHastings": {"model": gaussian},
    "poe.samplers.SuffixMetropolisHastings": {"model": sequence_model},
    "poe.samplers.SurrogateMALA": {"surrogate": gaussian, "step_size": 0.1},
    "poe.samplers.SwendsenWang": {"pairs": lambda: _pairs()},
    "poe.samplers.Transport": {
        "loc": lambda: normal(2),
        "matrix": lambda: torch.eye(2),
        "curves": lambda: normal(2, 1),
        "means": lambda: normal(2, 1),
        "log_scales": lambda: normal(3, 1),
        "inner_loc": lambda: normal(2),
        "inner_factor": lambda: torch.eye(2),
    },
    "poe.samplers.UnderdampedLangevin": {"step_size": 0.1, "friction": 1.0},
    "poe.samplers.fit_affine": {"x": lambda: normal(20, 2), "score": lambda: -normal(20, 2)},
    "poe.samplers.fit_transport": {"x": lambda: normal(60, 2), "score": lambda: -normal(60, 2)},
    "poe.samplers.geometric_ladder": {
        "target": plain,
        "start": gaussian,
        "exponents": (0.25, 0.5),
    },
    "poe.samplers.swap_rates": {"state": tempering_state},
    # losses
    "poe.losses.contrastive_divergence": {
        "expert": plain,
        "data": lambda: normal(5, 2),
        "model": lambda: normal(5, 2),
        "regularization": 0.1,
        "log_weights": lambda: torch.zeros(5),
    },
    "poe.losses.denoising_score_matching": {
        "expert": plain,
        "data": lambda: normal(5, 2),
        "noise_level": 0.1,
        "generator": generator,
    },
    "poe.losses.multiscale_denoising_score_matching": {
        "at_level": lambda: lambda level: plain(),
        "data": lambda: normal(5, 2),
        "noise_levels": lambda: torch.tensor([0.2, 0.1]),
        "generator": generator,
    },
    "poe.losses.negative_log_likelihood": {"expert": gaussian, "data": lambda: normal(5, 2)},
    "poe.losses.noise_contrastive_estimation": {
        "expert": plain,
        "data": lambda: normal(5, 2),
        "noise": gaussian,
        "log_partition": lambda: torch.zeros(()),
        "noise_per_row": 2,
        "generator": generator,
    },
    "poe.losses.score_matching": {"expert": plain, "data": lambda: normal(5, 2)},
    "poe.losses.sliced_score_matching": {
        "expert": plain,
        "data": lambda: normal(5, 2),
        "num_slices": 2,
        "generator": generator,
    },
    # diagnostics
    "poe.diagnostics.binds_chains": {"target": gaussian},
    "poe.diagnostics.contributions_along": {
        "target": product,
        "samples": lambda: normal(2, 5, 2),
    },
    "poe.diagnostics.distance_from_others": {
        "samples": lambda: normal(4, 20, 2),
        "log_density": lambda: normal(4, 20),
    },
    "poe.diagnostics.ess_bulk": {"samples": lambda: normal(4, 20, 2)},
    "poe.diagnostics.ess_mean": {"samples": lambda: normal(4, 20, 2)},
    "poe.diagnostics.ess_tail": {"samples": lambda: normal(4, 20, 2)},
    "poe.diagnostics.expert_report": {
        "target": product,
        "samples": lambda: normal(2, 20, 2),
        "proposals": lambda: normal(2, 20, 2),
    },
    "poe.diagnostics.kish_ess": {"log_weights": lambda: normal(20)},
    "poe.diagnostics.longest_stay": {
        "samples": lambda: normal(4, 20, 2),
        "log_density": lambda: normal(4, 20),
    },
    "poe.diagnostics.mcse_mean": {"samples": lambda: normal(4, 20, 2)},
    "poe.diagnostics.mcse_sd": {"samples": lambda: normal(4, 20, 2)},
    "poe.diagnostics.nested_r_hat": {"samples": lambda: normal(4, 20, 2)},
    "poe.diagnostics.normalized_weights": {"log_weights": lambda: normal(20)},
    "poe.diagnostics.r_hat": {"samples": lambda: normal(4, 20, 2)},
    "poe.diagnostics.squared_stein_discrepancy": {
        "samples": lambda: normal(2, 10, 2),
        "scores": lambda: -normal(2, 10, 2),
        "log_weights": lambda: torch.zeros(2, 10),
        "length": 1.0,
    },
    "poe.diagnostics.stein_discrepancy": {
        "samples": lambda: normal(2, 10, 2),
        "scores": lambda: -normal(2, 10, 2),
        "log_weights": lambda: torch.zeros(2, 10),
        "length": 1.0,
    },
    "poe.diagnostics.stein_test": {
        "samples": lambda: normal(2, 10, 2),
        "scores": lambda: -normal(2, 10, 2),
        "length": 1.0,
        "num_resamples": 10,
        "flip_probability": 0.5,
        "generator": generator,
    },
    "poe.diagnostics.weighted_moments": {
        "samples": lambda: normal(4, 20, 2),
        "log_weights": lambda: torch.zeros(4, 20),
    },
    # pictures
    "poe.plot.colors": {"target": product},
    "poe.plot.contributions": {"product": product, "x": lambda: normal(3, 2)},
    "poe.plot.densities": {"product": product, "low": -2.0, "high": 2.0},
    "poe.plot.disagreement": {"product": product, "draws": draws, "chain": 0},
    "poe.plot.images": {"images": lambda: uniform(4, 3, 3), "rows": 2, "low": 0.0, "high": 1.0},
    "poe.plot.pairs": {"draws": draws},
    "poe.plot.trace": {"draws": draws},
    "poe.plot.tree": {"product": product},
    # log Z
    "poe.normalizers.AIS": {"num_samples": 64, "substeps": 1},
    "poe.normalizers.MBAR": {"num_samples": 64},
    "poe.normalizers.SMC": {"num_samples": 64},
    "poe.normalizers.Bridge": {"num_samples": 64},
    "poe.normalizers.ClosedForm": {},
    "poe.normalizers.Enumeration": {},
    "poe.normalizers.ImportanceSampling": {"num_samples": 64},
    "poe.normalizers.Quadrature": {},
    "poe.normalizers.Truncation": {},
    "poe.normalizers.ThermodynamicIntegration": {"num_samples": 64},
    "poe.testing.check_expert": {"expert": gaussian, "x": lambda: normal(4, 2)},
    "poe.testing.check_kernel": {
        "kernel": lambda: samplers.MALA(0.1),
        "target": gaussian,
        "exact_draws": lambda: gaussian().sample(40_000, generator=other_generator()),
        "num_steps": 2,
        "generator": generator,
        "max_z": 10.0,
    },
    # links and ranges
    "poe.link.FromNetwork": {
        "net": lambda: LastScalar(),
        "space": poe.Real(2),
        "log_link": poe.link.log_square,
    },
    "poe.link.absolute": {"net": lambda: LastScalar(), "space": poe.Real(2)},
    "poe.link.exponential": {"net": lambda: LastScalar(), "space": poe.Real(2)},
    "poe.link.softplus": {"net": lambda: LastScalar(), "space": poe.Real(2)},
    "poe.link.square": {"net": lambda: LastScalar(), "space": poe.Real(2)},
    "poe.link.log_absolute": {"f": lambda: normal(3)},
    "poe.link.log_exponential": {"f": lambda: normal(3)},
    "poe.link.log_softplus": {"f": lambda: normal(3)},
    "poe.link.log_square": {"f": lambda: normal(3)},
    "poe.ranges.Rescale": {"low": 0.0, "high": 1.0, "to_low": -1.0, "to_high": 1.0},
    "poe.ranges.Resize": {"size": (2, 2), "mode": "area"},
    "poe.ranges.logit": {"low": 0.0, "high": 1.0},
    "poe.ranges.Floats": {},
    "poe.ranges.Indices": {},
    # experts
    "experts.DBM": {
        "weights": lambda: [normal(3, 2), normal(2, 2)],
        "biases": lambda: [[0.0] * 3, [0.0] * 2, [0.0] * 2],
    },
    "experts.JEM": {"net": lambda: OneLogit(), "space": poe.Real(2)},
    "experts.MADE": {"shape": 3, "hidden": (4,)},
    "experts.NADE": {"shape": 3, "hidden": 4},
    "experts.RBM": {"W": lambda: normal(3, 2), "b": lambda: [0.0] * 3, "c": lambda: [0.0] * 2},
    "experts.VAE": {"encoder": linear, "decoder": labelled, "noises": lambda: normal(3, 1)},
    "experts.Bernoulli": {"logits": lambda: [0.0, 1.0]},
    "experts.Beta": {"concentration1": lambda: [1.0, 2.0], "concentration0": lambda: [1.0, 2.0]},
    "experts.Categorical": {"logits": lambda: [[0.0, 1.0, 2.0]]},
    "experts.CausalTransformer": {
        "vocab_size": 3,
        "length": 4,
        "width": 8,
        "num_heads": 2,
        "num_layers": 1,
    },
    "experts.Classifier": {"net": lambda: OneLogit(), "space": poe.Real(2)},
    "experts.Constraint": {"shape": 2, "allowed": lambda: [True, False, True]},
    "experts.ContextFlow": {"nflows_flow": lambda: nflow(2), "condition_ndim": 1},
    "experts.DensityRatio": {"conditional": noisy},
    "experts.Dirichlet": {"concentration": lambda: [1.0, 2.0, 3.0]},
    "experts.Discriminator": {"net": lambda: LastScalar(), "space": poe.Real(2)},
    "experts.Exponential": {"rate": lambda: [1.0, 2.0]},
    "experts.ExponentialFamily": {
        "log_base_measure": None,
        "statistics": lambda: lambda x: torch.cat([x, x.square()], -1),
        "natural": lambda: [0.0, -0.5],
        "log_partition": lambda: lambda n: -(n[0] ** 2) / (4 * n[1]) - 0.5 * (-n[1] / 3.1416).log(),
        "space": poe.Real(1),
    },
    "experts.FactorGraph": {
        "space": poe.Binary(3),
        "factors": lambda: (
            [experts.Ising([[0.0, 0.5], [0.5, 0.0]])]
            and [([0, 1], torch.zeros(2, 2)), ([1, 2], torch.ones(2, 2))]
        ),
    },
    "experts.FieldOfExperts": {
        "filters": lambda: normal(2, 2, 2),
        "logits": lambda: torch.zeros(2, 2),
        "scales": lambda: torch.ones(2),
        "shape": (4, 4),
    },
    "experts.Flow": {"nflows_flow": nflow},
    "experts.Gamma": {"concentration": lambda: [1.0, 2.0], "rate": lambda: [1.0, 2.0]},
    "experts.Gaussian": {"loc": lambda: [0.0, 1.0], "scale": lambda: [1.0, 2.0]},
    "experts.GaussianDecoder": {"net": linear, "log_scale": lambda: [0.0, 0.0], "shape": (2,)},
    "experts.GaussianLikelihood": {
        "operator": lambda: experts.images.Identity((2, 2)),
        "observed": lambda: uniform(2, 2),
        "scale": 0.1,
    },
    "experts.GaussianRBM": {
        "W": lambda: normal(3, 2),
        "b": lambda: [0.0] * 3,
        "c": lambda: [0.0] * 2,
        "scale": 1.0,
    },
    "experts.ImageFlow": {
        "shape": (4, 4),
        "labels": ("a", "b"),
        "noise_level": 0.1,
        "layers": 2,
        "hidden": 4,
    },
    "experts.Ising": {"J": lambda: [[0.0, 0.5], [0.5, 0.0]], "h": lambda: [0.1, -0.1]},
    "experts.KernelDensity": {
        "points": lambda: normal(5, 2),
        "bandwidth": 0.5,
        "kernel": "gaussian",
        "weights": lambda: torch.ones(5),
    },
    "experts.LinearChain": {
        "unary": lambda: normal(4, 3),
        "pairs": lambda: normal(3, 3),
        "space": None,
    },
    "experts.LinearGaussian": {
        "weight": lambda: normal(2, 3),
        "bias": lambda: [0.0, 0.0],
        "scale": lambda: [1.0, 1.0],
    },
    "experts.Neighbours": {
        "points": lambda: normal(8, 2),
        "num_neighbours": 2,
        "norm": 2.0,
        "resolution": 0.03,
    },
    "experts.NeuralEnergy": {"net": lambda: LastScalar(), "space": poe.Real(2)},
    "experts.NoisyEnergy": {
        "shape": (4, 4),
        "labels": ("a", "b"),
        "noise_level": 0.1,
        "channels": (2, 2),
        "spread": 1.0,
    },
    "experts.PatchMixture": {
        "filters": lambda: torch.eye(4).reshape(4, 2, 2),
        "logits": lambda: [0.0, 0.0],
        "scale_trils": lambda: torch.eye(4).expand(2, 4, 4),
        "shape": (4, 4),
        "stride": 1,
    },
    "experts.PixelMixture": {
        "shape": (4, 4),
        "labels": ("a", "b"),
        "noise_level": 0.1,
        "channels": 4,
        "blocks": 1,
        "components": 2,
    },
    "experts.Poisson": {"rate": lambda: [1.0, 2.0]},
    "experts.Potts": {
        "edges": lambda: [[0], [1]],
        "couplings": lambda: [0.5],
        "fields": lambda: torch.zeros(2, 3),
        "shape": 2,
        "num_labels": 3,
    },
    "experts.PottsRBM": {
        "W": lambda: normal(3, 2, 2),
        "b": lambda: torch.zeros(3, 2),
        "c": lambda: [0.0] * 2,
    },
    "experts.ProbabilisticPCA": {
        "loc": lambda: [0.0] * 3,
        "loadings": lambda: normal(3, 1),
        "scale": 0.5,
    },
    "experts.ReconstructionEnergy": {
        "shape": (4, 4),
        "labels": ("a", "any"),
        "noise_level": 0.1,
        "channels": 4,
        "spread": 0.3,
    },
    "experts.RelativeNeighbours": {
        "points": lambda: normal(8, 2),
        "num_neighbours": 2,
        "norm": 2.0,
        "resolution": 0.03,
    },
    "experts.SaltAndPepper": {
        "observed": lambda: uniform(2, 2),
        "probability": 0.1,
        "scale": 0.01,
        "step": 0.01,
    },
    "experts.Transitions": {
        "start": lambda: normal(3),
        "pairs": lambda: normal(3, 3),
        "end": lambda: normal(3),
    },
    "experts.VisibleDBM": {"dbm": dbm, "num_steps": 3},
    "experts.VonMises": {"loc": lambda: [0.0, 1.0], "concentration": lambda: [1.0, 2.0]},
    "experts.Wishart": {"degrees_of_freedom": 4.0, "scale": lambda: [[1.0, 0.0], [0.0, 1.0]]},
    "experts.load": {"name": "digits-thickness"},
    # their parts and functions
    "experts.boltzmann.BaseRateAIS": {"num_chains": 32, "num_levels": 5},
    "experts.boltzmann.LayerGibbs": {"rbm": rbm},
    "experts.boltzmann.mean_field": {"dbm": dbm, "x": lambda: bits(2, 3), "num_steps": 2},
    "experts.boltzmann.sweep": {
        "rbm": rbm,
        "x": lambda: bits(2, 3),
        "num_steps": 1,
        "exponent": 1.0,
        "generator": generator,
    },
    "experts.boltzmann.variational_bound": {
        "dbm": dbm,
        "means": lambda: [uniform(2, 3), uniform(2, 2), uniform(2, 2)],
    },
    "experts.families.data_log_odds": {"data": lambda: bits(9, 3)},
    "experts.graphs.Chains": {
        "unary": lambda: normal(2, 4, 3),
        "pairs": lambda: normal(3, 3),
        "lengths": lambda: torch.tensor([4, 2]),
    },
    "experts.graphs.at_least": {"k": 1, "shape": 3},
    "experts.graphs.at_most": {"k": 1, "shape": 3},
    "experts.graphs.exactly": {"k": 1, "shape": 3},
    "experts.graphs.fit_transitions": {
        "tags": lambda: torch.tensor([[0, 1, 1], [1, 0, 0]]),
        "lengths": lambda: torch.tensor([3, 2]),
        "num_tags": 2,
        "weight_decay": 1e-2,
    },
    "experts.graphs.parity": {"shape": 3, "odd": True},
    "experts.graphs.stack_chains": {"chains": lambda: [chain(), chain()]},
    "experts.images.BlockMean": {"shape": (4, 4), "size": 2},
    "experts.images.Blur": {
        "kernel": lambda: torch.full((3, 3), 1 / 9),
        "shape": (4, 4),
        "boundary": "cut",
    },
    "experts.images.FilterBank": {"filters": lambda: normal(2, 2, 2), "shape": (4, 4), "stride": 1},
    "experts.images.Identity": {"shape": (4, 4)},
    "experts.images.Mask": {"mask": lambda: torch.ones(4, 4)},
    "experts.images.Window": {"shape": (4, 4), "part": (2, 2), "corner": (0, 0)},
    "experts.language.Ahead": {"automaton": automaton, "log_value": lambda: _log_value()},
    "experts.language.Automaton": {
        "transitions": lambda: [[0, 1], [1, 1]],
        "classes": lambda: [0, 1, 1],
        "accepting": lambda: [False, True],
        "length": 4,
    },
    "experts.language.NextToken": {
        "net": lambda: lambda prefix: torch.zeros(len(prefix), 4),
        "vocabulary": vocabulary,
        "length": 4,
    },
    "experts.language.OverBytes": {
        "model": lambda: _next_token(),
        "vocabulary": vocabulary,
        "length": 4,
        "num_ways": 2,
    },
    "experts.language.Vocabulary": {"tokens": ("a", "b"), "ends": (), "padding": None},
    "experts.language.at_most_tokens": {"count": 2, "vocabulary": vocabulary, "length": 4},
    "experts.language.avoids": {"text": "ab", "vocabulary": vocabulary, "length": 4},
    "experts.language.contains": {"text": "ab", "vocabulary": vocabulary, "length": 4},
    "experts.language.foreseen": {
        "automaton": automaton,
        "log_frequencies": lambda: torch.zeros(4).log_softmax(-1),
    },
    "experts.language.log_after": {
        "model": sequence_model,
        "prefixes": lambda: torch.zeros(2, 1, dtype=torch.long),
    },
    "experts.language.matches": {"pattern": "(a|b)*", "vocabulary": vocabulary, "length": 4},
    "experts.language.reachable": {"automaton": automaton},
    "experts.language.token_frequencies": {
        "model": sequence_model,
        "num_samples": 5,
        "generator": generator,
    },
    "experts.neural.MultilayerPerceptron": {"shape": (2,), "hidden": (4,), "spread": 10.0},
    "experts.neural.ResidualNetwork": {
        "shape": (4, 4),
        "channels": (2, 2),
        "blocks": 1,
        "spread": 10.0,
    },
    "experts.neural.dense_vae": {"shape": (2, 2), "hidden": 4, "noises": lambda: normal(3, 2)},
    "experts.neural.jem_loss": {
        "jem": lambda: experts.JEM(OneLogit(), poe.Real(2)),
        "data": lambda: normal(4, 2),
        "labels": lambda: torch.tensor([0, 1, 0, 1]),
        "model": lambda: normal(4, 2),
        "regularization": 0.1,
    },
    "experts.neural.power_iterate": {"net": linear},
    "experts.noised.FeatureShift": {"channels": 2, "out_channels": 2, "embedding": 4},
    "experts.noised.NoiseEmbedding": {"features": 4},
    "experts.noised.ScoreModel": {
        "net": lambda: _noise_net(),
        "alphas_cumprod": lambda: (1 - torch.linspace(1e-4, 0.5, 10)).cumprod(0),
        "space": poe.Real(2),
        "prediction": "epsilon",
        "num_nodes": 4,
    },
    "experts.noised.at_noise_level": {"*expert": lambda: (noisy().given(0), 0.1)},
    "experts.noised.double": {"h": lambda: normal(1, 2, 4, 4)},
    "experts.noised.noise_ladder": {"expert": lambda: noisy().given(0), "noise_levels": (0.4,)},
    "experts.pretrained.write": {
        "expert": gaussian,
        "name": "toy",
        "card": lambda: experts.pretrained.Card("MIT", (), "text"),
        "into": folder,
    },
    "experts.spins.belief_propagation": {
        "target": ising,
        "damping": 0.5,
        "max_steps": 10,
        "tolerance": 1e-6,
    },
    "experts.spins.binary_channel": {"noisy": lambda: bits(3, 3), "flip_probability": 0.1},
    "experts.spins.graph_cut": {"target": ising},
    "experts.spins.learn_denoiser": {
        "noisy": lambda: bits(6, 6),
        "num_steps": 2,
        "num_chains": 1,
        "generator": generator,
    },
    "experts.tables.NormalScores": {
        "knots": lambda: torch.arange(4.0).reshape(1, 4).expand(2, 4),
        "scores": lambda: torch.arange(4.0).reshape(1, 4).expand(2, 4),
    },
    "experts.tables.ProductDetector": {
        "n_neighbors": 2,
        "n_components": 2,
        "contamination": 0.1,
        "random_state": 0,
    },
    "experts.tables.Standardize": {"loc": lambda: normal(2), "scale": lambda: torch.ones(2)},
}

RECORDS = {
    "poe.Advanced", "poe.Calibration", "poe.Compatibility", "poe.Doubt", "poe.Draws",
    "poe.EvidenceRatio", "poe.FittedExponents", "poe.GaussianFactor", "poe.LogDensityBounds",
    "poe.LogPartition", "poe.LogRatio", "poe.Progress", "poe.Simplified", "poe.Summary",
    "poe.samplers.AnnealedState", "poe.samplers.CheckerboardState", "poe.samplers.DelayedState",
    "poe.samplers.Info", "poe.samplers.LangevinState", "poe.samplers.MetropolisState",
    "poe.samplers.MomentumState", "poe.samplers.Noise", "poe.samplers.PreconditionedState",
    "poe.samplers.WeighedState", "poe.samplers.SurrogateState", "poe.samplers.TemperingState",
    "poe.losses.Loss", "poe.diagnostics.ExpertReport", "poe.diagnostics.Moments",
    "poe.diagnostics.SteinTest", "experts.graphs.Marginals", "experts.graphs.MostProbable",
    "experts.pretrained.Card", "experts.spins.Beliefs", "experts.spins.LearnedDenoiser",
}  # fmt: skip
"""Results: they hold what they are given."""

BASES = {
    "poe.Autoregressive", "poe.Conditional", "poe.Expert", "poe.Space", "poe.Twist",
    "experts.NoisyConditional", "experts.images.LinearOperator",
}  # fmt: skip
"""What users derive from: made of nothing by itself."""

NOT_REPLACED = {("experts.pretrained.write", "into")}
"""Whose default is the package's own folder."""

NO_ARGUMENTS = {"poe.diagnostics.import_arviz", "experts.available"}
"""Nothing can be given wrongly."""

PLUMBING = {
    "found_when_asked", "refuse", "register_on_demand", "import_adapters", "adapters_of",
}  # fmt: skip
"""What a face without ``__all__`` shows of its own making."""

MADE_OF_OTHERS = {"experts.TiledMixture", "experts.images.TileGibbs"}
"""Whose parts only their own maker knows (``TiledMixture.of``, and so on)."""


def _conditionals(expert: poe.Expert) -> Any:
    from poe.density.capabilities import conditionals

    return conditionals(expert)


def _pairs() -> Any:
    from poe.structure.pairs import spin_pairs

    return spin_pairs(experts.Ising.grid((4, 4), coupling=0.5))


def _label_pairs() -> Any:
    from poe.structure.pairs import label_pairs

    return label_pairs(potts())


def _log_value() -> Tensor:
    return experts.language.reachable(automaton()).log_value


def _next_token() -> Any:
    return experts.language.NextToken(lambda prefix: torch.zeros(len(prefix), 4), vocabulary(), 5)


class _NoiseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(()))

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        return self.weight * x


def _noise_net() -> nn.Module:
    return _NoiseNet()


def made(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a good call, made afresh."""
    return {
        name: value() if inspect.isfunction(value) and value.__module__ == __name__ else value
        for name, value in arguments.items()
    }


def split(arguments: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments, of what ``made`` gives."""
    star = next((name for name in arguments if name.startswith("*")), None)
    named = {name: value for name, value in arguments.items() if name != star}
    return (tuple(arguments[star]) if star else ()), named


def missing() -> Iterator[str]:
    """Public callables that have no line here."""
    known = {*CALLS, *RECORDS, *BASES, *NO_ARGUMENTS, *MADE_OF_OTHERS}
    yield from (name for name in public_callables() if name not in known)


# --- Methods

EVALUATIONS = (
    ".log_density", ".energy", ".score", ".log_prob", ".contributions", ".__call__",
    ".log_density_and_score", ".contains", ".contributions_along", ".double", ".as_vector",
    ".given", "poe.Given", "graphs.Chains",
    ".r_hat", ".nested_r_hat", ".ess_bulk", ".ess_tail", ".ess_mean", ".mcse_mean", ".mcse_sd",
    ".kish_ess", ".normalized_weights", ".weighted_moments",
    "log_absolute", "log_exponential", "log_softplus", "log_square",
)  # fmt: skip
"""What hands a NaN on, and says so in its docstring: what is asked at NaN answers NaN."""

ON_POINTS: dict[str, dict[str, Any]] = {
    "log_density": {}, "energy": {}, "score": {}, "log_density_and_score": {}, "log_prob": {},
}  # fmt: skip


def methods() -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Methods of what good calls make, with the arguments of a good call."""
    for name, thing in (
        ("poe.Expert", gaussian()),
        ("poe.FromLogDensity", plain()),
        ("poe.Product", product()),
        ("experts.Ising", ising()),
        ("experts.RBM", rbm()),
    ):
        event = tuple(thing.space.event_shape)
        points = {"x": bits(4, *event) if thing.space.is_discrete else normal(4, *event)}
        for method in ("log_density", "energy", "score", "log_density_and_score"):
            yield f"{name}.{method}", getattr(thing, method), points
        if hasattr(thing, "sample"):
            arguments = {"num_samples": 3, "generator": generator}
            yield f"{name}.sample", thing.sample, arguments
        if hasattr(thing, "log_prob"):
            yield f"{name}.log_prob", thing.log_prob, points
        for sign in ("__mul__", "__truediv__", "__or__"):
            yield f"{name}.{sign}", getattr(thing, sign), {"*other": (thing,)}
        yield f"{name}.__pow__", thing.__pow__, {"*exponent": (0.5,)}
        yield f"{name}.at", thing.at, {"generator": nn.Identity(), "space": thing.space}
    of_edges = {"edges": [[0, 1], [1, 2]], "couplings": 0.5, "fields": [0.1, 0.0, 0.0], "shape": 3}
    yield "experts.Ising.from_edges", experts.Ising.from_edges, of_edges
    yield "experts.Ising.grid", experts.Ising.grid, {"shape": (3, 3), "coupling": 0.5, "field": 0.1}
    yield (
        "experts.Potts.grid",
        experts.Potts.grid,
        {"shape": (3, 3), "coupling": 0.5, "num_labels": 3},
    )
    for kind in (experts.tables.Standardize, experts.tables.NormalScores):
        yield f"experts.{kind.__name__}.fitted", kind.fitted, {"rows": normal(9, 2)}
    rows = {"rows": normal(9, 3), "num_components": 1}
    yield "experts.ProbabilisticPCA.fit", experts.ProbabilisticPCA.fit, rows
    tables = {"space": poe.Binary(2), "tables": [(torch.tensor([0, 1]), normal(2, 2))]}
    yield "experts.FactorGraph.from_tables", experts.FactorGraph.from_tables, tables
    yield "poe.Product.contributions", product().contributions, {"x": normal(4, 2)}
    yield "poe.Conditional.given", labelled().given, {"condition": normal(2)}
    space = poe.Real(2)
    for method in ("contains", "require", "batch_shape", "as_vector"):
        yield f"poe.Space.{method}", getattr(space, method), {"x": normal(4, 2)}
    yield "poe.Draws.experts", draws().experts, {"target": product}
    yield "poe.Draws.to_pandas", draws().to_pandas, {"target": product}
