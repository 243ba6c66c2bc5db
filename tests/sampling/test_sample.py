"""The options of `sample_potential`, what watches and stops a run, and what it says of bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from targets import gaussian, independent_gaussian, standard_normal

import hnbayes
from hnbayes.kernels import HMC, NUTS, RandomWalkMetropolis
from hnbayes.params import ParamSpec
from hnbayes.potentials import Potential
from hnbayes.sampling import Draws, SamplingWarning, sample_potential
from hnbayes.sampling.callbacks import Event, StopSampling

KERNELS = ("nuts", "hmc", "metropolis")
every_kernel = pytest.mark.parametrize("kernel", KERNELS)
TARGET = independent_gaussian([0.5, 1.0, 2.0])


def short(potential=TARGET.potential, start=None, **options):
    start = TARGET.draw(3, seed=1) if start is None else start
    options = {"warmup": 30, "draws": 20, "seed": 0, "progress": False} | options
    return sample_potential(potential, start, **options)


# Shapes and dtypes


@every_kernel
@pytest.mark.parametrize(("draws", "thin", "kept"), [(20, 1, 20), (20, 3, 6), (20, 20, 1)])
def test_shapes(kernel, draws, thin, kept):
    result = short(kernel=kernel, draws=draws, thin=thin)
    assert isinstance(result, Draws)
    assert result.positions.shape == (3, kept, 3)
    assert (result.chains, result.num_draws) == (3, kept)
    assert {values.shape for values in result.stats.values()} == {(3, kept)}
    assert result.step_size.shape == (3,)
    assert result.inverse_metric.shape == (3, 3)
    assert result.warmup_positions is result.warmup_stats is result.ragged_positions is None
    assert repr(result) == f"Draws(3 chains x {kept} draws x 3 dimensions, {result.metadata['kernel']})"


@every_kernel
def test_thinning_keeps_every_third_draw_of_the_run(kernel):
    whole, thinned = short(kernel=kernel), short(kernel=kernel, thin=3)
    assert torch.equal(thinned.positions, whole.positions[:, 2::3])
    for name, values in thinned.stats.items():
        assert torch.equal(values, whole.stats[name][:, 2::3]), name


@every_kernel
def test_warmup_can_be_kept(kernel):
    without, result = short(kernel=kernel), short(kernel=kernel, save_warmup=True)
    assert result.warmup_positions.shape == (3, 30, 3)
    assert set(result.warmup_stats) == set(result.stats)
    assert {values.shape for values in result.warmup_stats.values()} == {(3, 30)}
    assert torch.equal(result.positions, without.positions)
    energy = torch.stack([torch.stack([TARGET.potential(q) for q in chain]) for chain in result.warmup_positions])
    torch.testing.assert_close(result.warmup_stats["lp"], -energy, rtol=1e-10, atol=1e-10)


def test_warmup_is_not_thinned():
    assert short(save_warmup=True, thin=4).warmup_positions.shape == (3, 30, 3)


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", ["diag", "dense", "unit"])
def test_dtypes(kernel, dtype, metric):
    result = short(start=TARGET.draw(2, seed=1).to(dtype), kernel=kernel, metric=metric, save_warmup=True)
    assert result.positions.dtype == result.warmup_positions.dtype == dtype
    assert result.inverse_metric.shape == ((2, 3, 3) if metric == "dense" else (2, 3))
    for name, values in result.stats.items():
        wanted = {"diverging": torch.bool, "accepted": torch.bool, "reached_max_treedepth": torch.bool}
        wanted |= {"n_steps": torch.int64, "tree_depth": torch.int64}
        assert values.dtype == wanted.get(name, torch.float64), name


def test_initial_positions_as_a_list():
    start = TARGET.draw(3, seed=1)
    assert torch.equal(short(start=list(start)).positions, short(start=start).positions)


def test_positions_start_where_they_are_told():
    start = TARGET.draw(3, seed=1)
    result = short(start=start, warmup=0, draws=1, kernel="metropolis", step_size=1e-9, adapt_step_size=False)
    torch.testing.assert_close(result.positions[:, 0], start, rtol=0, atol=1e-7)


def test_parameters_by_name():
    spec = ParamSpec(("a", "b"), ((), (2,)))
    result = short(Potential(TARGET.potential, spec=spec))
    assert result.spec is spec
    assert {name: tuple(values.shape) for name, values in result.params().items()} == {"a": (3, 20), "b": (3, 20, 2)}
    assert torch.equal(result.params()["b"], result.positions[..., 1:])
    with pytest.raises(ValueError, match=r"names; received draws of a plain function. Use nn_pot_energy"):
        short().params()


def test_metadata():
    metadata = short(kernel="hmc", thin=2, target_accept=0.7).metadata
    expected = {"kernel": "HMC", "seed": 0, "chains": 3, "warmup": 30, "draws": 20, "thin": 2, "target_accept": 0.7}
    assert expected.items() <= metadata.items()
    assert metadata["interrupted"] == 0
    assert metadata["sampling_time"] > 0
    assert metadata["version"] == hnbayes.__version__


# Step size, metric, kernel


@every_kernel
def test_step_size_can_be_fixed(kernel):
    result = short(kernel=kernel, step_size=0.3, adapt_step_size=False, save_warmup=True)
    for values in (result.step_size, result.stats["step_size"], result.warmup_stats["step_size"]):
        assert (values == 0.3).all()


@every_kernel
def test_step_size_starts_as_told_and_adapts(kernel):
    result = short(kernel=kernel, step_size=0.3, save_warmup=True)
    assert (result.warmup_stats["step_size"][:, 0] == 0.3).all()
    assert (result.step_size != 0.3).all()


def test_step_size_as_a_tensor_of_no_dimensions():
    assert torch.equal(short(step_size=torch.tensor(0.25)).positions, short(step_size=0.25).positions)


def test_metropolis_aims_at_its_own_acceptance():
    target = independent_gaussian([1.0] * 10)
    start = target.draw(10, seed=2)
    assert short(target.potential, start, kernel="metropolis").metadata["target_accept"] == 0.234
    for kernel, wanted in ((RandomWalkMetropolis(0.5), 0.5),):
        result = short(target.potential, start, kernel=kernel, warmup=300, draws=300, target_accept=0.9)
        assert result.metadata["target_accept"] == wanted
        # The mean of 3000 acceptances, and of ten averages of 50 transitions' step sizes.
        assert abs(float(result.stats["acceptance_rate"].mean()) - wanted) < 0.08


METRICS = {
    "number": torch.tensor(0.5),
    "diagonal": torch.tensor([0.2, 1.0, 4.0]),
    "matrix": torch.tensor([[1.0, 0.2, 0.0], [0.2, 2.0, 0.1], [0.0, 0.1, 3.0]]),
}


@every_kernel
@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
def test_a_metric_that_is_given_is_kept(kernel, metric):
    result = short(kernel=kernel, metric=metric.double())
    expected = metric.double() if metric.ndim == 2 else metric.double().expand(3)
    torch.testing.assert_close(result.inverse_metric, expected.expand(3, *expected.shape), rtol=0, atol=0)


def test_unit_metric_is_the_identity():
    assert (short(metric="unit").inverse_metric == 1).all()
    assert torch.equal(short(metric="unit").positions, short(metric=torch.tensor(1.0)).positions)


def test_metric_in_blocks():
    covariance = torch.tensor([[1.0, 0.8, 0.5], [0.8, 1.0, 0.5], [0.5, 0.5, 1.0]])
    potential = Potential(gaussian(covariance).potential, spec=ParamSpec(("a", "b", "c"), ((), (), ())))
    result = short(potential, gaussian(covariance).draw(2, seed=1), metric=[("a", "b")], warmup=300)
    inverse = result.inverse_metric
    assert (inverse[:, :2, 2] == 0).all()
    assert (inverse[:, 0, 1] > 0.4).all()
    torch.testing.assert_close(inverse, inverse.mT)


@pytest.mark.parametrize(
    ("name", "kernel", "options"),
    [
        ("nuts", NUTS(), {}),
        ("nuts", NUTS(max_tree_depth=2), {"max_tree_depth": 2}),
        ("hmc", HMC(), {}),
        ("hmc", HMC(num_steps=5), {"num_steps": 5}),
        ("metropolis", RandomWalkMetropolis(), {}),
    ],
)
@pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")
def test_kernels_by_name_and_as_objects(name, kernel, options):
    assert torch.equal(short(kernel=name, **options).positions, short(kernel=kernel).positions)


def test_kernels_do_as_they_are_told():
    assert (short(kernel="hmc", num_steps=5).stats["n_steps"] == 5).all()
    with pytest.warns(SamplingWarning, match="cut at the maximum tree depth"):
        result = short(kernel="nuts", max_tree_depth=2, step_size=0.01, adapt_step_size=False)
    assert result.stats["tree_depth"].max() == 2
    assert result.stats["n_steps"].max() == 3
    assert result.stats["reached_max_treedepth"].all()


def test_without_warmup():
    result = short(warmup=0, step_size=0.5)
    assert (result.step_size == 0.5).all()
    assert (result.inverse_metric == 1).all()
    assert short(warmup=0, save_warmup=True, step_size=0.5).warmup_positions.shape == (3, 0, 3)


@pytest.mark.filterwarnings("ignore::hnbayes.SamplingWarning")  # the runs are too short to adapt
def test_one_chain_of_one_dimension_and_one_draw():
    result = short(independent_gaussian([1.0]).potential, torch.zeros(1, 1), draws=1)
    assert result.positions.shape == (1, 1, 1)


@pytest.mark.parametrize("metric", ["diag", "dense"])
def test_pooled_adaptation(metric):
    """Chains learn from each other, and still each has its own step size."""
    pooled, alone = (
        short(adaptation=how, metric=metric, warmup=200, start=TARGET.draw(6, seed=1))
        for how in ("pooled", "per-chain")
    )
    scale = TARGET.covariance.diagonal()

    def spread(draws):
        inverse = draws.inverse_metric.diagonal(dim1=-2, dim2=-1) if metric == "dense" else draws.inverse_metric
        return float((inverse / scale).log().std(0).mean())

    assert spread(pooled) < spread(alone)
    assert len(set(pooled.step_size.tolist())) == 6


# Callbacks


@every_kernel
def test_callbacks_see_every_transition(kernel):
    events = []
    result = short(kernel=kernel, callbacks=[events.append, events.append], save_warmup=True)
    assert all(isinstance(event, Event) for event in events)
    assert all(a is b for a, b in zip(events[::2], events[1::2], strict=True))
    seen = torch.full((3, 50, 3), math.nan, dtype=torch.float64)
    for event in events[::2]:
        assert (event.warmup, event.total) == (30, 50)
        assert set(event.info) == set(result.stats)
        assert event.warming_up.tolist() == [done <= 30 for done in event.done]
        assert event.positions.shape == (len(event.chains), 3)
        for chain, done, position in zip(event.chains, event.done, event.positions, strict=True):
            assert seen[chain, done - 1].isnan().all()
            seen[chain, done - 1] = torch.from_numpy(position)
    assert torch.equal(seen, torch.cat((result.warmup_positions, result.positions), 1))


def stop_at(chain, done, error):
    """A callback that raises when a chain has completed so many transitions."""

    def callback(event):
        if (event.done[event.chains == chain] >= done).any():
            raise error

    return callback


def stop_when_all(done, error):
    """A callback that raises when the last of the chains has completed so many transitions."""
    counts = {}

    def callback(event):
        counts.update(zip(event.chains.tolist(), event.done.tolist(), strict=True))
        if len(counts) == 3 and min(counts.values()) >= done:
            raise error

    return callback


def check_is_beginning_of(part, whole):
    """The draws of an interrupted run are those with which the whole run began."""
    kept = part.num_draws
    assert torch.equal(part.positions, whole.positions[:, :kept])
    for name, values in part.stats.items():
        assert torch.equal(values, whole.stats[name][:, :kept]), name
    if part.ragged_positions is not None:
        assert min(len(chain) for chain in part.ragged_positions) == kept
        for chain, draws in zip(part.ragged_positions, whole.positions, strict=True):
            assert torch.equal(chain, draws[: len(chain)])
    assert part.metadata["interrupted"] == 1


@pytest.mark.parametrize("kernel", ["nuts", "metropolis"])
@pytest.mark.parametrize("error", [StopSampling(), KeyboardInterrupt()], ids=["stop", "ctrl-c"])
def test_a_run_that_is_stopped_returns_the_draws_so_far(kernel, error):
    whole = short(kernel=kernel)
    part = short(kernel=kernel, callbacks=[stop_when_all(38, error)])
    check_is_beginning_of(part, whole)
    lengths = [len(chain) for chain in part.ragged_positions or part.positions]
    assert min(lengths) == 8
    if kernel == "nuts":
        assert len(set(lengths)) > 1


@pytest.mark.parametrize("kernel", ["nuts", "hmc"])
def test_ctrl_c_within_the_potential(kernel):
    calls = []

    def potential(q):
        calls.append(1)
        if len(calls) == when:
            raise KeyboardInterrupt
        return TARGET.potential(q)

    when = math.inf
    whole = short(Potential(potential, compile=False), kernel=kernel)
    when, _ = round(0.95 * len(calls)), calls.clear()
    part = short(Potential(potential, compile=False), kernel=kernel)
    check_is_beginning_of(part, whole)
    assert 0 < part.num_draws < 20


def test_warnings_stand_at_the_callers_line():
    with pytest.warns(SamplingWarning, match="cut at the maximum tree depth") as caught:
        short(step_size=1e-3, adapt_step_size=False, max_tree_depth=2)
    assert {warning.filename for warning in caught} == {__file__}


def test_a_run_stopped_in_warmup_says_so():
    with pytest.warns(SamplingWarning, match=r"interrupted before any draw was kept; save_warmup=True"):
        result = short(callbacks=[stop_at(0, 10, KeyboardInterrupt())])
    assert result.positions.shape == (3, 0, 3)
    with pytest.warns(SamplingWarning, match="interrupted before any draw"):
        result = short(callbacks=[stop_at(0, 10, StopSampling())], save_warmup=True)
    assert 0 < result.warmup_positions.shape[1] <= 10


@pytest.mark.parametrize("error", [RuntimeError, ValueError, ZeroDivisionError])
def test_an_error_of_a_callback_surfaces_with_the_draws(error):
    whole = short()
    with pytest.raises(error, match="of the callback") as caught:
        short(callbacks=[stop_when_all(38, error("of the callback"))])
    kept = caught.value.draws.positions
    assert kept.shape[1] > 0
    assert torch.equal(kept, whole.positions[:, : kept.shape[1]])


def test_progress_bar(capfd):
    short(progress=True, warmup=50, draws=50)
    out, err = capfd.readouterr()
    assert out == ""
    assert "300/300" in err
    for shown in ("draw", "diverging=", "step=", "depth="):
        assert shown in err
    short(progress=False)
    assert capfd.readouterr() == ("", "")


def test_progress_bar_changes_no_draw(capfd):
    assert torch.equal(short(progress=True).positions, short(progress=False).positions)
    assert "150/150" in capfd.readouterr().err


def test_progress_bar_is_closed_by_an_error(capfd):
    with pytest.raises(RuntimeError):
        short(progress=True, callbacks=[stop_at(0, 10, RuntimeError())])
    assert "30 draws" not in capfd.readouterr().err


# Bad input: errors say what must hold, what was received and what to do.

START = torch.zeros(2, 3)


def no_scalar(q):
    return 0.5 * q.square()


def one_element(q):
    return 0.5 * q.square().sum(0, keepdim=True)


def a_float(q):
    return 0.5


def without_gradient(q):
    return q.detach().square().sum()


def an_integer(q):
    return q.square().sum().long()


def nan_for_the_second(q):
    return torch.where(q[0] > 0.5, math.nan, q.square().sum())


def minus_infinity(q):
    return q.square().sum() - math.inf


def infinite_gradient(q):
    return q.abs().sqrt().sum()


BAD_POTENTIALS = [
    (no_scalar, ValueError, r"potential must return a scalar .*shape \(3,\).*[Ss]um"),
    (one_element, ValueError, r"potential must return a scalar .*shape \(1,\)"),
    (a_float, TypeError, r"potential must return a 0-dimensional tensor; received 0.5 \(float\)"),
    (an_integer, TypeError, r"potential must return a floating-point value; received a torch.int64 tensor"),
    (
        minus_infinity,
        ValueError,
        r"potential must be finite at every initial position; received -inf for chain 0 \(2 of",
    ),
    (3.0, TypeError, r"potential must be a function .*; received 3.0 \(float\)"),
    (None, TypeError, r"potential must be a function .*; received None"),
]


@every_kernel
@pytest.mark.parametrize(("potential", "error", "message"), BAD_POTENTIALS)
def test_bad_potentials(kernel, potential, error, message):
    with pytest.raises(error, match=message):
        short(potential, START, kernel=kernel)


@every_kernel
def test_nan_at_the_start(kernel):
    start = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    message = r"potential must be finite at every initial position; received nan for chain 1 \(1 of 2.*Start elsewhere"
    with pytest.raises(ValueError, match=message):
        short(nan_for_the_second, start, kernel=kernel)


@pytest.mark.parametrize("kernel", ["nuts", "hmc"])
def test_bad_gradients_at_the_start(kernel):
    with pytest.raises(
        ValueError, match=r"gradient of the potential must be finite at every initial position; received"
    ):
        short(infinite_gradient, START, kernel=kernel)
    with pytest.raises(ValueError, match=r"must depend on the position .*; received a value without a gradient. Avoid"):
        short(without_gradient, START, kernel=kernel)


BAD_POSITIONS = [
    (torch.zeros(3), ValueError, r"positions must have shape \(C, D\).*received \(3,\).*q\[None\]"),
    (torch.zeros(2, 3, 1), ValueError, r"positions must have shape \(C, D\).*received \(2, 3, 1\)"),
    (torch.zeros(0, 3), ValueError, r"at least one chain .*received \(0, 3\)"),
    (torch.zeros(3, 0), ValueError, r"one dimension; received \(3, 0\)"),
    (
        torch.zeros(2, 3, dtype=torch.int64),
        TypeError,
        r"positions must be float32 or float64; received .*int64.*\.float",
    ),
    (torch.zeros(2, 3, dtype=torch.float16), TypeError, r"positions must be float32 or float64; received .*float16"),
    (
        torch.zeros(2, 3, dtype=torch.complex64),
        TypeError,
        r"positions must be float32 or float64; received .*complex64",
    ),
    (torch.tensor([[0.0, math.nan, 0.0]]), ValueError, r"positions must be finite; received 1 NaN .*index \(0, 1\)"),
    (torch.tensor([[0.0, math.inf, 0.0]]), ValueError, r"positions must be finite; received 1 NaN or infinite"),
    ([], ValueError, r"initial_positions must hold at least one chain; received none"),
    ([torch.zeros(3), torch.zeros(2)], ValueError, r"must be vectors \(D,\) of one size.*shape \(2,\).*shape \(3,\)"),
    ([torch.zeros(3), torch.zeros(3).double()], ValueError, r"one size, dtype and device; received .*float32.*float64"),
    ([torch.zeros(1, 3)], ValueError, r"must be vectors \(D,\).*received .*\(1, 3\)"),
    ([[0.0, 0.0, 0.0]], TypeError, r"each initial position must be a tensor \(D,\); received \[0.0"),
    (np.zeros((2, 3)), TypeError, r"initial_positions must be a tensor \(C, D\) or a list .*received .*ndarray"),
    (None, TypeError, r"initial_positions must be a tensor .*received None"),
]


@pytest.mark.parametrize(("start", "error", "message"), BAD_POSITIONS)
def test_bad_positions(start, error, message):
    with pytest.raises(error, match=message):
        sample_potential(TARGET.potential, start, progress=False)


def test_positions_must_fit_the_parameters():
    potential = Potential(TARGET.potential, spec=ParamSpec(("a",), ((3,),)))
    with pytest.raises(ValueError, match=r"positions must have D = 3.*received shape \(2, 4\)"):
        short(potential, torch.zeros(2, 4))


BAD_OPTIONS = [
    ({"draws": 0}, ValueError, r"draws must be at least 1; received 0"),
    ({"draws": 10.0}, TypeError, r"draws must be an integer; received 10.0 \(float\)"),
    ({"draws": True}, TypeError, r"draws must be an integer; received True"),
    ({"warmup": -1}, ValueError, r"warmup must be at least 0; received -1"),
    ({"warmup": "many"}, TypeError, r"warmup must be an integer; received 'many'"),
    ({"thin": 0}, ValueError, r"thin must be at least 1; received 0"),
    ({"thin": 21}, ValueError, r"thin must be at most draws, so that a draw is kept; received 21 and 20"),
    ({"step_size": 0.0}, ValueError, r"step_size must be finite and greater than 0; received 0.0"),
    ({"step_size": -0.1}, ValueError, r"step_size must be finite and greater than 0; received -0.1"),
    ({"step_size": math.nan}, ValueError, r"step_size must be finite and greater than 0; received nan"),
    ({"step_size": math.inf}, ValueError, r"step_size must be finite and greater than 0; received inf"),
    ({"step_size": "small"}, TypeError, r"step_size must be a positive number; received 'small'"),
    ({"step_size": torch.ones(2)}, TypeError, r"step_size must be a positive number; received .*shape \(2,\)"),
    ({"adapt_step_size": False}, ValueError, r"adapt_step_size=False needs a step_size; received None"),
    ({"target_accept": 0.0}, ValueError, r"target_accept must be .*greater than 0; received 0.0"),
    ({"target_accept": 1.0}, ValueError, r"target_accept must lie strictly between 0 and 1; received 1.0"),
    (
        {"kernel": "nut"},
        ValueError,
        r"kernel must be one of 'nuts', 'hmc', 'metropolis', 'mclmc', 'mamclmc', 'chees'; received 'nut'",
    ),
    ({"kernel": NUTS}, TypeError, r"kernel must be .*kernel object; received the class. Use NUTS\(\)"),
    ({"kernel": 3}, TypeError, r"kernel must be one of .*; received 3 \(int\)"),
    (
        {"kernel": "nuts", "num_steps": 5},
        ValueError,
        r"num_steps applies to kernel='hmc' only; received it with 'nuts'",
    ),
    ({"kernel": HMC(), "num_steps": 5}, ValueError, r"num_steps applies to kernel='hmc' only; received it with"),
    ({"kernel": "hmc", "num_steps": 0}, ValueError, r"num_steps must be at least 1; received 0"),
    ({"kernel": "hmc", "num_steps": 1.5}, TypeError, r"num_steps must be an integer; received 1.5"),
    ({"max_tree_depth": 0}, ValueError, r"max_tree_depth must be at least 1; received 0"),
    ({"max_tree_depth": 30}, ValueError, r"max_tree_depth must be at most 20; received 30"),
    ({"metric": "full"}, ValueError, r"metric must be one of 'diag', 'dense', 'unit'; received 'full'"),
    ({"metric": None}, (TypeError, ValueError), r"metric must be .*; received None"),
    ({"metric": torch.ones(2)}, ValueError, r"inverse mass must .*\(3,\) or \(3, 3\); received shape \(2,\)"),
    ({"metric": torch.tensor([1.0, 0.0, 1.0])}, ValueError, r"inverse mass must be positive; received .*0.0"),
    ({"metric": torch.tensor([1.0, math.nan, 1.0])}, ValueError, r"inverse mass must be finite; received NaN"),
    ({"metric": torch.ones(3, 3)}, ValueError, r"inverse mass matrix must be positive definite; received"),
    (
        {"metric": torch.eye(3) + torch.ones(3, 3).triu(1)},
        ValueError,
        r"inverse mass matrix must be symmetric; received",
    ),
    ({"metric": [("a", "b")]}, ValueError, r"metric need the parameters' names; received a potential without a spec"),
    ({"metric": ["a"]}, TypeError, r"metric must be a name, a tensor or a list of tuples of names; received \['a'\]"),
    ({"seed": -1}, ValueError, r"seed must be a non-negative integer or None; received -1"),
    ({"seed": 1.0}, TypeError, r"seed must be a non-negative integer or None; received 1.0 \(float\)"),
    ({"seed": True}, TypeError, r"seed must be a non-negative integer or None; received True"),
    ({"chain_ids": [0, 0]}, ValueError, r"chain_ids must be 2 different numbers, one a chain; received \[0, 0\]"),
    ({"chain_ids": [0, 1, 2]}, ValueError, r"chain_ids must be 2 different numbers, one a chain; received \[0, 1, 2\]"),
    ({"chain_ids": [0, -1]}, ValueError, r"chain id must be at least 0; received -1"),
    ({"chain_ids": [0, 1.5]}, TypeError, r"chain id must be an integer; received 1.5"),
    ({"adaptation": "shared"}, ValueError, r"adaptation must be one of 'per-chain', 'pooled'; received 'shared'"),
    ({"compile": "yes"}, ValueError, r"compile must be one of 'auto', True, False; received 'yes'"),
    ({"callbacks": [3]}, TypeError, r"callbacks must be a list of functions of an Event; received \[3\]"),
    ({"callbacks": print}, TypeError, r"callbacks must be .*; received .*print"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        short(start=START, **options)


def test_bad_blocks_of_the_metric():
    potential = Potential(TARGET.potential, spec=ParamSpec(("a", "b"), ((), (2,))))
    with pytest.raises(ValueError, match=r"no parameter 'c'; the parameters are a, b"):
        short(potential, START, metric=[("a", "c")])
    with pytest.raises(ValueError, match=r"in one block of the metric only; received"):
        short(potential, START, metric=[("a", "b"), ("a",)])


def test_bad_input_changes_nothing():
    """A run that is refused draws no seed."""
    before = torch.get_rng_state()
    for options in ({"draws": 0}, {"kernel": "nut"}, {"metric": "full"}, {"step_size": 0.0}):
        with pytest.raises(ValueError):
            short(start=START, **{"seed": None} | options)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore::hnbayes.SamplingWarning")  # the runs are too short to adapt
def test_starts_of_any_layout():
    """Positions that are views, as transposed or strided ones are, go in as they are."""
    start = standard_normal(3, 2, seed=3)
    for view in (start.mT, start.repeat(2, 1)[::2].mT, start.mT[:, :1].expand(2, 3)):
        assert torch.equal(short(start=view).positions, short(start=view.contiguous()).positions)
