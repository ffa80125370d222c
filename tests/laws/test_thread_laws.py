"""Every entry point in several threads at once gives the bits that it gives alone.

Each thread has a generator of its own; the experts are shared. A bystander draws from the global
generator meanwhile: neither disturbs the other. A new entry point enters by one line.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, distributions as D

import experts
import poe

NUM_THREADS = 3
Run = Callable[[torch.Generator], Tensor]

gammas = poe.as_expert(D.Independent(D.Gamma(torch.full((3,), 2.0), torch.ones(3)), 1))
dirichlet = poe.as_expert(D.Dirichlet(torch.tensor([0.5, 2.0, 3.0])))
mixed = gammas | poe.as_expert(D.Independent(D.LogNormal(torch.zeros(3), torch.ones(3)), 1))
angles = experts.VonMises([0.3, -3.0], [0.5, 4.0])
rows = torch.arange(20.0).reshape(10, 2) / 10
kernel_density = experts.KernelDensity(rows, 0.5, "epanechnikov")
quartic = poe.FromEnergy(lambda x: x.pow(4).sum(-1), space=poe.Real(2))
product = quartic * experts.Gaussian([0.0, 1.0], scale=1.0)
gaussian = experts.Gaussian([0.0, 1.0, 0.0, 1.0], scale=1.0)
four = poe.FromEnergy(lambda x: x.pow(4).sum(-1), space=poe.Real(4)) * gaussian
rbm = experts.RBM(torch.tensor([[0.7, -0.3], [0.2, 1.0], [-1.0, 0.5]]), [0.1, 0.2, 0.3], [0.0, 0.1])
ising = experts.Ising([[0.0, -1.0], [-1.0, 0.0]], [0.5, 0.0])
spins = rbm * poe.FromLogDensity(lambda x: x[..., 0] * x[..., 1], space=poe.Binary(3))


def _sample(target: poe.Expert, **settings: object) -> Run:
    return lambda g: poe.sample(target, 400, generator=g, progress=False, **settings).samples  # type: ignore[arg-type]


RUNS: dict[str, Run] = {
    "sample, exact": lambda g: poe.sample(gammas, 40_000, generator=g, progress=False).samples,
    "sample, exact on the simplex": _sample(dirichlet),
    "sample, an exact mixture": _sample(mixed),
    "sample, exact on angles": _sample(angles),
    "sample, exact of a kernel density": _sample(kernel_density),
    "sample": _sample(product, warmup=20),
    "sample, started at draws of a factor": _sample(gammas * gammas**0.5, warmup=20),
    "sample, MALA": _sample(product, kernel=poe.samplers.MALA(0.1), warmup=20),
    "sample, a shared RBM": _sample(rbm**2 * rbm**0.5, warmup=20),
    "sample, discrete": _sample(spins, warmup=20),
    "smc": lambda g: poe.smc(product, 640, generator=g, progress=False).samples,
    "short_run": lambda g: poe.short_run(quartic, torch.ones(9, 2), 20, 0.1, generator=g).samples,
    "log_partition": lambda g: (
        poe.log_partition(four, method=poe.normalizers.MBAR(256), generator=g, progress=False).value
    ),
    "AIS": lambda g: (
        poe.log_partition(spins, method=poe.normalizers.AIS(50), generator=g, progress=False).value
    ),
    "simulated_annealing": lambda g: poe.simulated_annealing(
        ising, schedule=(0.5, 1.0, 2.0), generator=g
    ),
}


def _together(run: Run) -> list[Tensor]:
    """What each thread gets where all begin at once."""
    results: dict[int, Tensor] = {}
    barrier = threading.Barrier(NUM_THREADS)

    def work(seed: int) -> None:
        barrier.wait()
        results[seed] = run(torch.Generator().manual_seed(seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[seed] for seed in range(NUM_THREADS)]


SLOW = {"log_partition"}
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in RUNS]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_threads_get_what_they_get_alone(name: str) -> None:
    alone = [RUNS[name](torch.Generator().manual_seed(seed)) for seed in range(NUM_THREADS)]
    for one, other in zip(alone, _together(RUNS[name]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_a_bystander_is_not_disturbed(name: str) -> None:
    """It draws from the global generator in one thread, while another runs."""
    is_over, drawn = threading.Event(), []

    def draw() -> None:
        while len(drawn) < 50 or not is_over.is_set():
            drawn.append(torch.rand(()))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bystander = threading.Thread(target=draw)
        bystander.start()
        try:
            found = RUNS[name](torch.Generator().manual_seed(0))
        finally:
            is_over.set()
            bystander.join()
        torch.manual_seed(0)
        expected = [torch.rand(()) for _ in drawn]
    assert torch.equal(torch.stack(drawn), torch.stack(expected))
    assert torch.equal(found, RUNS[name](torch.Generator().manual_seed(0)))
