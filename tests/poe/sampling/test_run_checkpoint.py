"""Checkpoints: a resumed run gives the same bits, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import experts
import poe
from poe.samplers import (
    HMC,
    MALA,
    ULA,
    AnnealedLangevin,
    MetropolisHastings,
    Preconditioned,
    SplitHMC,
)
from poe.samplers.kernel import Kernel


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quiet(target: poe.Expert, num_samples: int, **arguments: object) -> poe.Draws:
    return poe.sample(target, num_samples, progress=False, **arguments)  # type: ignore[arg-type]


class Interrupted(poe.Expert):
    """A standard normal that a user interrupts at the n-th evaluation, after the noise is drawn."""

    def __init__(self, at: int | None, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__()
        self.space = poe.Real(2)
        self.at, self.error, self.calls = at, error, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return -0.5 * x.square().sum(-1)


RESUMABLE: dict[str, Callable[[poe.Expert], Kernel | None]] = {
    "MALA, tuned": lambda target: MALA(),
    "MALA": lambda target: MALA(0.5),
    "MetropolisHastings, tuned": lambda target: MetropolisHastings(),
    "ULA": lambda target: ULA(0.1),
    "AnnealedLangevin, tuned": lambda target: AnnealedLangevin(
        (target**0.1, target**0.5), steps_per_level=10
    ),
    "HMC, tuned": lambda target: HMC(num_steps=3),
    "AnnealedLangevin, its ladder by HMC": lambda target: AnnealedLangevin(
        (target**0.1, target**0.5),
        (HMC(0.5, num_steps=2), HMC(0.3, num_steps=2), MALA(0.2)),
        steps_per_level=4,
        noise_levels=(3.0, 1.4, 1.0),
    ),
    "HMC, its length chosen": lambda target: HMC(num_steps=None),
    "the default": lambda target: None,
    "SplitHMC, preconditioned": lambda target: Preconditioned(SplitHMC(num_steps=None, jitter=0.1)),
    "MALA, preconditioned": lambda target: Preconditioned(MALA()),
    "MALA with a step size, preconditioned": lambda target: Preconditioned(MALA(0.5)),
    "MetropolisHastings, preconditioned": lambda target: Preconditioned(MetropolisHastings()),
    "AnnealedLangevin, preconditioned": lambda target: AnnealedLangevin(
        (target**0.1,), Preconditioned(MALA()), steps_per_level=10
    ),
}


@pytest.mark.parametrize("per_chain", [False, True])
@pytest.mark.parametrize("at", [9, 11, 13, 17, 21, 24, 28, 43, 50])
@pytest.mark.parametrize("name", RESUMABLE)
def test_a_resumed_run_gives_the_same_bits(
    name: str, at: int, per_chain: bool, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"

    def run(target: poe.Expert, checkpoint: Path | None, seed: int = 0) -> poe.Draws:
        kernel, warmup = RESUMABLE[name](target), poe.Warmup(20, per_chain)
        return quiet(
            target, 90, kernel=kernel, num_chains=3, warmup=warmup, generator=seeded(seed),
            checkpoint=checkpoint,
        )  # fmt: skip

    whole = run(Interrupted(None), None)
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(at), path)
    assert path.exists()
    resumed = run(Interrupted(None), path)
    assert torch.equal(whole.samples, resumed.samples)
    assert torch.equal(whole.log_density, resumed.log_density)
    assert whole.acceptance_rate is not None
    assert resumed.acceptance_rate is not None
    assert torch.equal(whole.acceptance_rate, resumed.acceptance_rate)
    assert repr(whole.kernel) == repr(resumed.kernel)


def _interrupted(path: Path, at: int = 30, error: type[BaseException] = KeyboardInterrupt) -> None:
    with pytest.raises(error):
        quiet(
            Interrupted(at, error), 90, kernel=MALA(), warmup=20, generator=seeded(),
            checkpoint=path,
        )  # fmt: skip


def _resume(path: Path, **changes: object) -> poe.Draws:
    arguments: dict[str, object] = {"kernel": MALA(), "warmup": 20, "generator": seeded()}
    target = changes.pop("target", Interrupted(None))
    num_samples = changes.pop("num_samples", 90)
    return quiet(target, num_samples, checkpoint=path, **{**arguments, **changes})  # type: ignore[arg-type]


def test_interrupted_twice_and_by_an_error(tmp_path: Path) -> None:
    path = tmp_path / "run"
    _interrupted(path, 60, RuntimeError)  # while sampling: far out, errors are no evidence
    with pytest.raises(KeyboardInterrupt):
        _resume(path, target=Interrupted(9))
    whole = _resume(tmp_path / "other")
    assert torch.equal(_resume(path).samples, whole.samples)
    assert list(tmp_path.iterdir()) == sorted(tmp_path.iterdir())
    assert {file.name for file in tmp_path.iterdir()} == {"run", "other"}  # no temporary is left


def test_a_finished_run_is_read_back(tmp_path: Path) -> None:
    first = _resume(tmp_path / "run")
    target = Interrupted(None)
    again = _resume(tmp_path / "run", target=target)
    assert torch.equal(first.samples, again.samples)
    assert target.calls < 7  # nothing was sampled anew


def test_a_run_without_a_generator_resumes_too(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        quiet(Interrupted(60), 90, kernel=MALA(), warmup=20, checkpoint=tmp_path / "run")
    with safe_open(tmp_path / "run", framework="pt") as file:
        position = file.get_tensor("position")
    resumed = quiet(Interrupted(None), 90, kernel=MALA(), warmup=20, checkpoint=tmp_path / "run")
    assert any(torch.equal(position, x) for x in resumed.samples.unbind(1))


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": MALA(0.5)},
        {"warmup": 21},
        {"num_samples": 91},
        {"num_chains": 5},
        {"initial": torch.zeros(4, 2)},
        {"collect": torch.Tensor.double},
        {"generator": seeded(1)},
        {"target": poe.FromLogDensity(lambda x: -0.5 * x.square().sum(-1), space=poe.Real(2))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_checkpoint_of_another_run_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    _interrupted(tmp_path / "run")
    before = (tmp_path / "run").read_bytes()
    with pytest.raises(poe.StorageError, match="of another"):
        _resume(tmp_path / "run", **changes)
    assert (tmp_path / "run").read_bytes() == before  # refused, and left as it was


def test_a_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    def run(scale: float, at: int | None) -> None:
        target = experts.Gaussian([0.0, 0.0], scale=[scale, 1.0]) * Interrupted(at)
        _resume(tmp_path / "run", target=target)

    with pytest.raises(KeyboardInterrupt):
        run(1.0, 30)
    with pytest.raises(poe.StorageError, match="of another"):
        run(2.0, None)


def test_a_checkpoint_of_a_function_that_says_something_else_is_refused(tmp_path: Path) -> None:
    """A function prints no weights, so its log-density at the stored positions is compared."""
    path, calls = tmp_path / "run", 0

    def first(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise KeyboardInterrupt
        return -0.5 * x.square().sum(-1)

    with pytest.raises(KeyboardInterrupt):
        _resume(path, target=poe.FromLogDensity(first, space=poe.Real(2)))
    other = poe.FromLogDensity(lambda x: -0.7 * x.square().sum(-1), space=poe.Real(2))
    with pytest.raises(poe.StorageError, match="of this target, got one of another"):
        _resume(path, target=other)


def test_a_tampered_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    _interrupted(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    tensors["position"][0, 0] += 1e-3
    save_file(tensors, path, metadata=header)
    with pytest.raises(poe.StorageError, match="altered"):
        _resume(path)


def test_altered_facts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    _interrupted(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    header["facts"] = header["facts"].replace('"step": 1', '"step": 2')
    save_file(load_file(path), path, metadata={**header, "facts": header["facts"] + " "})
    with pytest.raises(poe.StorageError, match="altered"):
        _resume(path)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_checkpoint_is_refused(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "run"
    _interrupted(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(poe.StorageError, match="cannot be read"):
        _resume(path)
