"""How often ``poe.sample`` is right, and whether what is wrong says so; NumPyro's NUTS beside.

    python benchmarks/trust_sampling.py                    # 23 targets x 5 seeds
    python benchmarks/trust_sampling.py --fast             # ours on six of them, one seed
    python benchmarks/trust_sampling.py arma funnel --no-peers
    python benchmarks/trust_sampling.py --references       # make posteriors.json anew

Right: every mean and every sd of what a target reads within four joint standard errors of the
reference's, and R-hat below 1.01 (many short chains joined end to end to 20). A remark: a run that
is not trusted, or says anything; of NUTS a divergent step, an R-hat above 1.01 or an ESS below 400.
Silent is wrong without a remark. Gradients (one row of a batch is one) and seconds are those to an
ESS of 400, warm-up included, in the median of the seeds, of which the first one compiles NUTS: of
the worst statistic, of x and (x - mean)^2.

References are exact draws, or a long run of NUTS on the easier of two parametrisations.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import numpy as np
import torch
from posteriors import FAST, POSTERIORS, Posterior

import experts
import poe

REFERENCES = Path(__file__).with_name("posteriors.json")
KINDS = ("right", "right, remark", "wrong, remark", "silent", "raised")
NUM_SAMPLES = 20_000
PEER_CHAINS = 4
FAR = 4.0
Reference = dict[str, list[float]]


class Outcome(NamedTuple):
    """One run: of what kind, and what an ESS of 400 cost."""

    kind: str
    z: float = math.nan
    r_hat: float = math.nan
    ess: float = math.nan
    gradients: float = math.nan
    seconds: float = math.nan


class Run(NamedTuple):
    """Draws ``(chains, draws, statistics)``, whether they come with a remark, and their cost."""

    samples: torch.Tensor
    is_remarked: bool
    warmup_gradients: float
    gradients: float
    warmup_seconds: float
    seconds: float


# --- Ours


class First(torch.nn.Module):
    """The first coordinates, which a prior is read at."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        return u[..., : self.count]


def target(posterior: Posterior) -> poe.Expert:
    """The posterior as a product of experts."""
    space = poe.Real(posterior.dimension)
    likelihood = poe.FromLogDensity(lambda u: posterior.likelihood(torch, u), space=space)
    if not posterior.prior:
        return likelihood
    loc, scale = zip(*posterior.prior, strict=True)
    prior = experts.Gaussian(list(loc), scale=list(scale))
    count = len(posterior.prior)
    part = prior if count == posterior.dimension else prior.at(First(count), space)
    return poe.Product(prior=part, likelihood=likelihood)


def ours(posterior: Posterior, seed: int) -> Run:
    """Plain ``poe.sample``."""
    generator = torch.Generator().manual_seed(seed)
    draws = poe.sample(target(posterior), NUM_SAMPLES, generator=generator, progress=False)
    chains = len(draws.samples)
    return Run(
        posterior.read(torch, draws.samples),
        bool(draws.remarks),
        draws.warmup_gradients * chains,
        draws.num_gradients * chains,
        draws.seconds - draws.sampling_seconds,
        draws.sampling_seconds,
    )


# --- NumPyro


def potential(posterior: Posterior) -> Callable[[Any], Any]:
    """Minus the log-density, in jax."""
    import jax.numpy as jnp

    loc, scale = np.array(posterior.prior or [(0.0, 1.0)]).T

    def energy(u: Any) -> Any:
        z = (u[: len(loc)] - loc) / scale
        prior = 0.5 * (z * z).sum() if posterior.prior else 0.0
        return prior - posterior.likelihood(jnp, u)

    return energy


def peer(
    posterior: Posterior,
    num_draws: int,
    num_warmup: int = 1000,
    accept: float = 0.8,
    spread: float = 2.0,
) -> Callable[..., Run]:
    """NUTS, of four chains and else at its defaults; to be called with a seed."""
    import jax
    from numpyro.infer import MCMC, NUTS

    jax.config.update("jax_enable_x64", True)
    kernel = NUTS(potential_fn=potential(posterior), target_accept_prob=accept)
    run = MCMC(
        kernel,
        num_warmup=num_warmup,
        num_samples=num_draws,
        num_chains=PEER_CHAINS,
        chain_method="sequential",
        progress_bar=False,
    )

    def sampled(seed: int) -> Run:
        key, start = jax.random.split(jax.random.PRNGKey(seed))
        shape = (PEER_CHAINS, posterior.dimension)
        u = jax.random.uniform(start, shape, minval=-spread, maxval=spread)
        began = time.perf_counter()
        run.warmup(key, init_params=u, extra_fields=("num_steps",), collect_warmup=True)
        warmup_gradients = float(run.get_extra_fields()["num_steps"].sum())
        middle = time.perf_counter()
        run.run(key, extra_fields=("num_steps", "diverging"))
        x = torch.from_numpy(np.array(run.get_samples(group_by_chain=True)))
        ended = time.perf_counter()
        fields = run.get_extra_fields()
        read = posterior.read(torch, x)
        r_hat, ess = poe.diagnostics.r_hat(read).max().item(), least_ess(read)
        return Run(
            read,
            bool(fields["diverging"].any()) or not (r_hat <= 1.01 and ess >= 400),
            warmup_gradients,
            float(fields["num_steps"].sum()),
            middle - began,
            ended - middle,
        )

    return sampled


# --- The truth


def make_references(names: Sequence[str]) -> None:
    """Write the moments of all, or some, to the file, a line for each."""
    known = json.loads(REFERENCES.read_text()) if REFERENCES.exists() else {}
    for name in names:
        easier = POSTERIORS[name]().easier
        same = None if easier is None else known.get(easier.__name__)
        known[name] = same or reference(POSTERIORS[name]())
        worst = max(known[name]["mcse_mean"][k] / sd for k, sd in enumerate(known[name]["sd"]))
        print(f"{name}: standard errors of means at most {worst:.4f} sds", flush=True)
        lines = (
            f"{json.dumps(key)}: {json.dumps(known[key])}" for key in POSTERIORS if key in known
        )
        REFERENCES.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def reference(posterior: Posterior) -> Reference:
    """Means, sds and their errors: of exact draws, or of a long run of NUTS."""
    if posterior.exact is not None:
        draws = posterior.exact(np.random.default_rng(0), 2_000_000)
        x = posterior.read(torch, torch.from_numpy(draws))[None]
        square = (x - x.mean(1)).square()
        mcse_mean = square.mean((0, 1)).sqrt() / len(draws) ** 0.5
        mcse_sd = square.flatten(0, 1).std(0) / len(draws) ** 0.5 / (2 * square.mean((0, 1)).sqrt())
    else:
        easy = posterior if posterior.easier is None else posterior.easier()
        run = peer(easy, 5000, 1500, 0.9, spread=0.1)(0)
        r_hat = poe.diagnostics.r_hat(run.samples).max().item()
        print(f"R-hat {r_hat:.4f}, ESS {least_ess(run.samples):.0f}; ", end="")
        x = run.samples
        mcse_mean, mcse_sd = poe.diagnostics.mcse_mean(x), poe.diagnostics.mcse_sd(x)
    found = {"mean": x.mean((0, 1)), "sd": x.flatten(0, 1).std(0)}
    found |= {"mcse_mean": mcse_mean, "mcse_sd": mcse_sd}
    return {key: [float(f"{v:.9g}") for v in value.tolist()] for key, value in found.items()}


def joined(chains: torch.Tensor) -> torch.Tensor:
    """Many short chains as at most 20 long ones, end to end."""
    rows = min(len(chains), 20)
    draws = chains.flatten(0, 1)
    return draws[: len(draws) // rows * rows].unflatten(0, (rows, -1))


def least_ess(x: torch.Tensor) -> float:
    """The smallest bulk ESS of all statistics and of their squares."""
    both = torch.cat([x, (x - x.mean((0, 1))).square()], -1)
    return poe.diagnostics.ess_bulk(both).nan_to_num(0.0).min().item()


def judged(run: Run, known: Reference) -> Outcome:
    """Whether a run is right, by the reference's moments."""
    x, true = run.samples, {key: torch.tensor(value) for key, value in known.items()}
    errors = [
        (x.mean((0, 1)) - true["mean"])
        / torch.hypot(poe.diagnostics.mcse_mean(x), true["mcse_mean"]),
        (x.flatten(0, 1).std(0) - true["sd"])
        / torch.hypot(poe.diagnostics.mcse_sd(x), true["mcse_sd"]),
    ]
    z = torch.cat(errors).abs().nan_to_num(math.inf, posinf=math.inf).max().item()
    r_hat = poe.diagnostics.r_hat(joined(x)).nan_to_num(math.inf, posinf=math.inf).max().item()
    is_right, ess = z < FAR and r_hat < 1.01, max(least_ess(x), 1.0)
    kind = KINDS[(0 if is_right else 2) + (run.is_remarked if is_right else not run.is_remarked)]
    share = 400 / ess
    return Outcome(
        kind,
        z,
        r_hat,
        ess,
        run.warmup_gradients + share * run.gradients,
        run.warmup_seconds + share * run.seconds,
    )


# --- The table


def outcome(sampled: Callable[[int], Run], seed: int, known: Reference) -> Outcome:
    """One run, which may raise."""
    try:
        return judged(sampled(seed), known)
    except Exception as error:
        print(f"  raised {type(error).__name__}: {str(error)[:100]}", flush=True)
        return Outcome("raised")


def header() -> str:
    """The table's first line."""
    counts = "".join(f"{kind:>15}" for kind in KINDS)
    return f"{'':<34}{counts}{'|z|':>8}{'R-hat':>8}{'ESS':>8}{'gradients':>11}{'s':>8}"


def line(name: str, found: Sequence[Outcome]) -> str:
    """One line: counts, the worst |z| and R-hat, mean ESS, and the medians of what 400 cost."""
    counts = "".join(f"{sum(one.kind == kind for one in found):>15}" for kind in KINDS)
    done = [one for one in found if one.kind != "raised"]
    if not done:
        return f"{name:<34}{counts}"
    z, r_hat = max(one.z for one in done), max(one.r_hat for one in done)
    figures = f"{z:>8.1f}{r_hat:>8.3f}{mean(one.ess for one in done):>8.0f}"
    costs = f"{median(o.gradients for o in done):>11.3g}{median(o.seconds for o in done):>8.2f}"
    return f"{name:<34}{counts}{figures}{costs}"


def table(names: Sequence[str], seeds: Sequence[int], with_peers: bool) -> Iterator[str]:
    """The lines of all targets, ours and the peer's in turn, and those of the whole."""
    known = json.loads(REFERENCES.read_text())
    everything: dict[str, list[Outcome]] = {}
    yield header()
    for name in names:
        posterior = POSTERIORS[name]()
        engines = {"poe.sample": lambda seed, p=posterior: ours(p, seed)}
        if with_peers:
            engines["NUTS"] = peer(posterior, NUM_SAMPLES // PEER_CHAINS)
        for engine, sampled in engines.items():
            found = [outcome(sampled, seed, known[name]) for seed in seeds]
            everything.setdefault(engine, []).extend(found)
            yield line(f"{name}: {engine}", found)
    for engine, found in everything.items():
        yield line(f"all {len(found)}: {engine}", found)


def show(
    seeds: int,
    is_fast: bool = False,
    names: Sequence[str] = (),
    with_peers: bool = True,
    first: int = 0,
) -> None:
    """Print the table."""
    warnings.simplefilter("ignore", poe.TrustWarning)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    chosen = names or (FAST if is_fast else tuple(POSTERIORS))
    for said in table(chosen, range(first, first + (1 if is_fast else seeds)), with_peers):
        print(said, flush=True)
    torch.set_default_dtype(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(POSTERIORS)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--fast", action="store_true", help="ours on six targets, one seed")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--references", action="store_true", help="make posteriors.json anew")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(POSTERIORS):
        parser.error(f"expected targets of {', '.join(POSTERIORS)}, got {', '.join(unknown)}")
    torch.set_num_threads(1)
    if arguments.references:
        torch.set_default_dtype(torch.float64)
        make_references(arguments.names or tuple(POSTERIORS))
        return
    with_peers = not (arguments.no_peers or arguments.fast)
    show(arguments.seeds, arguments.fast, arguments.names, with_peers, arguments.first)


if __name__ == "__main__":
    main()
