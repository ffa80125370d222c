"""pzflow's galaxy flow: read without its code, and saying what pzflow says."""

from __future__ import annotations

import functools
import io
import os
import pickle
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nflows.transforms.splines.rational_quadratic import rational_quadratic_spline
from safetensors.torch import load_file
from torch import Tensor

import poe
from experts.adapters import pzflow as adapter
from experts.adapters.pzflow.pickled_arrays import read_arrays
from experts.adapters.pzflow.splines import splines_of
from tests.seeds import seeded

FIXTURE = Path(__file__).parents[2] / "fixtures" / "pzflow_reference.safetensors"
REFERENCE = load_file(FIXTURE)


@seeded()
def example() -> adapter.TableFlow:
    return adapter.example()


@pytest.fixture(scope="module")
def flow() -> adapter.TableFlow:
    return example()


def test_log_density_is_that_of_pzflow(flow: adapter.TableFlow) -> None:
    x = REFERENCE["rows"]
    assert flow.columns == ("redshift", "u", "g", "r", "i", "z", "y")
    double = example().double()
    torch.testing.assert_close(double(x.double()), REFERENCE["log_density"], atol=5e-7, rtol=0)
    # In single precision both round, each by up to 1.1e-3 on these rows.
    single = REFERENCE["log_density_in_float32"]
    torch.testing.assert_close(flow(x), single, atol=1e-3, rtol=0)


@pytest.mark.law
@seeded()
def test_log_density_is_that_of_pzflow_on_the_fly(flow: adapter.TableFlow) -> None:
    pzflow = pytest.importorskip("pzflow")
    pandas = pytest.importorskip("pandas")
    folder = Path(pzflow.__file__).parent
    original = pzflow.Flow.from_file(str(folder / adapter.EXAMPLE))
    x = flow.sample(200, generator=torch.Generator().manual_seed(0))
    theirs = np.array(original.log_prob(pandas.DataFrame(x.numpy(), columns=flow.columns)))
    gap = (flow(x) - torch.from_numpy(theirs)).abs()
    assert gap.max() < 3e-3  # both in single precision
    assert gap.mean() < 3e-4
    adapted = poe.as_expert(original)
    torch.testing.assert_close(adapted(x), flow(x))


def test_reading_moves_no_generator() -> None:
    state = torch.get_rng_state()
    adapter.example()
    assert torch.equal(torch.get_rng_state(), state)


def test_support_is_a_box_with_hard_edges(flow: adapter.TableFlow) -> None:
    x = flow.sample(1000, generator=torch.Generator().manual_seed(0))
    assert bool(flow(x).isfinite().all())
    low, high = x.amin(0), x.amax(0)
    outside = x[:7] + torch.eye(7) * (high - low)
    assert bool((flow(outside) == -torch.inf).all())
    assert flow(torch.full((1, 7), torch.nan)).isnan().item()


def test_layers_are_undone() -> None:
    flow = example().double()
    x = flow.sample(300, generator=torch.Generator().manual_seed(1)).double()
    u = x
    for layer in flow.layers:
        u, _ = layer(u)
    assert bool((u.abs() <= 5).all())
    for layer in reversed(flow.layers):
        u = layer.inverse(u)
    torch.testing.assert_close(u, x, atol=1e-6, rtol=1e-6)


def test_log_slope_is_that_of_autograd() -> None:
    flow = example().double()
    x = REFERENCE["rows"][:10].double()

    def to_base(x: Tensor) -> Tensor:
        for layer in flow.layers:
            x, _ = layer(x)
        return x

    slopes = torch.stack([torch.autograd.functional.jacobian(to_base, row[None]) for row in x])
    log_slope = torch.linalg.slogdet(slopes[:, 0, :, 0]).logabsdet
    log_base = -7 * np.log(10.0)
    torch.testing.assert_close(flow(x), log_base + log_slope, atol=1e-8, rtol=1e-8)


def test_in_a_product(flow: adapter.TableFlow) -> None:
    """Galaxies of redshift 0.5 ± 0.1: chains that start at exact draws stay with that density."""
    near = poe.FromLogDensity(
        lambda x: -0.5 * ((x[..., 0] - 0.5) / 0.1).square(), space=poe.Real(7)
    )
    g = torch.Generator().manual_seed(3)
    x = flow.sample(20_000, generator=g)
    draws = x[torch.rand(len(x), generator=g) < near(x).exp()]
    start, fresh = draws[:1000], draws[1000:]
    target, kernel = flow * near, poe.samplers.MALA(3e-5)
    state = kernel.init(target, start)
    for _ in range(4):
        state, info = kernel.step(target, state, generator=g)
    moved = state.position
    assert 0.3 < info.acceptance_probability.mean() < 0.99
    error = (moved.var(0) / len(moved) + fresh.var(0) / len(fresh)).sqrt()
    z = (moved.mean(0) - fresh.mean(0)) / error
    assert bool((z.abs() < 4).all()), z


def test_saved_and_loaded(flow: adapter.TableFlow, tmp_path: Path) -> None:
    poe.save(flow, tmp_path / "galaxies")
    loaded = poe.load(tmp_path / "galaxies")
    assert torch.equal(loaded(REFERENCE["rows"]), flow(REFERENCE["rows"]))
    assert loaded.columns == flow.columns


def test_splines_are_those_of_nflows() -> None:
    g = torch.Generator().manual_seed(0)
    parameters = torch.randn(200, 3 * 6 + 1, generator=g, dtype=torch.float64)
    x = 10 * torch.rand(200, generator=g, dtype=torch.float64) - 5
    inner = parameters[:, :-2]  # nflows learns the slopes at the ends too: 1 here
    one = torch.full((200, 1), np.log(np.expm1(1.0)), dtype=torch.float64)
    widths, heights, slopes = inner.split([6, 6, 5], -1)
    theirs = rational_quadratic_spline(
        x, widths, heights, torch.cat([one, slopes, one], -1), left=-5.0, right=5.0, bottom=-5.0,
        top=5.0, min_bin_width=0.0, min_bin_height=0.0, min_derivative=0.0,
    )  # fmt: skip
    splines = splines_of(inner, 6, 5.0)
    y, log_slope = splines.forward(x)
    torch.testing.assert_close(y, theirs[0])
    torch.testing.assert_close(log_slope, theirs[1])
    torch.testing.assert_close(splines.inverse(y), x)
    outside = torch.tensor([-7.0, 6.0], dtype=torch.float64)
    wide = splines_of(inner[:2], 6, 5.0)
    assert torch.equal(wide.forward(outside)[0], outside)
    assert torch.equal(wide.forward(outside)[1], torch.zeros(2, dtype=torch.float64))


def state(**changes: Any) -> dict[str, Any]:
    """A small flow in two columns, as pzflow would pickle it."""
    g = np.random.default_rng(0)
    net = [(g.normal(size=(1, 4)), g.normal(size=4)), (), (g.normal(size=(4, 8)), g.normal(size=8))]
    chain = (
        ("StandardScaler", (np.ones(2), np.full(2, 2.0))),
        ("Scale", (0.5,)),
        ("Reverse", ()),
        ("NeuralSplineCoupling", (3, 5, 1, 4, None, 0, False)),
    )
    known = {
        "class": "Flow",
        "data_columns": ("a", "b"),
        "conditional_columns": None,
        "latent_info": ("Normal", (2,)),
        "bijector_info": ("Chain", chain),
        "params": ((), [(), (), (), net]),
    }
    return known | changes


@pytest.mark.law
@pytest.mark.parametrize("base", [("Normal", (2,)), ("CentBeta13", (2, 5)), ("Uniform", (2, 5))])
@seeded()
def test_other_layers_and_bases_are_normalised(base: tuple[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "flow.pkl"
    path.write_bytes(pickle.dumps(state(latent_info=base)))
    flow = adapter.read(path)
    side = torch.linspace(-21, 23, 1201, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    total = flow.double()(grid).exp().sum() * (side[1] - side[0]) ** 2
    assert total.item() == pytest.approx(1.0, abs=5e-3)


COUPLING = ("NeuralSplineCoupling", (3, 5, 1, 4, None, 1, False))
REFUSED = {
    "an ensemble": (
        state(**{"class": "FlowEnsemble"}),
        "state of one pzflow Flow, got FlowEnsemble",
    ),
    "an array": (np.ones(2), "state of one pzflow Flow, got ndarray"),
    "conditions": (
        state(conditional_columns=("c",)),
        r"without conditions, got one given \('c',\)",
    ),
    "another base": (
        state(latent_info=("Tdist", (2,))),
        "among CentBeta13, Normal, Uniform, got T",
    ),
    "random order": (
        state(bijector_info=("Shuffle", ())),
        "expected a bijector among.*got Shuffle",
    ),
    "conditional splines": (state(bijector_info=COUPLING), "got n_conditions=1, periodic=False"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    found, message = REFUSED[name]
    (tmp_path / "flow.pkl").write_bytes(pickle.dumps(found))
    with pytest.raises(poe.AdaptationError, match=message):
        adapter.read(tmp_path / "flow.pkl")


class Hostile:
    """Unpickling it makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    made, file = tmp_path / "made", tmp_path / "flow.pkl"
    file.write_bytes(pickle.dumps(state(info=Hostile(str(made)))))
    with pytest.raises(poe.AdaptationError, match=r"names posix\.mkdir: a pickle may run any code"):
        adapter.read(file)
    assert not made.exists()
    pickle.loads(file.read_bytes())  # the file would have done it
    assert made.exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "builtins.getattr", "numpy.load", "numpy.fromfile"]
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_names_are_not_imported(name: str, protocol: int) -> None:
    module, _, attribute = name.rpartition(".")
    with pytest.raises(poe.AdaptationError, match=f"names .*{attribute}"):
        read_arrays(pickle.dumps(getattr(sys.modules[module], attribute), protocol))


def test_broken_pickles_and_arrays_of_objects_are_refused() -> None:
    whole = pickle.dumps({"x": np.ones(3)})
    for content in (b"", b"abc", whole[:40]):
        with pytest.raises(poe.AdaptationError, match="cannot be read as one"):
            read_arrays(content)
    with pytest.raises(poe.AdaptationError, match="expected arrays of f4, f8, i4, i8, got O8"):
        read_arrays(pickle.dumps(np.array([print], dtype=object)))
    persistent = io.BytesIO()
    pickler = pickle.Pickler(persistent)
    pickler.persistent_id = lambda found: "elsewhere" if isinstance(found, Tensor) else None
    pickler.dump(torch.ones(1))
    with pytest.raises(poe.AdaptationError, match="cannot be read as one"):
        read_arrays(persistent.getvalue())


def test_arrays_of_every_kind_come_back() -> None:
    arrays = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">f4"),
        "whole": np.arange(3),
        "single": np.float32([1.5]),
    }
    for name, array in read_arrays(pickle.dumps(arrays, 4)).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_missing_pzflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "product-of-experts\[pzflow\]"'):
        adapter.example()


def nested(levels: int, kind: type = list) -> Any:
    """A thing that holds itself twice, which holds itself twice, ..."""
    found: Any = kind([1])
    for _ in range(levels):
        found = kind([found, found])
    return found


def shared_array(count: int) -> dict[str, Any]:
    """Arrays whose bytes are in the file once."""
    whole = np.ones(100_000)
    return {"x": [whole] * count}


def held_by_itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


class Keyed:
    """Pickles as a dict whose key is a tuple of tuples, which takes long to hash."""

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ([(nested(2, tuple), 1)],)


GREEDY: dict[str, bytes] = {
    "a place in the memo": b"\x80\x04Nr\xff\xff\xff\x7f.",
    "a place in the memo, and of it": b"\x80\x04Nr\xff\xff\xff\xffj\xff\xff\xff\xff.",
    "bytes that are not there": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b".",
    "text that is not there": b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b".",
    "a frame that is not there": b"\x80\x04\x95" + (2**62).to_bytes(8, "little") + b"N.",
    "a number of many digits": b"I" + b"9" * 100_000 + b"\n.",
    "lists of lists": pickle.dumps(nested(28)),
    "tuples of tuples": pickle.dumps(nested(28, tuple)),
    "tuples as a key": b"\x80\x04})" + b"2\x86" * 60 + b"Ks.",
    "a tuple ten thousand deep": b"\x80\x04)" + b"\x85" * 10**4 + b".",
    "a list in itself": pickle.dumps(held_by_itself()),
    "one array many times": pickle.dumps(shared_array(5000)),
    "pops what is not there": b"\x80\x04000.",
    "no mark": b"\x80\x04(ee.",
    "an array that was never filled": pickle.dumps(np.ones(2)).replace(b"b.", b"."),
}


@pytest.mark.parametrize("name", GREEDY)
def test_a_small_file_takes_little_time_and_memory(name: str, tmp_path: Path) -> None:
    (tmp_path / "flow.pkl").write_bytes(GREEDY[name])
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(poe.AdaptationError, match=r"flow\.pkl"):
            adapter.read(tmp_path / "flow.pkl")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 2
    assert peak < 50 * len(GREEDY[name]) + 4_000_000


def test_a_part_that_is_named_twice_comes_back_twice() -> None:
    array, text = np.arange(3.0), "text"
    found = read_arrays(pickle.dumps({"a": array, "b": [array, array], "c": (text, text)}))
    assert found["c"] == (text, text)
    assert all(np.array_equal(each, array) for each in (found["a"], *found["b"]))


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_flow_of_any_protocol_is_read(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "flow.pkl").write_bytes(pickle.dumps(state(), protocol))
    assert adapter.read(tmp_path / "flow.pkl")(torch.zeros(1, 2)).isfinite()


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in state().items() if key != name}


WRONG: dict[str, Callable[[], Any]] = {
    **{f"without {name}": functools.partial(_without, name) for name in state()},
    **{f"{name} is a number": functools.partial(state, **{name: 7}) for name in state()},
    "a base of a billion columns": lambda: state(latent_info=("Uniform", (10**9, 5))),
    "no columns": lambda: state(data_columns=()),
    "a chain of chains": lambda: state(
        bijector_info=functools.reduce(lambda x, _: ("Chain", (x, x)), range(28), ("Reverse", ()))
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_state_that_says_something_else_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "flow.pkl").write_bytes(pickle.dumps(WRONG[name]()))
    began = time.process_time()
    with pytest.raises(poe.AdaptationError, match=r"flow\.pkl"):
        adapter.read(tmp_path / "flow.pkl")
    assert time.process_time() - began < 3
