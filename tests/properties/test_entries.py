"""Any input: a public entry either does what it says or raises a TypeError or ValueError, and changes nothing given."""

from __future__ import annotations

import collections
import os
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import hnbayes
from hnbayes import diagnostics, laplace, likelihoods, priors

# How many inputs each entry was tried with, and how many of them it took; printed at the end.
TRIED: collections.Counter[str] = collections.Counter()
TAKEN: collections.Counter[str] = collections.Counter()
# The same inputs in every run; for others, and more, set HNBAYES_EXAMPLES to how many times as many.
TIMES = int(os.environ.get("HNBAYES_EXAMPLES", "1"))
PLENTY = settings(
    max_examples=120 * TIMES,
    derandomize=TIMES == 1,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
FEW = settings(PLENTY, max_examples=40 * TIMES)

DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.uint8, torch.bool),
)
ODD_NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, -1e30, float("nan"), float("inf"), float("-inf"))


@st.composite
def tensors(draw, shape=None, dtypes=DTYPES, tame=0.6):
    """Tensors of any dtype and layout: strided, expanded, with a graph, of inference mode, in read-only memory."""
    shape = draw(shapes()) if shape is None or draw(st.integers(0, 9)) == 0 else shape
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from(dtypes)) if draw(st.floats(0, 1)) > tame else dtypes[0]
    values = torch.randn(tuple(shape), generator=generator)
    values = (values * 3).to(dtype) if dtype not in (torch.complex64,) else values.to(dtype)
    if values.is_floating_point() and values.numel() and draw(st.integers(0, 3)) == 0:
        flat = values.reshape(-1)
        flat[draw(st.integers(0, len(flat) - 1))] = draw(st.sampled_from(ODD_NUMBERS))
        values = flat.reshape(shape)
    layout = draw(st.sampled_from(("plain", "plain", "strided", "transposed", "graph", "inference", "read-only")))
    if layout == "strided" and values.ndim:
        wide = torch.stack((values, values), -1)
        values = wide[..., 0]
    elif layout == "transposed" and values.ndim > 1:
        values = values.transpose(0, 1).contiguous().transpose(0, 1)
    elif layout == "graph" and values.is_floating_point():
        values = values.requires_grad_() if draw(st.booleans()) else (values.requires_grad_() * 1.0)
    elif layout == "inference":
        with torch.inference_mode():
            values = values.clone()
    elif layout == "read-only" and dtype in (torch.float32, torch.float64, torch.int64):
        array = values.numpy().copy()
        array.setflags(write=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = torch.from_numpy(array)
    return values


def shapes():
    return st.lists(st.sampled_from((0, 1, 2, 3, 7)), max_size=4).map(tuple)


@st.composite
def arrays(draw, shape):
    """NumPy arrays, also read-only, reversed and of other byte order or dtype; lists; and things that are no arrays."""
    kind = draw(st.sampled_from(("tensor", "tensor", "array", "list", "nothing")))
    if kind == "tensor":
        return draw(tensors(shape))
    if kind == "nothing":
        return draw(anything())
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from(("f8", "f4", "f2", ">f8", "i8", "u2", "?", "O", "U3", "c16", "M8[s]")))
    values = rng.normal(size=shape).astype("i8" if dtype in ("M8[s]", "u2") else "f8").astype(dtype)
    if draw(st.booleans()) and values.ndim:
        values = values[::-1]
    if draw(st.booleans()):
        values.setflags(write=False)
    return values.tolist() if kind == "list" else values


def anything():
    """What no entry takes."""
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=5),
        st.binary(max_size=5),
        st.just([]),
        st.just({}),
        st.just(object()),
        st.just(print),
        st.just(nn.Linear),
        st.just(float),
    )


def snapshot(value):
    """What a value is, to see whether it was changed."""
    if isinstance(value, torch.Tensor):
        with torch.inference_mode(False):
            content = value.detach().clone()
        return ("tensor", content, value.requires_grad, value.dtype, tuple(value.shape), value.stride())
    if isinstance(value, np.ndarray):
        return ("array", value.copy(), value.dtype, value.shape, value.strides, value.flags.writeable)
    if isinstance(value, nn.Module):
        return ("module", {k: v.clone() for k, v in value.state_dict().items()}, value.training)
    if isinstance(value, (list, tuple)):
        return ("list", [snapshot(item) for item in value])
    return ("other", repr(value))


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a.nan_to_num(7.5), b.nan_to_num(7.5)) and torch.equal(a != a, b != b)
    if isinstance(a, np.ndarray):
        return a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def attempt(name, entry, *values):
    """Call an entry; its result, or None where it refuses by a clear error. Whatever it was given stays as it was."""
    TRIED[name] += 1
    before, rng = [snapshot(value) for value in values], torch.get_rng_state()
    result = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        message = None
        try:
            result = entry(*values)
        except (TypeError, ValueError) as error:
            message = str(error)
    assert message is None or len(message) > 15, f"an error that says nothing: {message}"
    TAKEN[name] += message is None
    assert same(before, [snapshot(value) for value in values]), "what was given has changed"
    assert torch.equal(rng, torch.get_rng_state()), "the global generator has moved"
    return result


@pytest.fixture(scope="module", autouse=True)
def count():
    yield
    print()
    for name, tried in sorted(TRIED.items()):
        print(f"{name}: {tried} inputs, {TAKEN[name]} taken")
    print(f"all: {sum(TRIED.values())} inputs")
    # Not all refused: then nothing would have been tried.
    assert all(TAKEN[name] > 0 for name in TRIED)


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))


SHORT = {"warmup": 2, "draws": 2, "seed": 0, "progress": False, "compile": False}


def U(q):
    return 0.5 * q.square().sum()


@PLENTY
@given(tensors((2, 3)))
def test_sample_potential_takes_any_positions(start):
    options = SHORT | {"kernel": "hmc", "num_steps": 2, "step_size": 0.1}
    draws = attempt("sample_potential", lambda x: hnbayes.sample_potential(U, x, **options), start)
    if draws is not None:
        assert draws.positions.shape == (start.shape[0], 2, start.shape[1])
        assert draws.positions.dtype == start.dtype
        assert torch.isfinite(draws.positions).all()


OPTIONS = {
    "kernel": st.sampled_from(("nuts", "hmc", "metropolis", "gibbs")),
    "warmup": st.integers(-1, 3),
    "draws": st.integers(-1, 3),
    "step_size": st.sampled_from((None, *ODD_NUMBERS)),
    "num_steps": st.sampled_from((None, 0, 1, 3)),
    "target_accept": st.sampled_from((0.0, 0.5, 0.8, 1.0, float("nan"))),
    "max_tree_depth": st.integers(-1, 25),
    "metric": st.one_of(st.sampled_from(("diag", "dense", "unit", "x")), tensors((3,)), tensors((3, 3))),
    "thin": st.integers(-1, 3),
    "seed": st.integers(-1, 2**80),
    "adapt_step_size": st.booleans(),
    "adaptation": st.sampled_from(("per-chain", "pooled", "both")),
    "chain_ids": st.lists(st.integers(-1, 3), max_size=3),
    "checkpoint_every": st.sampled_from(ODD_NUMBERS),
    "storage_dtype": st.sampled_from(DTYPES),
    "on_error": st.sampled_from(("raise", "drop", "pass")),
}


@PLENTY
@given(st.data())
def test_sample_potential_takes_any_options(data):
    chosen = data.draw(st.lists(st.sampled_from(sorted(OPTIONS)), max_size=3, unique=True))
    options = {}
    for name in chosen:
        odd = data.draw(st.integers(0, 3)) == 0 and name != "seed"  # None is a seed, drawn from the global generator
        options[name] = data.draw(anything() if odd else OPTIONS[name])
    # What is right, but takes long.
    if options.get("step_size") in (1e-30, None) or "metric" in options:
        options.setdefault("max_tree_depth", 3)
    start = torch.zeros(2, 3)
    entry = lambda *values: hnbayes.sample_potential(U, start, **SHORT | dict(zip(options, values, strict=True)))  # noqa: E731
    draws = attempt("sample_potential options", entry, *options.values())
    if draws is not None:
        assert torch.isfinite(draws.positions).all()


@FEW
@given(arrays((6, 2)), arrays((6, 1)))
def test_sample_takes_any_data(X, y):
    options = SHORT | {"chains": 1, "map_steps": 2, "max_tree_depth": 2}
    post = attempt("sample", lambda n, X, y: hnbayes.sample(n, X, y, **options), net(), X, y)
    if post is not None:
        assert post.chains == 1
        assert np.isfinite(attempt("log_likelihood", post.log_likelihood)).all()


@pytest.fixture(scope="module")
def posterior():
    X = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hnbayes.sample(net(), X, X[:, :1], **SHORT | {"chains": 2, "map_steps": 2, "max_tree_depth": 2})


@PLENTY
@given(data=st.data())
def test_predict_and_score_take_any_data(posterior, data):
    X, y = data.draw(arrays((5, 2))), data.draw(arrays((5, 1)))
    found = attempt("predict", posterior.predict, X)
    if found is not None:
        assert found.sizes["point"] == len(X)
        assert np.isfinite(found["sd"]).all()
    scores = attempt("score", posterior.score, X, y)
    if scores is not None:
        assert all(isinstance(value, float) for value in scores.values())


@PLENTY
@given(
    tensors((6, 2)),
    tensors((6, 1)),
    st.sampled_from((1.0, *ODD_NUMBERS)),
    st.sampled_from(("regression", "classification", "x")),
)
def test_nn_pot_energy_takes_any_data(X, y, tau, kind):
    made = lambda n, X, y: hnbayes.nn_pot_energy(n, X, y, hnbayes.log_prob_standard_normal_prior, tau, kind)  # noqa: E731
    potential = attempt("nn_pot_energy", made, net(), X, y)
    if potential is not None:
        value, gradient = potential.value_and_grad(torch.zeros(1, potential.spec.size, dtype=X.dtype))
        assert value.shape == (1,)
        assert gradient.shape == (1, potential.spec.size)


@PLENTY
@given(tensors((2, 3)))
def test_potentials_take_any_positions(q):
    found = attempt("Potential", lambda q: hnbayes.Potential(U, compile=False).prepare(q), q)
    if found is not None:
        values, gradients = hnbayes.Potential(U, compile=False).value_and_grad(q)
        assert torch.equal(gradients, q.detach())
        assert torch.allclose(values, 0.5 * q.detach().square().sum(1))


@PLENTY
@given(tensors((2, 9, 4), tame=0.8), st.sampled_from(("rhat", "ess", "mcse")))
def test_statistics_take_any_draws(draws, name):
    found = attempt(f"diagnostics.{name}", getattr(diagnostics, name), draws)
    if found is not None:
        assert np.asarray(found).dtype.kind == "f"


@PLENTY
@given(st.one_of(st.sampled_from(ODD_NUMBERS), tensors((3,)), anything()), st.sampled_from((0.0, 1.0, float("nan"))))
def test_priors_take_any_scale(scale, mean):
    for make in (priors.Normal, priors.Laplace):
        prior = attempt(f"priors.{make.__name__}", lambda s, make=make: make(mean, s), scale)
        if prior is not None:
            bound = attempt("prior.bind", lambda p: p.bind({"w": torch.zeros(3)}), prior)
            if bound is not None:
                assert bound.latents


@PLENTY
@given(st.one_of(st.sampled_from(("learned", *ODD_NUMBERS)), anything()), tensors((4, 1)), tensors((4, 1)))
def test_likelihoods_take_any_data(scale, outputs, y):
    likelihood = attempt("likelihoods.Gaussian", likelihoods.Gaussian, scale)
    if likelihood is not None:
        attempt("likelihood.check", lambda o, y: likelihood.check(o, y) or True, outputs, y)


@PLENTY
@given(tensors((5,)), tensors((5,)), st.booleans())
def test_diagonal_gaussians_take_any_numbers(mean, precision, positive):
    if positive and not precision.is_complex() and precision.dtype != torch.bool:
        precision = precision.detach().abs()
    made = attempt("DiagGaussian", laplace.DiagGaussian, mean, precision)
    if made is not None:
        assert (made.precision >= 0).all()


@PLENTY
@given(st.lists(st.tuples(st.one_of(st.text(max_size=3), anything()), st.one_of(shapes(), anything())), max_size=3))
def test_specs_take_any_names(parts):
    spec = attempt("ParamSpec", lambda p: hnbayes.ParamSpec(tuple(n for n, _ in p), tuple(s for _, s in p)), parts)
    if spec is not None and spec.size < 10_000:
        flat = torch.arange(float(spec.size))
        assert torch.equal(spec.flatten(spec.unflatten(flat)), flat)


@PLENTY
@given(tensors((2, 5, 3), tame=0.8), tensors((2, 5), tame=0.8))
def test_to_inference_data_takes_any_draws(positions, lp):
    def convert(positions, lp):
        ones = torch.ones(2)
        draws = hnbayes.Draws(positions, {"lp": lp}, ones, torch.ones(2, 3))
        return hnbayes.to_inference_data(draws)

    found = attempt("to_inference_data", convert, positions, lp)
    if found is not None:
        np.testing.assert_array_equal(found.posterior["position"], positions.detach().float())


@FEW
@given(st.one_of(st.text(max_size=4), anything()))
def test_read_draws_takes_any_path(path):
    if isinstance(path, str) and path.startswith("/"):
        return
    attempt("read_draws", hnbayes.read_draws, path)
    TAKEN["read_draws"] += 1  # there is no run to be found


def refuse(value):
    raise ValueError("no")


def test_the_check_sees_changes():
    with pytest.raises(AssertionError, match="changed"):
        attempt("mutant", lambda x: x.add_(1), torch.zeros(2))
    with pytest.raises(AssertionError, match="says nothing"):
        attempt("mutant", refuse, torch.zeros(2))
    with pytest.raises(AssertionError, match="generator"):
        attempt("mutant", lambda x: torch.randn(1), torch.zeros(2))
