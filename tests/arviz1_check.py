"""What ArviZ 1.x makes of `to_inference_data`, checked without torch: `python tests/arviz1_check.py`.

ArviZ 1.x needs Python 3.12, where torch need not be installed; so the module is loaded from its file, and
stand-ins take the place of `Draws` and `ParamSpec`. `test_inference_data.py` runs this where it finds such a
Python.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

C, S, W, D = 3, 60, 20, 8
RNG = np.random.default_rng(0)
POSITIONS = RNG.normal(size=(C, S, D)).astype(np.float32)
WARMUP = RNG.normal(size=(C, W, D)).astype(np.float32)
DIVERGENT = ((0, 3), (1, 5), (1, 6), (2, 50))


class Spec:
    """A linear layer of 3 inputs and 2 outputs: the names and shapes of its 8 numbers."""

    names = ("net/0.weight", "net/0.bias")
    shapes = ((2, 3), (2,))

    def unflatten(self, flat: Any) -> dict[str, Any]:
        weight = flat[..., :6].reshape(*flat.shape[:-1], 2, 3)
        return {"net/0.weight": weight, "net/0.bias": flat[..., 6:]}


def make_stats(n_draws: int) -> dict[str, Any]:
    shape = (C, n_draws)
    diverging = np.zeros(shape, dtype=bool)
    for chain, draw in DIVERGENT:
        diverging[chain, draw % n_draws] = True
    return {
        "lp": RNG.normal(size=shape),
        "acceptance_rate": RNG.random(shape),
        "tree_depth": RNG.integers(1, 8, shape),
        "energy": RNG.normal(size=shape),
        "max_energy_error": np.where(diverging, np.inf, RNG.normal(size=shape)),
        # as integers, which the module has to turn into bool
        "diverging": diverging.astype(np.int64),
        "reached_max_treedepth": RNG.random(shape) < 0.2,
    }


STATS, WARMUP_STATS = make_stats(S), make_stats(W)
METADATA = {"kernel": "nuts", "seed": 7, "warmup": W, "thin": None, "progress": True, "sampling_time": 0.5}
OBSERVED = np.linspace(-1.0, 1.0, 25)
LOG_LIKELIHOOD = -0.5 * (OBSERVED - 0.05 * RNG.normal(size=(C, S, 1))) ** 2


def load_module() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "hnbayes" / "inference_data.py"
    spec = importlib.util.spec_from_file_location("hnbayes_inference_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_tree() -> xr.DataTree:
    draws = SimpleNamespace(
        positions=POSITIONS,
        stats=STATS,
        warmup_positions=WARMUP,
        warmup_stats=WARMUP_STATS,
        spec=Spec(),
        metadata=METADATA,
    )
    tree = load_module().to_inference_data(
        SimpleNamespace(to_draws=lambda: draws),
        dims={"net/0.bias": ["unit"], "y": ["obs"]},
        coords={"unit": ["left", "right"]},
        attrs={"scale": [0.5, 2.0]},
        groups={"log_likelihood": {"y": LOG_LIKELIHOOD}, "observed_data": {"y": OBSERVED}},
    )
    assert type(tree) is xr.DataTree
    return tree


def expected_groups() -> dict[str, dict[str, Any]]:
    """Group -> variable -> values, by numpy indexing of what went in."""
    return {
        "posterior": {
            "net.0.weight": np.stack([POSITIONS[..., 0:3], POSITIONS[..., 3:6]], axis=2),
            "net.0.bias": POSITIONS[..., 6:8],
        },
        "warmup_posterior": {
            "net.0.weight": np.stack([WARMUP[..., 0:3], WARMUP[..., 3:6]], axis=2),
            "net.0.bias": WARMUP[..., 6:8],
        },
        "sample_stats": STATS,
        "warmup_sample_stats": WARMUP_STATS,
        "log_likelihood": {"y": LOG_LIKELIHOOD},
        "observed_data": {"y": OBSERVED},
    }


def check_contents(tree: xr.DataTree) -> None:
    expected = expected_groups()
    assert set(tree.children) == set(expected)
    for group, variables in expected.items():
        assert set(tree[group].data_vars) == set(variables)
        for name, values in variables.items():
            np.testing.assert_array_equal(tree[group][name].values, values)
        if group != "observed_data":
            assert all(data.dims[:2] == ("chain", "draw") for data in tree[group].data_vars.values())
            np.testing.assert_array_equal(tree[group]["chain"].values, range(C))
            np.testing.assert_array_equal(tree[group]["draw"].values, range(W if "warmup" in group else S))
        attrs = dict(tree[group].attrs)
        assert isinstance(attrs.pop("created_at"), str)
        assert isinstance(attrs.pop("inference_library_version"), str)
        np.testing.assert_array_equal(attrs.pop("scale"), [0.5, 2.0])
        assert attrs == {
            "inference_library": "hnbayes",
            "tuning_steps": W,
            "kernel": "nuts",
            "seed": 7,
            "warmup": W,
            "progress": "True",
            "sampling_time": 0.5,
        }
    for name in ("diverging", "reached_max_treedepth"):
        assert tree["sample_stats"][name].dtype == bool
    assert tree["posterior"]["net.0.weight"].dims[2:] == ("net.0.weight_dim_0", "net.0.weight_dim_1")
    assert list(tree["posterior"]["unit"].values) == ["left", "right"]


def check_empty_groups(tree: xr.DataTree) -> None:
    bare = SimpleNamespace(positions=POSITIONS, stats={}, warmup_positions=None, spec=None, metadata={})
    assert set(load_module().to_inference_data(bare).children) == {"posterior"}


def check_memory(tree: xr.DataTree) -> None:
    for name in ("net.0.weight", "net.0.bias"):
        assert np.shares_memory(tree["posterior"][name].values, POSITIONS)
        assert np.shares_memory(tree["warmup_posterior"][name].values, WARMUP)


def check_file(tree: xr.DataTree) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "draws.nc"
        tree.to_netcdf(path)
        with az.from_netcdf(path) as back:
            check_contents(back)


def check_numbers(tree: xr.DataTree) -> None:
    table = az.summary(tree, round_to="none")
    flat = POSITIONS.astype(np.float64).reshape(C * S, D)
    labels = [f"net.0.weight[{i}, {j}]" for i in range(2) for j in range(3)]
    labels += ["net.0.bias[left]", "net.0.bias[right]"]
    np.testing.assert_allclose(table.loc[labels, "mean"], flat.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table.loc[labels, "sd"], flat.std(0, ddof=1), rtol=1e-4)
    energy = STATS["energy"]
    bfmi = np.square(np.diff(energy, axis=1)).mean(1) / energy.var(1, ddof=1)
    np.testing.assert_allclose(az.bfmi(tree)["energy"].values, bfmi, rtol=1e-6)
    # These draws hardly differ in their likelihood, so that leaving a point out changes next to nothing.
    pointwise = np.log(np.mean(np.exp(LOG_LIKELIHOOD), axis=(0, 1)))
    np.testing.assert_allclose(az.loo(tree, reff=1.0).elpd, pointwise.sum(), rtol=1e-2)


def check_plots(tree: xr.DataTree) -> None:
    trace = az.plot_trace(tree, var_names=["net.0.bias"])
    lines = trace.viz["trace"]["net.0.bias"]
    for chain in range(C):
        shown = lines.sel(chain=chain, unit="right").item().get_ydata()
        np.testing.assert_array_equal(shown, POSITIONS[chain, :, 7])
    energy = az.plot_energy(tree)
    assert set(energy.viz["dist"]["energy"].values) == {"marginal", "transition"}
    pair = az.plot_pair(tree, var_names=["net.0.bias"], visuals={"divergence": True})
    # Below the diagonal: all draws first, one set of points a chain, then the divergent ones.
    below = pair.viz["plot"].sel(row_index=1, col_index=0).item()
    points = [np.asarray(marks.get_offsets()) for marks in below.collections]
    expected = np.array([POSITIONS[chain, draw, 6:8] for chain, draw in DIVERGENT])
    assert [len(some) for some in points[:C]] == [S] * C
    np.testing.assert_array_equal(np.concatenate(points[C:]), expected)
    plt.close("all")


def load_diagnostics() -> ModuleType:
    """`hnbayes.diagnostics` in a package without its `__init__`, which imports torch."""
    bare = ModuleType("hnbayes")
    bare.__path__ = [str(Path(__file__).resolve().parents[1] / "hnbayes")]
    sys.modules["hnbayes"] = bare
    return importlib.import_module("hnbayes.diagnostics")


def check_diagnostics(tree: xr.DataTree) -> None:
    diagnostics = load_diagnostics()
    x = RNG.normal(size=(4, 100, 3)).cumsum(1) * 0.1 + RNG.normal(size=(4, 100, 3))
    for i in range(3):
        np.testing.assert_allclose(diagnostics.rhat(x)[i], az.rhat(x[..., i]), rtol=1e-10)
        tail = az.ess(x[..., i], method="tail", prob=(0.05, 0.95))
        np.testing.assert_allclose(diagnostics.ess(x, "tail")[i], tail, rtol=1e-10)
        np.testing.assert_allclose(diagnostics.mcse(x, "sd")[i], az.mcse(x[..., i], method="sd"), rtol=1e-10)
        # ArviZ 1.x has a nested R-hat of its own: as it is, without ranks.
        ids = np.array([0, 1, 0, 1])
        expected = az.rhat_nested(x[..., i], superchain_ids=ids, method="identity")
        np.testing.assert_allclose(diagnostics.nested_rhat(x, ids, rank_normalise=False)[i], expected, rtol=1e-10)
    found, expected = diagnostics.loo(tree), az.loo(tree, reff=diagnostics.relative_efficiency(LOG_LIKELIHOOD))
    assert found.elpd == expected.elpd
    report = diagnostics.diagnose(tree, functions=x[:C, :S])
    assert report["divergences"].numbers["divergences"] == len(DIVERGENT)
    bfmi = float(az.bfmi(tree)["energy"].min())
    np.testing.assert_allclose(report["energy"].numbers["worst_bfmi"], bfmi, rtol=1e-6)
    assert "leave-one-out" in str(report)


def main() -> int:
    """Run every check; an AssertionError says which one fails."""
    if int(az.__version__.split(".")[0]) < 1:
        print(f"ArviZ {az.__version__} is installed, and this checks 1.x: run it with another Python")
        return 1
    tree = make_tree()
    for check in (
        check_contents,
        check_empty_groups,
        check_memory,
        check_numbers,
        check_plots,
        check_file,
        check_diagnostics,
    ):
        check(tree)
    print(f"ArviZ {az.__version__}: contents, memory, numbers, plots, files and diagnostics are right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
