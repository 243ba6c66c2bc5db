"""Draws in ArviZ's format: what is where, what it costs, what ArviZ makes of it, what a file gives back."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from hnbayes.inference_data import to_inference_data
from hnbayes.params import ParamSpec
from hnbayes.potentials import Potential
from hnbayes.sampling import sample_potential

ARVIZ_1 = int(version("arviz").split(".")[0]) >= 1
only_arviz_0 = pytest.mark.skipif(ARVIZ_1, reason="how ArviZ 0.x plots; arviz1_check.py looks at ArviZ 1.x")

C, S, W = 3, 40, 15
SPEC = ParamSpec(("0.weight", "0.bias", "scale/log"), ((2, 3), (2,), ()))
D = 9


@dataclass(frozen=True)
class FakeDraws:
    """The attributes of `Draws` that are documented, and nothing else."""

    positions: Any
    stats: dict[str, Any]
    warmup_positions: Any = None
    warmup_stats: dict[str, Any] | None = None
    spec: ParamSpec | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class FakeChains:
    def __init__(self, draws: FakeDraws) -> None:
        self.draws = draws

    def to_draws(self) -> FakeDraws:
        return self.draws


def numbered(n_draws: int, offset: int = 0) -> torch.Tensor:
    """Positions (C, n_draws, D) that say whose they are: 1000 chain + 10 draw + dimension."""
    c, s, d = (torch.arange(n, dtype=torch.float32) for n in (C, n_draws, D))
    return offset + 1000 * c[:, None, None] + 10 * s[:, None] + d


def make_stats(n_draws: int, seed: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    shape = (C, n_draws)
    diverging = np.zeros(shape, dtype=bool)
    diverging[0, 3] = diverging[1, 5] = diverging[2, 11] = diverging[2, 12] = True
    stats = {
        "lp": rng.normal(size=shape),
        "acceptance_rate": rng.random(shape),
        "step_size": rng.random(shape),
        "tree_depth": rng.integers(1, 8, shape),
        "n_steps": rng.integers(1, 128, shape),
        "diverging": diverging,
        "energy": rng.normal(size=shape),
        "energy_error": np.where(diverging, np.nan, rng.normal(size=shape)),
        "max_energy_error": np.where(diverging, np.inf, rng.normal(size=shape)),
        "reached_max_treedepth": rng.random(shape) < 0.2,
    }
    return {name: torch.as_tensor(value) for name, value in stats.items()}


@pytest.fixture
def draws() -> FakeDraws:
    return FakeDraws(
        positions=numbered(S),
        stats=make_stats(S, 0),
        warmup_positions=numbered(W, offset=50_000),
        warmup_stats=make_stats(W, 1),
        spec=SPEC,
        metadata={"kernel": "nuts", "seed": 7, "warmup": 15, "draws": 40, "thin": 1, "sampling_time": 1.25},
    )


def with_noise(draws: FakeDraws) -> FakeDraws:
    noise = torch.randn(C, S, D, generator=torch.Generator().manual_seed(4))
    return FakeDraws(noise, draws.stats, spec=SPEC)


# -------------------- what is where


@pytest.mark.parametrize("wrap", [lambda d: d, FakeChains], ids=["draws", "object with to_draws"])
def test_every_number_is_at_its_place(draws, wrap):
    idata = to_inference_data(wrap(draws))
    for group, n_draws, offset in (("posterior", S, 0), ("warmup_posterior", W, 50_000)):
        c, s = np.arange(C)[:, None], np.arange(n_draws)
        base = offset + 1000 * c + 10 * s
        data = idata[group]
        assert set(data.data_vars) == {"0.weight", "0.bias", "scale.log"}
        assert data["0.weight"].dims == ("chain", "draw", "0.weight_dim_0", "0.weight_dim_1")
        assert data["0.bias"].dims == ("chain", "draw", "0.bias_dim_0")
        assert data["scale.log"].dims == ("chain", "draw")
        for i in range(2):
            for j in range(3):
                np.testing.assert_array_equal(data["0.weight"].values[:, :, i, j], base + 3 * i + j)
            np.testing.assert_array_equal(data["0.bias"].values[:, :, i], base + 6 + i)
        np.testing.assert_array_equal(data["scale.log"].values, base + 8)
        np.testing.assert_array_equal(data["chain"].values, [0, 1, 2])
        np.testing.assert_array_equal(data["draw"].values, range(n_draws))


def test_the_container_is_the_one_of_the_installed_arviz(draws):
    import arviz as az

    idata = to_inference_data(draws)
    assert type(idata) is (xr.DataTree if ARVIZ_1 else az.InferenceData)


def test_statistics_keep_their_values_and_the_yes_no_ones_are_bool(draws):
    stats = {**draws.stats, "diverging": draws.stats["diverging"].to(torch.int64)}
    idata = to_inference_data(FakeDraws(draws.positions, stats, draws.warmup_positions, draws.warmup_stats))
    for group, given in (("sample_stats", stats), ("warmup_sample_stats", draws.warmup_stats)):
        assert set(idata[group].data_vars) == set(given)
        for name, value in given.items():
            assert idata[group][name].dims == ("chain", "draw")
            np.testing.assert_array_equal(idata[group][name].values, value.numpy())
        assert idata[group]["diverging"].dtype == bool
        assert idata[group]["reached_max_treedepth"].dtype == bool
        assert idata[group]["tree_depth"].dtype == np.int64


def test_draws_without_names_are_one_variable(draws):
    bare = FakeDraws(draws.positions, draws.stats)
    assert to_inference_data(bare)["posterior"]["position"].dims == ("chain", "draw", "position_dim_0")
    named = to_inference_data(bare, var_name="w", dims={"w": ["weight"]}, coords={"weight": list("abcdefghi")})
    last = named["posterior"]["w"].sel(weight="i", chain=2, draw=5)
    assert last.item() == 2000 + 50 + 8


def test_without_warm_up_there_are_no_warm_up_groups(draws):
    without = [
        to_inference_data(draws, save_warmup=False),
        to_inference_data(FakeDraws(draws.positions, draws.stats)),
        to_inference_data(FakeDraws(draws.positions, draws.stats, torch.empty(C, 0, D), {})),
    ]
    for idata in without:
        assert {"posterior", "sample_stats"} == set(idata)
    only_positions = to_inference_data(FakeDraws(draws.positions, draws.stats, draws.warmup_positions))
    assert "warmup_posterior" in set(only_positions)
    assert "warmup_sample_stats" not in set(only_positions)


def test_named_dimensions_and_labels_reach_every_group(draws):
    y = np.linspace(-1, 1, 5)
    pointwise = np.random.default_rng(3).normal(size=(C, S, 5))
    idata = to_inference_data(
        draws,
        dims={"0.weight": ["unit", "feature"], "0.bias": ["unit"], "y": ["obs"]},
        coords={"feature": ["age", "sex", "bmi"], "obs": [10, 20, 30, 40, 50]},
        groups={"log_likelihood": {"y": torch.as_tensor(pointwise)}, "observed_data": {"y": y}},
    )
    weight = idata["posterior"]["0.weight"]
    assert weight.dims == ("chain", "draw", "unit", "feature")
    assert weight.sel(chain=1, draw=2, unit=1, feature="sex").item() == 1000 + 20 + 3 + 1
    assert idata["warmup_posterior"]["0.bias"].dims == ("chain", "draw", "unit")
    assert idata["log_likelihood"]["y"].sel(chain=2, draw=4, obs=30).item() == pointwise[2, 4, 2]
    assert idata["observed_data"]["y"].dims == ("obs",)
    assert idata["observed_data"]["y"].sel(obs=50).item() == 1.0


def test_groups_keep_the_chains_and_draws_they_have(draws):
    ready = xr.Dataset({"f": (("chain", "draw", "x"), np.ones((C, 4, 2)))}, attrs={"note": "thinned"})
    idata = to_inference_data(
        draws,
        groups={
            "posterior_predictive": ready,
            "prior": {"w": np.zeros((1, 7, 2))},
            "constant_data": {"a/b": np.arange(4), "names": np.array(["p", "q"])},
        },
    )
    loaded = idata["posterior_predictive"]
    assert loaded["f"].shape == (C, 4, 2)
    assert loaded.attrs == {"note": "thinned"}
    assert idata["prior"]["w"].dims == ("chain", "draw", "w_dim_0")
    assert idata["constant_data"]["a.b"].dims == ("a.b_dim_0",)


def test_log_likelihood_has_one_number_for_an_observation_that_is_a_vector(draws):
    idata = to_inference_data(
        draws,
        dims={"y": ["obs", "output"]},
        groups={"log_likelihood": {"y": np.zeros((C, S, 5))}, "observed_data": {"y": np.zeros((5, 2))}},
    )
    assert idata["log_likelihood"]["y"].dims == ("chain", "draw", "obs")
    assert idata["observed_data"]["y"].dims == ("obs", "output")


def test_a_run_keeps_its_own_numbers():
    potential = Potential(lambda q: 0.5 * (q**2).sum(), spec=ParamSpec(("w", "b"), ((2, 2), (2,))))
    run = sample_potential(potential, torch.zeros(2, 6), warmup=150, draws=20, seed=1, save_warmup=True, progress=False)
    idata = run.to_inference_data()
    np.testing.assert_array_equal(idata["posterior"]["w"].values[:, :, 1, 0], run.positions[:, :, 2].numpy())
    np.testing.assert_array_equal(idata["posterior"]["b"].values, run.positions[:, :, 4:].numpy())
    assert idata["warmup_posterior"]["w"].shape == (2, 150, 2, 2)
    # For this potential the log density of a draw is known: -|q|^2 / 2.
    lp = -0.5 * np.square(run.positions.numpy().astype(np.float64)).sum(-1)
    np.testing.assert_allclose(idata["sample_stats"]["lp"].values, lp, rtol=1e-4, atol=1e-5)
    assert set(idata["sample_stats"].data_vars) >= set(make_stats(W, 0))
    assert idata["sample_stats"]["diverging"].dtype == bool
    attrs = idata["posterior"].attrs
    assert attrs["tuning_steps"] == 150
    assert attrs["seed"] == 1
    assert attrs["sampling_time"] > 0


# -------------------- what it costs


def test_draws_are_not_copied():
    big = torch.zeros(4, 120, 10_000)[:, :100]  # not contiguous, as after an interrupt
    warmup = torch.zeros(4, 50, 10_000)
    spec = ParamSpec(("a", "b"), ((90, 100), (1000,)))
    draws = FakeDraws(big, {"diverging": torch.zeros(4, 100, dtype=torch.bool)}, warmup, None, spec)
    to_inference_data(draws)  # imports are not what is measured
    tracemalloc.start()
    try:
        idata = to_inference_data(draws)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for name in spec.names:
        assert np.shares_memory(idata["posterior"][name].values, big.numpy())
        assert np.shares_memory(idata["warmup_posterior"][name].values, warmup.numpy())
    assert np.shares_memory(idata["sample_stats"]["diverging"].values, draws.stats["diverging"].numpy())
    assert peak < 0.05 * big.numpy().nbytes
    assert not big.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_float32_with_the_same_values(draws, dtype):
    half = torch.arange(C * S * D, dtype=torch.float32).reshape(C, S, D).remainder(100).to(dtype)
    idata = to_inference_data(FakeDraws(half, {"lp": half[..., 0]}))
    expected = (np.arange(C * S * D) % 100).reshape(C, S, D)  # exact in both types
    for got, want in (
        (idata["posterior"]["position"], expected),
        (idata["sample_stats"]["lp"], expected[..., 0]),
    ):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got.values, want)


def test_float64_stays_and_a_graph_is_left_behind(draws):
    positions = draws.positions.double().requires_grad_()
    values = to_inference_data(FakeDraws(positions, draws.stats))["posterior"]["position"].values
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, numbered(S).numpy())
    assert positions.requires_grad


# -------------------- attributes


def test_attributes_say_what_made_the_draws(draws):
    before = dt.datetime.now(dt.timezone.utc)
    idata = to_inference_data(draws, attrs={"note": "first run", "kernel": "mine"})
    for group in ("posterior", "sample_stats", "warmup_posterior", "warmup_sample_stats"):
        attrs = dict(idata[group].attrs)
        assert before <= dt.datetime.fromisoformat(attrs.pop("created_at")) <= dt.datetime.now(dt.timezone.utc)
        assert isinstance(attrs.pop("inference_library_version"), str)
        assert attrs == {
            "inference_library": "hnbayes",
            "tuning_steps": 15,
            "kernel": "mine",  # what the caller says goes
            "seed": 7,
            "warmup": 15,
            "draws": 40,
            "thin": 1,
            "sampling_time": 1.25,
            "note": "first run",
        }


AWKWARD = {
    "flag": (True, "True"),
    "nothing": (None, None),
    "table": ({"a": 1}, "{'a': 1}"),
    "one": ([5], 5),
    "list": ([1, 2.5], [1, 2.5]),
    "text": (("a", "b"), ["a", "b"]),
    "mixed": ([1, "a"], "[1, 'a']"),
    "tensor": (torch.tensor([0.5, 0.25]), [0.5, 0.25]),
    "scalar": (torch.tensor(3), 3),
    "numpy": (np.float32(0.5), 0.5),
    "flags": (np.array([True, False]), ["True", "False"]),
    "long": (2**70, str(2**70)),
    "a/slash": ("x", "x"),
    "empty": ("", ""),
}


def test_metadata_that_netcdf_does_not_know_becomes_text(draws):
    metadata = {key: given for key, (given, _) in AWKWARD.items()}
    attrs = to_inference_data(FakeDraws(draws.positions, draws.stats, metadata=metadata))["posterior"].attrs
    assert "nothing" not in attrs
    assert "tuning_steps" not in attrs  # nobody said how long the warm-up was
    for key, (_, wanted) in AWKWARD.items():
        if wanted is not None:
            got = attrs[key.replace("/", ".")]
            assert got == wanted
            assert type(got) is type(wanted)


# -------------------- files


def test_a_file_reads_back_equal(draws, tmp_path):
    import arviz as az

    metadata = {**draws.metadata, **{key: given for key, (given, _) in AWKWARD.items()}}
    full = FakeDraws(draws.positions, draws.stats, draws.warmup_positions, draws.warmup_stats, SPEC, metadata)
    groups = {"observed_data": {"y": np.arange(5.0)}, "constant_data": {"name": np.array(["p", "qr"])}}
    idata = to_inference_data(full, dims={"0.bias": ["unit"]}, coords={"unit": ["left", "right"]}, groups=groups)
    path = tmp_path / "draws.nc"
    idata.to_netcdf(str(path))
    back = az.from_netcdf(str(path))
    parameters = SPEC.unflatten(numbered(S).numpy())
    expected: dict[str, dict[str, np.ndarray]] = {
        "posterior": {name.replace("/", "."): value for name, value in parameters.items()},
        "sample_stats": {name: value.numpy() for name, value in draws.stats.items()},
        "warmup_sample_stats": {name: value.numpy() for name, value in draws.warmup_stats.items()},
        "observed_data": {"y": np.arange(5.0)},
        "constant_data": {"name": np.array(["p", "qr"])},
    }
    assert set(back) == set(expected) | {"warmup_posterior"}
    for group, variables in expected.items():
        assert set(back[group].data_vars) == set(variables)
        for name, value in variables.items():
            assert back[group][name].dtype.kind == value.dtype.kind or value.dtype.kind == "U"
            assert back[group][name].dims == idata[group][name].dims
            np.testing.assert_array_equal(back[group][name].values, value)
        attrs = idata[group].attrs
        assert set(back[group].attrs) == set(attrs)
        for key, value in attrs.items():
            np.testing.assert_array_equal(back[group].attrs[key], value)
    assert list(back["posterior"]["unit"].values) == ["left", "right"]
    assert back["sample_stats"]["diverging"].dtype == bool
    np.testing.assert_array_equal(back["posterior"]["chain"].values, [0, 1, 2])
    if hasattr(back, "close"):
        back.close()


# -------------------- ArviZ's view


@only_arviz_0
def test_summary_and_bfmi_agree_with_numpy(draws):
    import arviz as az

    noisy = with_noise(draws)
    idata = to_inference_data(noisy)
    table = az.summary(idata, round_to="none")
    flat = noisy.positions.numpy().astype(np.float64).reshape(C * S, D)
    labels = [f"0.weight[{i}, {j}]" for i in range(2) for j in range(3)] + [
        "0.bias[0]",
        "0.bias[1]",
        "scale.log",
    ]
    np.testing.assert_allclose(table.loc[labels, "mean"], flat.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table.loc[labels, "sd"], flat.std(0, ddof=1), rtol=1e-4)
    energy = draws.stats["energy"].numpy()
    expected = np.square(np.diff(energy, axis=1)).mean(1) / energy.var(1, ddof=1)
    np.testing.assert_allclose(az.bfmi(idata), expected, rtol=1e-6)


@only_arviz_0
def test_plots_show_the_draws_and_mark_only_the_divergent_ones(draws):
    pytest.importorskip("matplotlib").use("Agg")
    import arviz as az
    import matplotlib.pyplot as plt

    noisy = with_noise(draws)
    idata = to_inference_data(noisy)
    try:
        trace = az.plot_trace(idata, var_names=["scale.log"], compact=False, divergences=None)
        for chain in range(C):
            np.testing.assert_array_equal(trace[0, 1].lines[chain].get_ydata(), noisy.positions[chain, :, 8])
        energy = az.plot_energy(idata)
        assert [text.get_text() for text in energy.get_legend().get_texts()][:2] == [
            "Marginal Energy",
            "Energy transition",
        ]
        pair = az.plot_pair(idata, var_names=["0.bias"], divergences=True)
        (marked,) = [line.get_xydata() for line in pair.lines]
        expected = noisy.positions.numpy()[draws.stats["diverging"].numpy()][:, 6:8]
        assert expected.shape == (4, 2)
        np.testing.assert_array_equal(marked, expected)
    finally:
        plt.close("all")


def find_arviz_1() -> tuple[str | None, str]:
    """A Python with ArviZ >= 1, or why there is none."""
    if given := os.environ.get("HNBAYES_ARVIZ1_PYTHON"):
        return given, ""
    if ARVIZ_1:
        return sys.executable, ""
    found = f"this one, {sys.version.split()[0]}, has ArviZ {version('arviz')}"
    return None, f"needs a Python with ArviZ >= 1 (Python >= 3.12), {found}: set HNBAYES_ARVIZ1_PYTHON to one"


def test_arviz_1():
    python, reason = find_arviz_1()
    if python is None:
        pytest.skip(reason)
    script = Path(__file__).with_name("arviz1_check.py")
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    result = subprocess.run(
        [python, "-W", "error", str(script)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("ArviZ 1"), result.stdout


# -------------------- bad input


class Described:
    """A class on which what an instance would have is seen, but is not there."""

    positions = property(lambda self: numbered(S))
    stats = property(lambda self: {})


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (42, "int"),
        (torch.zeros(C, S, D), "Tensor"),
        (FakeDraws, "FakeDraws"),
        (FakeChains, "FakeChains"),
        (Described, "Described"),
        (FakeChains(42), "int"),
    ],
)
def test_an_object_of_another_kind_is_refused(wrong, named):
    with pytest.raises(TypeError, match=rf"must be Draws.*received.*{named}.*Pass"):
        to_inference_data(wrong)


@pytest.mark.parametrize("shape", [(C, 0, D), (0, S, D), (C, S, 0), (S, D)])
def test_no_draws_are_refused(shape):
    with pytest.raises(ValueError, match=r"positions must have shape.*received \(.*Sample"):
        to_inference_data(FakeDraws(torch.empty(shape), {}))


def test_a_spec_of_another_network_is_refused(draws):
    spec = ParamSpec(("w",), ((2, 5),))
    with pytest.raises(ValueError, match=r"position has, 9; received 10 in 1 parameters.*Use the spec"):
        to_inference_data(FakeDraws(draws.positions, draws.stats, spec=spec))
    clash = ParamSpec(("a/b", "a.b"), ((4,), (5,)))
    with pytest.raises(ValueError, match=r"names in spec must differ.*'a/b'.*Rename"):
        to_inference_data(FakeDraws(draws.positions, draws.stats, spec=clash))


def test_statistics_of_another_shape_are_refused(draws):
    with pytest.raises(ValueError, match=r"stats\['lp'\] must have shape.*\(3, 40, .*received \(40, 3\)"):
        to_inference_data(FakeDraws(draws.positions, {"lp": draws.stats["lp"].T}))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"dims": {"1.weight": ["a"]}}, ValueError, r"variables that exist: '0.bias'.*received '1.weight'"),
        ({"dims": {"0.bias": "unit"}}, TypeError, r"must be a list of names; received 'unit'"),
        ({"dims": {"0.bias": [1]}}, TypeError, r"must be a list of names; received \[1\]"),
        (
            {"dims": {"0.weight": ["a"]}},
            ValueError,
            r"must hold 2 distinct names.*\(2, 3\); received \['a'\]",
        ),
        (
            {"dims": {"0.weight": ["a", "a"]}},
            ValueError,
            r"must hold 2 distinct names.*received \['a', 'a'\]",
        ),
        ({"dims": {"0.bias": ["draw"]}}, ValueError, r"other than chain and draw.*received \['draw'\]"),
        (
            {"dims": {"0.weight": ["a", "b"], "0.bias": ["b"]}},
            ValueError,
            r"one length.*received in posterior 'b', 2 long in '0.bias' and 3 long elsewhere.*dims",
        ),
        ({"dims": {"0.bias": ["0.weight"]}}, ValueError, r"no variable's name.*'0.weight'.*a variable too"),
        ({"coords": {"unit": [1, 2]}}, ValueError, r"coords must label dimensions.*received 'unit'"),
        ({"coords": {"draw": range(S)}}, ValueError, r"coords must label dimensions.*received 'draw'"),
        (
            {"coords": {"0.bias_dim_0": [1, 2, 3]}},
            ValueError,
            r"each of the 2 entries of '0.bias_dim_0'.*received shape \(3,\)",
        ),
        (
            {"attrs": {"when": dt.datetime(2020, 1, 1)}},
            TypeError,
            r"attrs\['when'\] must be text.*received datetime",
        ),
        ({"attrs": {"x": None}}, TypeError, r"attrs\['x'\] must be text.*received None"),
        ({"attrs": {"x": {"a": 1}}}, TypeError, r"flat list of either.*received \{'a': 1\}.*Convert"),
        ({"attrs": {"x": [[1, 2], [3, 4]]}}, TypeError, r"flat list of either.*received \[\[1, 2\]"),
        ({"attrs": {"x": [1, "a"]}}, TypeError, r"flat list of either.*received \[1, 'a'\]"),
        ({"attrs": {"x": []}}, TypeError, r"flat list of either.*received \[\]"),
        (
            {"groups": {"posterior": {"x": np.ones((C, S))}}},
            ValueError,
            r"new identifiers.*received 'posterior'",
        ),
        ({"groups": {"a/b": {"x": np.ones((C, S))}}}, ValueError, r"new identifiers.*received 'a/b'"),
        ({"groups": {"log_likelihood": np.ones((C, S))}}, TypeError, r"Dataset or a dict.*received.*ndarray"),
        ({"groups": {"log_likelihood": {}}}, TypeError, r"at least one array; received \{\}"),
        (
            {"groups": {"posterior_predictive": {"y": np.ones((C * S, 5))}}},
            ValueError,
            r"\['y'\] must have shape \(chains, draws, ...\) = \(3, 40, ...\); received \(120, 5\)",
        ),
        ({"groups": {"prior": {"y": np.ones(5)}}}, ValueError, r"= \(any, any, ...\); received \(5,\)"),
        (
            {"groups": {"observed_data": {"y": np.array([{}, None])}}},
            TypeError,
            r"groups\['observed_data'\]\['y'\] must be an array.*received a ndarray of dtype object",
        ),
    ],
)
def test_what_does_not_fit_is_refused(draws, kwargs, error, message):
    with pytest.raises(error, match=message):
        to_inference_data(draws, **kwargs)


def test_importing_the_module_imports_neither_arviz_nor_xarray_nor_torch():
    module = Path(to_inference_data.__code__.co_filename)
    code = (
        "import importlib.util as u, sys; s = u.spec_from_file_location('m', sys.argv[1]); "
        "m = u.module_from_spec(s); s.loader.exec_module(m); "
        "print(*sorted({'arviz', 'xarray', 'torch', 'hnbayes'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(module)], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
