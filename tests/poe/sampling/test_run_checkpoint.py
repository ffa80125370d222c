"""Checkpoints: a resumed run gives the same bits, and what does not fit is refused."""

from __future__ import annotations

import functools
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from queue import Queue

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, distributions as D, nn

import experts
import poe
from experts.boltzmann.training import fit_rbm
from poe.core.doubt import Kind, kinds
from poe.files import tensor_file
from poe.files.tensor_file import read, write
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
    """A standard normal that a user interrupts at the n-th evaluation, after the noise is drawn.

    It is the same target whenever that is: what counts down changes, and a queue tells nothing.
    """

    def __init__(self, at: int | None, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__()
        self.space = poe.Real(2)
        self.left, self.calls = math.inf if at is None else at, 0
        self.errors: Queue[type[BaseException]] = Queue()
        self.errors.put(error)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:  # where its score is tried, before the run
            return -0.5 * x.square().sum(-1)
        self.calls += 1
        self.left -= 1
        if self.left == 0:
            raise self.errors.get()
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


PATHS = {"the default": 20}
"""So many evaluations more before there is a run to be kept."""


@pytest.mark.parametrize("per_chain", [False, True])
@pytest.mark.parametrize("at", [17, 18, 19, 21, 25, 28, 32, 43, 50])
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
        run(Interrupted(at + PATHS.get(name, 0)), path)
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
        _resume(path, target=Interrupted(15))
    whole = _resume(tmp_path / "other")
    assert torch.equal(_resume(path).samples, whole.samples)
    assert list(tmp_path.iterdir()) == sorted(tmp_path.iterdir())
    assert {file.name for file in tmp_path.iterdir()} == {"run", "other"}  # no temporary is left


def test_a_finished_run_is_read_back(tmp_path: Path) -> None:
    first = _resume(tmp_path / "run")
    target = Interrupted(None)
    again = _resume(tmp_path / "run", target=target)
    assert torch.equal(first.samples, again.samples)
    assert target.calls < 20  # nothing was sampled anew


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


class Stopped(Exception):
    """Stands for the interruption."""


def stop(progress: poe.Progress) -> None:
    if progress.step >= 30:
        raise Stopped


def _stopped(path: Path, target: poe.Expert, **changes: object) -> None:
    with pytest.raises(Stopped):
        _resume(path, target=target, callback=stop, **changes)


BOUND = 1.25


class Bounded(poe.Expert):
    """Cut off at a bound that is told by nothing but an attribute."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.space, self.bound = poe.Real(2), bound

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[..., 0] > self.bound, -torch.inf, -0.5 * x.square().sum(-1))


def of(fn: Callable[[Tensor], Tensor]) -> poe.Expert:
    return poe.FromLogDensity(fn, space=poe.Real(2))


def cut_at(bound: float) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.where(x[..., 0] > bound, -torch.inf, -0.5 * x.square().sum(-1))


def by_default(x: Tensor, power: float = 2.0) -> Tensor:
    return -0.5 * x.abs().pow(power).sum(-1)


def nested(bound: float) -> Callable[[Tensor], Tensor]:
    return lambda x: (lambda y: cut_at(bound)(y))(x)


class Called:
    def __init__(self, bound: float) -> None:
        self.bounds = {"x": [bound]}

    def __call__(self, x: Tensor) -> Tensor:
        return cut_at(self.bounds["x"][0])(x)

    def log_density(self, x: Tensor) -> Tensor:
        return self(x)


AGREE: dict[str, tuple[poe.Expert, poe.Expert]] = {
    "code": (of(lambda x: -0.5 * x.square().sum(-1)), of(cut_at(50.0))),
    "closure": (of(cut_at(40.0)), of(cut_at(50.0))),
    "tensor in a closure": (of(cut_at(torch.tensor(40.0))), of(cut_at(torch.tensor(50.0)))),  # type: ignore[arg-type]
    "inner functions": (of(nested(40.0)), of(nested(50.0))),
    "partial": (
        of(functools.partial(by_default, power=2.0)),
        of(functools.partial(by_default, power=2.0000001)),
    ),
    "callable": (of(Called(40.0)), of(Called(50.0))),
    "method": (of(Called(40.0).log_density), of(Called(50.0).log_density)),
    "attribute": (Bounded(40.0), Bounded(50.0)),
    "a map": (
        of(cut_at(40.0)).at(nn.Hardtanh(-60.0, 60.0), poe.Real(2)),
        of(cut_at(40.0)).at(nn.Hardtanh(-70.0, 60.0), poe.Real(2)),
    ),
    "a kind": (Bounded(40.0), of(cut_at(40.0))),
}  # fmt: skip
"""Targets that agree wherever the chains go."""


@pytest.mark.parametrize("name", AGREE)
def test_targets_that_agree_where_the_chains_are_are_told_apart(name: str, tmp_path: Path) -> None:
    first, other = AGREE[name]
    path = tmp_path / "run"
    _stopped(path, first)
    before = path.read_bytes()
    with pytest.raises(poe.StorageError, match=r"of another run, which differs in target"):
        _resume(path, target=other)
    assert path.read_bytes() == before
    _resume(path, target=first)


def test_a_global_that_a_function_reads_is_a_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = of(lambda x: cut_at(40 * BOUND)(x))
    _stopped(tmp_path / "run", target)
    monkeypatch.setitem(globals(), "BOUND", 1.5)
    with pytest.raises(poe.StorageError, match=r"which differs in target.fn.BOUND"):
        _resume(tmp_path / "run", target=target)


COLLECTS: tuple[Callable[[Tensor], Tensor] | None, ...] = (
    None, torch.Tensor.double, lambda x: x, lambda x: x**2, lambda x: x**2 + 0,
    lambda x: x.clamp(max=40.0), lambda x: x.clamp(max=50.0),
)  # fmt: skip


def test_another_collect_is_refused(tmp_path: Path) -> None:
    for index, first in enumerate(COLLECTS):
        path = tmp_path / str(index)
        _stopped(path, Interrupted(None), collect=first)
        for other in COLLECTS:
            if other is not first:
                with pytest.raises(poe.StorageError, match="which differs in collect"):
                    _resume(path, collect=other)
        _resume(path, collect=first)


def test_a_function_that_cannot_be_looked_into_is_told_by_what_it_says(tmp_path: Path) -> None:
    """By a queue, which is no part of a function: it stands for a file that is read, say."""
    powers: Queue[float] = Queue()

    def log_density(x: Tensor) -> Tensor:
        power = powers.get()
        powers.put(power)
        return -0.5 * x.abs().pow(power).sum(-1)

    powers.put(2.0)
    _stopped(tmp_path / "run", of(log_density))
    powers.get()
    powers.put(2.1)
    with pytest.raises(poe.StorageError, match="what target says at the recorded points"):
        _resume(tmp_path / "run", target=of(log_density))


def test_a_generator_that_is_further_on_is_another(tmp_path: Path) -> None:
    generator = seeded()
    first = _resume(tmp_path / "run", generator=generator)
    with pytest.raises(poe.StorageError, match="differs in the state of the generator"):
        _resume(tmp_path / "run", generator=generator)
    assert torch.equal(_resume(tmp_path / "run", generator=seeded()).samples, first.samples)


def test_a_finished_run_without_a_generator_is_not_handed_back_as_a_new_one(
    tmp_path: Path,
) -> None:
    first = _resume(tmp_path / "run", generator=None)
    with pytest.raises(poe.StorageError, match=rf"is finished: .*manual_seed\({first.seed}\)"):
        _resume(tmp_path / "run", generator=None)
    assert first.seed is not None
    again = _resume(tmp_path / "run", generator=seeded(first.seed))
    assert torch.equal(first.samples, again.samples)


def test_a_run_without_a_generator_keeps_the_seed_that_it_began_with(tmp_path: Path) -> None:
    _stopped(tmp_path / "run", Interrupted(None), generator=None)
    _stopped(tmp_path / "run", Interrupted(None), generator=None)
    resumed = _resume(tmp_path / "run", generator=None)
    facts, _ = read(tmp_path / "run")
    seed = facts["start"]["seed"]
    whole = _resume(tmp_path / "other", generator=seeded(seed))
    assert torch.equal(resumed.samples, whole.samples)
    with pytest.raises(poe.StorageError, match=rf"is finished: .*manual_seed\({seed}\)"):
        _resume(tmp_path / "run", generator=None)


class Noisy(poe.Expert):
    """A random energy, which an uncorrected kernel takes."""

    def __init__(self) -> None:
        super().__init__()
        self.space, self.generator = poe.Real(2), seeded()

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape[:-1], generator=self.generator)
        return -0.5 * x.square().sum(-1) + 0.01 * noise


def test_a_run_of_a_random_energy_goes_on(tmp_path: Path) -> None:
    _stopped(tmp_path / "run", Noisy(), kernel=ULA(0.05))
    _resume(tmp_path / "run", target=Noisy(), kernel=ULA(0.05))


def test_two_runs_on_one_path_are_not_mixed(tmp_path: Path) -> None:
    """The second begins while the first is on its way, and keeps itself there too."""
    path, inner = tmp_path / "run", []

    def begin_another(progress: poe.Progress) -> None:
        if not inner:
            path.unlink()  # it looked before the first had written
            inner.append(_resume(path, generator=seeded(1)))

    with pytest.warns(poe.TrustWarning, match="was begun beside it"):
        first = _resume(path, callback=begin_another)
    assert torch.equal(first.samples, _resume(tmp_path / "other").samples)
    assert torch.equal(_resume(path, generator=seeded(1)).samples, inner[0].samples)


def test_what_a_function_changes_itself_tells_nothing(tmp_path: Path) -> None:
    """Counters and caches: a run goes on in the same session, where they stand elsewhere."""
    seen: dict[str, int] = {}

    def log_density(x: Tensor) -> Tensor:
        seen["calls"] = seen.get("calls", 0) + 1
        log_density.last = x  # type: ignore[attr-defined]
        return -0.5 * x.square().sum(-1)

    whole = _resume(tmp_path / "other", target=of(log_density))
    _stopped(tmp_path / "run", of(log_density))
    assert torch.equal(_resume(tmp_path / "run", target=of(log_density)).samples, whole.samples)


SCRIPT = """
import sys, torch, poe
scale = 0.5
class Reader:
    def __init__(self, names): self.names, self.table = frozenset(names), {"a": {1, 2, 3}}
    def __call__(self, x): return -scale * x.square().sum(-1) * (len(self.names) > 1)
def stop(progress):
    if sys.argv[2] == "stop" and progress.step >= 30: raise KeyboardInterrupt
target = poe.FromLogDensity(Reader(["first", "second", "third"]), space=poe.Real(2))
draws = poe.sample(
    target, 90, kernel=poe.samplers.MALA(), warmup=20, progress=False, callback=stop,
    generator=torch.Generator().manual_seed(0), checkpoint=sys.argv[1], collect=lambda x: x * 1,
)
print(draws.samples.double().sum().item())
"""


@pytest.mark.process
def test_another_process_goes_on_from_it(tmp_path: Path) -> None:
    def run(path: str, how: str, seed: str) -> subprocess.CompletedProcess[str]:
        root = str(Path(poe.__file__).parents[1])
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root}
        words = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path / path), how]
        return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)

    assert "KeyboardInterrupt" in run("run", "stop", "1").stderr
    resumed, whole = run("run", "", "2"), run("other", "", "3")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == whole.stdout != ""


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


# A file is not the user's, and draws are not lost with it


@pytest.mark.parametrize("content", [b"precious", b"", b"\x89PNG\r\n", b"{}"])
def test_another_file_is_refused_and_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_bytes(content)
    with pytest.raises(poe.StorageError, match=r"thesis\.txt"):
        _resume(path)
    assert path.read_bytes() == content
    beside = tmp_path / "run.tempering"
    beside.write_bytes(b"precious")
    with pytest.raises(poe.StorageError, match=r"run\.tempering"):
        _resume(tmp_path / "run")
    assert beside.read_bytes() == b"precious"


def test_draws_and_training_are_no_run(tmp_path: Path) -> None:
    poe.save_draws(_resume(tmp_path / "one"), tmp_path / "draws")
    bits = torch.ones(4, 2)
    fit_rbm(bits, 1, num_epochs=1, checkpoint=tmp_path / "training", progress=False)
    for name in ("draws", "training"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(poe.StorageError, match="another file of this package"):
            _resume(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_a_place_where_nothing_can_be_written_is_found_before_the_run(tmp_path: Path) -> None:
    target = Interrupted(None)
    for path in (tmp_path, tmp_path / "no" / "run", Path("/dev/null"), Path("/proc/run")):
        with pytest.raises(poe.StorageError):
            _resume(path, target=target)
    assert target.calls == 0


def _fails(kind: type[Exception]) -> Callable[..., None]:
    def write(*_: object) -> None:
        raise kind("No space left on device")

    return write


@pytest.mark.parametrize("error", [OSError, RuntimeError, MemoryError, poe.StorageError])
def test_draws_are_not_lost_with_the_checkpoint(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _resume(tmp_path / "other")
    after: list[poe.Progress] = []

    def fill_the_disk(progress: poe.Progress) -> None:
        after.append(progress)
        monkeypatch.setattr(tensor_file, "write_bytes", _fails(error))

    with pytest.warns(poe.TrustWarning, match="could not be written") as told:
        draws = _resume(tmp_path / "run", callback=fill_the_disk)
    assert torch.equal(draws.samples, whole.samples)
    assert len([one for one in told if "could not be written" in str(one.message)]) == 1
    assert "No space left on device" in str(told[-1].message)
    assert Kind.NOT_KEPT in kinds(draws.doubts)
    monkeypatch.undo()
    again = _resume(tmp_path / "run")  # from the last moment that was kept
    assert torch.equal(again.samples, whole.samples)
    assert Kind.NOT_KEPT not in kinds(again.doubts)


def test_a_folder_that_vanishes_takes_no_draws_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    def vanish(progress: poe.Progress) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    with pytest.warns(poe.TrustWarning, match="could not be written"):
        draws = _resume(folder / "run", callback=vanish)
    assert torch.equal(draws.samples, _resume(tmp_path / "other").samples)


def test_an_interrupt_is_not_hidden_by_a_checkpoint_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(progress: poe.Progress) -> None:
        monkeypatch.setattr(tensor_file, "write_bytes", _fails(OSError))
        raise KeyboardInterrupt

    with (
        pytest.warns(poe.TrustWarning, match="could not be written"),
        pytest.raises(KeyboardInterrupt),
    ):
        _resume(tmp_path / "run", callback=interrupt)


def test_a_target_with_a_broadcast_buffer_is_kept(tmp_path: Path) -> None:
    laplace = poe.as_expert(D.Independent(D.Laplace(torch.tensor([0.0]), 1.0), 1))
    target = laplace * poe.FromLogDensity(lambda x: -x.square().sum(-1), space=poe.Real(1))
    _stopped(tmp_path / "run", target)
    whole = _resume(tmp_path / "other", target=target)
    assert torch.equal(_resume(tmp_path / "run", target=target).samples, whole.samples)


# A file may say anything


def test_no_checkpoint_that_is_changed_or_cut_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    _interrupted(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x09]) + whole[place + 1 :])
        with pytest.raises(poe.StorageError, match="run"):
            _resume(path)
        path.write_bytes(whole[:place])
        with pytest.raises(poe.StorageError, match="run"):
            _resume(path)


def test_a_checkpoint_that_is_sealed_anew_and_says_nonsense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    _interrupted(path)
    facts, tensors = read(path)
    for name in facts.keys() - {"format"}:
        for value in (None, "no", {}, [None, None], -1):
            if (name, value) not in (("seconds_in_all", -1), ("parts", {})):
                write(path, {**facts, name: value}, tensors)
                _refuses(path)
        write(path, {k: v for k, v in facts.items() if k != name}, tensors)
        _refuses(path)
    for name in tensors:
        like = tensors[name].to(torch.complex64)
        others = (torch.zeros(7), torch.zeros(0), torch.zeros(2, 2, 2, dtype=torch.int64), like)
        for other in others:
            write(path, facts, {**tensors, name: other})
            _refuses(path)
        write(path, facts, {k: v for k, v in tensors.items() if k != name})
        _refuses(path)


def test_a_checkpoint_that_is_sealed_anew_and_counts_otherwise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    _interrupted(path)
    facts, tensors = read(path)
    for name, value in (("num_steps", facts["num_steps"] + 1), ("is_finished", True)):
        write(path, {**facts, name: value}, tensors)
        _refuses(path)
    for name, other in (
        ("tally.0", tensors["tally.0"].float()),
        ("tally.1", tensors["tally.1"] - 1000),
        ("learned.0.0", torch.full_like(tensors["learned.0.0"], math.nan)),
        ("state.0", tensors["state.0"].double()),
    ):
        write(path, facts, {**tensors, name: other})
        _refuses(path)


def test_a_checkpoint_stays_where_it_is_while_a_callback_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    _resume(Path("run"), callback=lambda _: os.chdir(tmp_path / "other"))
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["run"]
    assert not list((tmp_path / "other").iterdir())


def _refuses(path: Path) -> None:
    with pytest.raises(poe.StorageError, match=str(path)):
        _resume(path)
