"""Draws in the containers of other tools: nothing is lost, and what cannot be is refused."""

from __future__ import annotations

import builtins
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
import xarray
from torch import Tensor

import experts
import poe
from poe import diagnostics
from poe.core.doubt import Doubt, Kind
from poe.density.normalized import exact
from poe.samplers import MALA

arviz = diagnostics.import_arviz()


def target() -> poe.Product:
    wide = experts.Gaussian([-1.0, 0.0], scale=[1.0, 1.0])
    return poe.Product(wide=wide, sharp=experts.Gaussian([2.0, 0.0], scale=[0.5, 1.0]) ** 0.5)


def sampled(**arguments: Any) -> poe.Draws:
    return poe.sample(
        target(), 60, kernel=MALA(0.3), num_chains=3, warmup=10, progress=False,
        generator=torch.Generator().manual_seed(7), **arguments,
    )  # fmt: skip


def weighted() -> poe.Draws:
    x = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    log_weights = torch.linspace(-1.0, 0.0, 10).reshape(2, 5)
    return poe.Draws(x, target()(x), "asymptotically exact", log_weights=log_weights)


def as_double(tensor: Tensor | None) -> Any:
    assert tensor is not None
    return tensor.double().numpy()


def test_xarray_holds_draws_statistics_and_contributions() -> None:
    draws = sampled()
    data = draws.to_xarray(target())
    assert data["x"].dims == ("chain", "draw", "x_dim_0")
    assert (data["x"].values == as_double(draws.samples)).all()
    assert (data["log_density"].values == as_double(draws.log_density)).all()
    assert data["expert"].values.tolist() == ["wide", "sharp"]
    for name, factor in zip(target().names, target().experts, strict=True):
        said = data["contribution"].sel(expert=name).values
        np.testing.assert_allclose(said, as_double(factor(draws.samples).detach()), rtol=1e-6)
    total = data["contribution"].sum("expert")
    np.testing.assert_allclose(total, data["log_density"], rtol=1e-5)
    assert (data["acceptance_rate"].values == as_double(draws.acceptance_rate)).all()
    assert data["num_divergent"].dims == ("chain",)
    assert "log_weight" not in data


def test_attributes_say_how_the_draws_came_about() -> None:
    found = exact(torch.tensor(0.5), "closed form")
    facts = poe.draws.export.attributes(
        poe.Draws(
            torch.zeros(2, 5, 1),
            torch.zeros(2, 5),
            "asymptotically exact",
            kernel=MALA(0.3),
            choice="as given",
            seed=7,
            doubts=(Doubt(Kind.OTHER, "one"), Doubt(Kind.OTHER, "two")),
            num_warmup=10,
            log_partition=found,
        )
    )
    told = (facts["guarantee"], facts["kernel"], facts["seed"], facts["choice"])
    assert told == ("asymptotically exact", "MALA(step_size=0.3)", 7, "as given")
    assert facts["remarks"].startswith("one\ntwo\nR-hat and ESS could not be computed")
    assert facts["verdict"].startswith("not arrived: ")
    assert (facts["log_partition"], facts["log_partition_method"]) == (0.5, "closed form")
    assert sampled().to_xarray().attrs["kernel"] == "MALA(step_size=0.3)"
    assert sampled().to_pandas().attrs["num_warmup"] == 10


def test_arviz_has_its_own_names() -> None:
    draws = sampled()
    data = draws.to_arviz(target())
    statistics = data["sample_stats"]
    assert list(data["posterior"].data_vars) == ["x"]
    assert (statistics["lp"].values == as_double(draws.log_density)).all()
    assert statistics["contribution"].dims == ("chain", "draw", "expert")
    assert statistics.attrs["seed"] == data["posterior"].attrs["seed"] == 7
    assert (arviz.ess(data)["x"].values > 0).all()


@pytest.mark.parametrize("seed", [7, 2**64 - 1])
def test_a_file_of_arviz_comes_back(seed: int, tmp_path: Path) -> None:
    x = torch.zeros(2, 5, 2)
    draws = poe.Draws(x, x[..., 0], "exact", seed=seed, doubts=(Doubt(Kind.OTHER, "a word"),))
    draws.to_arviz().to_netcdf(str(tmp_path / "draws.nc"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = arviz.from_netcdf(str(tmp_path / "draws.nc"))
    assert int(data["posterior"].attrs["seed"]) == seed
    assert data["sample_stats"].attrs["remarks"] == "a word"


def test_pandas_has_a_row_each_draw_and_a_column_each_element() -> None:
    draws = sampled()
    frame = draws.to_pandas(target())
    assert list(frame) == [
        "chain", "draw", "x[0]", "x[1]", "log_density", "contribution[wide]", "contribution[sharp]",
    ]  # fmt: skip
    assert len(frame) == draws.log_density.numel()
    row = frame[(frame["chain"] == 2) & (frame["draw"] == 4)].iloc[0]
    assert row[["x[0]", "x[1]"]].tolist() == draws.samples[2, 4].double().tolist()
    assert row["log_density"] == draws.log_density[2, 4].double().item()
    assert isinstance(frame, pandas.DataFrame)


def test_events_of_any_shape() -> None:
    number = poe.Draws(torch.zeros(2, 5), torch.zeros(2, 5), "exact")
    assert list(number.to_pandas()) == ["chain", "draw", "x", "log_density"]
    matrix = poe.Draws(torch.zeros(2, 5, 2, 2), torch.zeros(2, 5), "exact")
    assert "x[1, 0]" in matrix.to_pandas()
    assert matrix.to_xarray()["x"].dims == ("chain", "draw", "x_dim_0", "x_dim_1")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_whole_numbers_stay_whole(dtype: torch.dtype) -> None:
    x = torch.ones(2, 5, 1).to(dtype)
    draws = poe.Draws(x, torch.zeros(2, 5), "exact")
    assert draws.to_xarray()["x"].dtype == x.numpy().dtype
    assert draws.to_pandas()["x[0]"].dtype == x.numpy().dtype


def test_half_precision_and_gradients_leave_as_float64() -> None:
    x = torch.ones(2, 5, 1, dtype=torch.bfloat16, requires_grad=True)
    draws = poe.Draws(x, x[..., 0], "exact")
    assert draws.to_xarray()["x"].dtype == np.float64
    assert draws.to_pandas()["log_density"].dtype == np.float64


def test_weights_leave_with_the_draws() -> None:
    draws = weighted()
    expected = as_double(draws.log_weights)
    assert (draws.to_xarray()["log_weight"].values == expected).all()
    assert (draws.to_pandas()["log_weight"].to_numpy() == expected.flatten()).all()
    with pytest.warns(poe.TrustWarning, match="ArviZ's averages take all alike: resample"):
        data = draws.to_arviz()
    assert (data["sample_stats"]["log_weight"].values == expected).all()


def test_each_chain_may_have_its_own_condition() -> None:
    weight, bias = torch.eye(1), torch.zeros(1)
    conditional = experts.LinearGaussian(weight=weight, bias=bias, scale=[1.0])
    batch = poe.Product(given=conditional.given(torch.tensor([[-9.0], [0.0], [9.0]])))
    x = torch.randn(3, 600, 1, generator=torch.Generator().manual_seed(0))
    log_density = torch.stack([batch(x[:, draw]) for draw in range(600)], 1)
    data = poe.Draws(x, log_density, "exact").to_xarray(batch)
    np.testing.assert_allclose(data["contribution"][..., 0], data["log_density"])


def test_an_expert_that_is_no_product_says_its_own_log_density() -> None:
    expert = experts.Gaussian([0.0, 0.0], scale=[1.0, 1.0])
    data = weighted().to_xarray(expert)
    assert data["expert"].values.tolist() == ["Gaussian"]
    np.testing.assert_allclose(
        data["contribution"].values[..., 0], as_double(expert(weighted().samples))
    )


@pytest.mark.parametrize("to", ["to_xarray", "to_pandas", "to_arviz"])
def test_what_collect_kept_is_no_position(to: str) -> None:
    draws = sampled(collect=lambda x: x.sum(-1))
    assert draws.to_xarray()["x"].dims == ("chain", "draw")
    with pytest.raises(poe.PoeError, match=r"expected draws of events \(2,\).*collect= kept"):
        getattr(draws, to)(target())


@pytest.mark.parametrize(
    ("to", "module"), [("to_xarray", "xarray"), ("to_pandas", "pandas"), ("to_arviz", "arviz")]
)
def test_a_missing_extra_is_named(to: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    real_import = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name == module:
            raise ImportError(name)
        return real_import(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "product-of-experts\[diagnostics\]"'):
        getattr(sampled(), to)()


def test_xarray_is_what_it_says() -> None:
    assert isinstance(sampled().to_xarray(), xarray.Dataset)
