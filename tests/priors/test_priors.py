"""Priors: densities against SciPy, weights from latents, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats as st
import torch
from torch import nn
from torch.distributions import (
    Categorical,
    Dirichlet,
    Gamma,
    Gumbel,
    LogNormal,
    MultivariateNormal,
    TransformedDistribution,
    Uniform,
)
from torch.distributions import Normal as TorchNormal
from torch.distributions.transforms import ExpTransform

from hnbayes import ParamSpec, Potential
from hnbayes.laplace import DiagGaussian
from hnbayes.priors import (
    FanInNormal,
    FromDistribution,
    HierarchicalNormal,
    Horseshoe,
    Laplace,
    Normal,
    Patterns,
    StudentT,
    as_prior,
)

DTYPES = [torch.float32, torch.float64]
LOG_GAMMA = TransformedDistribution(Gamma(2.0, 1.0), ExpTransform().inv)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def like(dtype=torch.float64):
    return {name: p.detach().to(dtype) for name, p in network().named_parameters()}


def of_latents(bound, seed=0):
    """Values of all latents, positive where they must be."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for latent in bound.latents:
        noise = torch.randn(latent.shape, dtype=torch.float64, generator=generator)
        support = latent.distribution(values).support
        values[latent.name] = torch.distributions.biject_to(support)(noise)
    return values


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        (Normal(0.5, 2.0), lambda w: st.norm.logpdf(w, 0.5, 2.0)),
        (Laplace(0.5, 2.0), lambda w: st.laplace.logpdf(w, 0.5, 2.0)),
        (StudentT(3.0, 0.5, 2.0), lambda w: st.t.logpdf(w, 3.0, 0.5, 2.0)),
        (as_prior(2), lambda w: st.norm.logpdf(w, 0.0, 2.0)),
        (as_prior(TorchNormal(0.5, 2.0)), lambda w: st.norm.logpdf(w, 0.5, 2.0)),
        # Their transforms are inverses, which hold what they invert.
        (as_prior(LOG_GAMMA), lambda w: st.loggamma.logpdf(w, 2.0)),
        (as_prior(Gumbel(0.5, 2.0)), lambda w: st.gumbel_r.logpdf(w, 0.5, 2.0)),
    ],
)
def test_each_weight_has_the_density_of_its_class(prior, expected):
    weights = like()
    bound = prior.bind(weights)
    assert [latent.name for latent in bound.latents] == list(weights)
    assert {latent.name: latent.shape for latent in bound.latents} == {n: tuple(w.shape) for n, w in weights.items()}
    reference = sum(expected(w.numpy()).sum() for w in weights.values())
    np.testing.assert_allclose(bound.log_prob(weights), reference, rtol=1e-12)
    assert all(torch.equal(bound.weights(weights)[name], w) for name, w in weights.items())


def test_fan_in_scales_weights_by_their_inputs():
    weights = {"conv.weight": torch.ones(5, 2, 3, 3, dtype=torch.float64), "conv.bias": torch.ones(5).double()}
    bound = FanInNormal(2.0, bias_scale=0.5).bind(weights)
    expected = 90 * st.norm.logpdf(1.0, scale=2.0 / math.sqrt(18)) + 5 * st.norm.logpdf(1.0, scale=0.5)
    np.testing.assert_allclose(bound.log_prob(weights), expected, rtol=1e-12)
    same = 90 * st.norm.logpdf(1.0, scale=2.0 / math.sqrt(18)) + 5 * st.norm.logpdf(1.0, scale=2.0)
    np.testing.assert_allclose(FanInNormal(2.0).bind(weights).log_prob(weights), same, rtol=1e-12)


@pytest.mark.parametrize("per", ["layer", "all", "parameter"])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("fan_in", [True, False])
def test_hierarchical_normal(per, centred, fan_in):
    weights = like()
    bound = HierarchicalNormal(LogNormal(0.3, 0.5), per=per, centred=centred, fan_in=fan_in).bind(weights)
    groups = {
        "layer": ["0.prior_scale", "2.prior_scale"],
        "all": ["prior_scale"],
        "parameter": [f"{name}_prior_scale" for name in weights],
    }[per]
    suffix = "" if centred else "_z"
    assert [latent.name for latent in bound.latents] == groups + [name + suffix for name in weights]
    values = of_latents(bound)
    expected = sum(st.lognorm.logpdf(float(values[g]), 0.5, scale=math.exp(0.3)) for g in groups)
    received = bound.weights(values)
    for name, w in weights.items():
        group = {"layer": f"{name[0]}.prior_scale", "all": "prior_scale", "parameter": f"{name}_prior_scale"}[per]
        tau = float(values[group])
        if fan_in and w.ndim == 2:
            tau /= math.sqrt(w.shape[1])
        if centred:
            expected += st.norm.logpdf(values[name].numpy(), scale=tau).sum()
            torch.testing.assert_close(received[name], values[name])
        else:
            expected += st.norm.logpdf(values[name + "_z"].numpy()).sum()
            torch.testing.assert_close(received[name], tau * values[name + "_z"])
    np.testing.assert_allclose(bound.log_prob(values), expected, rtol=1e-6)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("fan_in", [True, False])
def test_a_scale_for_each_input(centred, fan_in):
    weights = like() | {"conv": torch.zeros(5, 2, 3, 3, dtype=torch.float64)}
    bound = HierarchicalNormal(LogNormal(0.3, 0.5), per="input", centred=centred, fan_in=fan_in).bind(weights)
    shapes = {latent.name: latent.shape for latent in bound.latents}
    values = bound.sample(2, seed=1)
    received = bound.weights(values)
    expected = np.zeros(2)
    for name, w in weights.items():
        tau = values[f"{name}_prior_scale"]
        assert shapes[f"{name}_prior_scale"] == tuple(w.shape[1:2])
        expected += st.lognorm.logpdf(tau.numpy(), 0.5, scale=math.exp(0.3)).reshape(2, -1).sum(1)
        wide = tau.numpy() / (math.sqrt(math.prod(w.shape[1:])) if fan_in and w.ndim > 1 else 1.0)
        # Input j of a layer is the second dimension, (outputs, inputs, ...).
        wide = wide.reshape((2, 1, w.shape[1]) + (1,) * (w.ndim - 2) if w.ndim > 1 else (2,) + (1,) * w.ndim)
        scales = np.broadcast_to(wide, (2, *w.shape))
        if centred:
            given = values[name].numpy()
            expected += st.norm.logpdf(given, scale=scales).reshape(2, -1).sum(1)
        else:
            z = values[f"{name}_z"].numpy()
            expected += st.norm.logpdf(z).reshape(2, -1).sum(1)
            given = z * scales
        np.testing.assert_allclose(received[name], given, rtol=1e-12)
    np.testing.assert_allclose(bound.log_prob(values), expected, rtol=1e-6)


def test_scales_of_inputs_start_at_the_size_of_their_weights():
    weights = {"w": torch.tensor([[3.0, 0.1], [-4.0, 0.1]]), "b": torch.tensor([1.0, 7.0])}
    bound = HierarchicalNormal(per="input").bind(weights)
    values = bound.values_of(weights)
    torch.testing.assert_close(values["w_prior_scale"], torch.tensor([math.sqrt(12.5), 0.1]))
    torch.testing.assert_close(values["b_prior_scale"], torch.tensor(5.0))
    torch.testing.assert_close(bound.weights(values), weights)


@pytest.mark.parametrize("per", ["layer", "all", "parameter"])
def test_horseshoe_is_piironen_and_vehtari_equation_2_8(per):
    weights = like()
    bound = Horseshoe(global_scale=0.2, slab_scale=1.5, slab_df=3.0, per=per).bind(weights)
    groups = {
        "layer": ["0.horseshoe", "2.horseshoe"],
        "all": ["horseshoe"],
        "parameter": [f"{name}_horseshoe" for name in weights],
    }[per]
    assert {latent.name for latent in bound.latents} == {
        f"{g}_{what}" for g in groups for what in ("global", "slab")
    } | {f"{name}_{what}" for name in weights for what in ("local", "z")}
    values = {name: value.numpy() for name, value in of_latents(bound).items()}
    expected = 0.0
    for g in groups:
        expected += st.halfcauchy.logpdf(values[f"{g}_global"], scale=0.2)
        expected += st.invgamma.logpdf(values[f"{g}_slab"], 1.5, scale=1.5 * 1.5**2)
    received = bound.weights({name: torch.as_tensor(value) for name, value in values.items()})
    for name in weights:
        g = {"layer": f"{name[0]}.horseshoe", "all": "horseshoe", "parameter": f"{name}_horseshoe"}[per]
        local, z, tau = values[f"{name}_local"], values[f"{name}_z"], values[f"{g}_global"]
        expected += st.halfcauchy.logpdf(local).sum() + st.norm.logpdf(z).sum()
        shrunk = values[f"{g}_slab"] * local**2 / (values[f"{g}_slab"] + tau**2 * local**2)
        np.testing.assert_allclose(received[name], z * tau * np.sqrt(shrunk), rtol=1e-9)
    np.testing.assert_allclose(bound.log_prob({n: torch.as_tensor(v) for n, v in values.items()}), expected, rtol=1e-9)


def test_free_weights_of_a_horseshoe_have_the_size_of_the_slab():
    bound = Horseshoe().bind({"w": torch.zeros(2, dtype=torch.float64)})
    values = {name: torch.as_tensor(1.0, dtype=torch.float64) for name in ("horseshoe_global", "horseshoe_slab")}
    values["horseshoe_slab"] = values["horseshoe_slab"] * 4.0
    values |= {"w_local": torch.tensor([1e150, 1e-150], dtype=torch.float64), "w_z": torch.ones(2).double()}
    torch.testing.assert_close(bound.weights(values)["w"], torch.tensor([2.0, 0.0]).double(), atol=1e-12, rtol=1e-12)


def test_patterns_take_the_first_match_and_share_objects():
    shared = HierarchicalNormal(1.0, per="all")
    bound = as_prior({"0.weight": shared, "*.bias": 0.5, "2.*": shared}).bind(like())
    names = [latent.name for latent in bound.latents]
    assert names == ["prior_scale", "0.weight_z", "2.weight_z", "0.bias", "2.bias"]
    values = of_latents(bound)
    weights = bound.weights(values)
    assert list(weights) == list(like())
    torch.testing.assert_close(weights["2.weight"], values["prior_scale"] * values["2.weight_z"])
    expected = st.halfnorm.logpdf(float(values["prior_scale"]))
    expected += sum(st.norm.logpdf(values[n].numpy()).sum() for n in ("0.weight_z", "2.weight_z"))
    expected += sum(st.norm.logpdf(values[n].numpy(), scale=0.5).sum() for n in ("0.bias", "2.bias"))
    np.testing.assert_allclose(bound.log_prob(values), expected, rtol=1e-9)


def test_a_diagonal_gaussian_is_a_prior_in_whatever_order_its_spec_has():
    weights = like()
    names = list(reversed(weights))
    spec = ParamSpec(tuple(names), tuple(tuple(weights[n].shape) for n in names))
    mean, precision = torch.arange(spec.size).double() / 10, torch.arange(spec.size).double() + 1
    bound = as_prior(DiagGaussian(mean, precision, spec)).bind(weights)
    flat = spec.flatten(weights).numpy()
    expected = st.norm.logpdf(flat, mean.numpy(), precision.numpy() ** -0.5).sum()
    np.testing.assert_allclose(bound.log_prob(weights), expected, rtol=1e-12)
    own_order = ParamSpec(tuple(weights), tuple(tuple(w.shape) for w in weights.values()))
    unnamed = as_prior(DiagGaussian(mean, precision)).bind(weights)
    expected = st.norm.logpdf(own_order.flatten(weights).numpy(), mean.numpy(), precision.numpy() ** -0.5).sum()
    np.testing.assert_allclose(unnamed.log_prob(weights), expected, rtol=1e-12)


def test_a_function_of_the_flat_weights_is_a_prior():
    weights = like()
    bound = as_prior(lambda q: -q.abs().sum()).bind(weights)
    assert bound.log_prob_func is not None
    expected = -sum(float(w.abs().sum()) for w in weights.values())
    np.testing.assert_allclose(bound.log_prob(weights), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="can't be sampled"):
        bound.sample(3)


ALL = {
    "normal": Normal(),
    "fan-in": FanInNormal(),
    "laplace": Laplace(),
    "student": StudentT(),
    "hierarchical": HierarchicalNormal(),
    "centred": HierarchicalNormal(centred=True, fan_in=True),
    "relevance": HierarchicalNormal(per="input"),
    "centred relevance": HierarchicalNormal(per="input", centred=True, fan_in=True),
    "horseshoe": Horseshoe(),
    "uniform": as_prior(Uniform(-3.0, 3.0)),
    "patterns": as_prior({"*.bias": LogNormal(0.0, 1.0), "0.*": Horseshoe(), "*": HierarchicalNormal(2.0)}),
    "torch student": as_prior(torch.distributions.StudentT(3.0)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_the_density_is_captured_as_a_graph(name, dtype):
    bound = ALL[name].bind(like(dtype))
    spec = ParamSpec(tuple(la.name for la in bound.latents), tuple(la.shape for la in bound.latents))

    def U(q):
        values = {}
        for latent in bound.latents:
            support = latent.distribution(values).support
            values[latent.name] = torch.distributions.biject_to(support)(spec.unflatten(q)[latent.name])
        return -bound.log_prob(values) + sum(w.square().sum() for w in bound.weights(values).values())

    potential = Potential(U, spec=spec)
    positions = 0.1 * torch.randn(3, spec.size, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert potential.prepare(positions) in ("captured", "native")
    values, gradients = potential.value_and_grad(positions)
    assert values.dtype == gradients.dtype == dtype


@pytest.mark.parametrize("name", ALL)
def test_draws_with_leading_dimensions(name):
    bound = ALL[name].bind(like())
    values = bound.sample(5, seed=3)
    assert {n: tuple(v.shape) for n, v in values.items()} == {la.name: (5, *la.shape) for la in bound.latents}
    weights = bound.weights(values)
    assert {n: tuple(w.shape) for n, w in weights.items()} == {n: (5, *w.shape) for n, w in like().items()}
    together = bound.log_prob(values)
    assert together.shape == (5,)
    for row in range(5):
        alone = {n: v[row] for n, v in values.items()}
        torch.testing.assert_close(bound.log_prob(alone), together[row])
        for n, w in bound.weights(alone).items():
            torch.testing.assert_close(w, weights[n][row])


def test_draws_through_an_inverse_transform():
    drawn = as_prior(LOG_GAMMA).bind({"w": torch.zeros((), dtype=torch.float64)}).sample(4000, seed=0)["w"]
    assert drawn.dtype == torch.float64
    assert st.kstest(drawn.numpy(), st.loggamma(2.0).cdf).pvalue > 0.001
    assert st.kstest(drawn.numpy(), st.loggamma(2.2).cdf).pvalue < 0.001


def test_draws_have_the_moments_of_the_prior():
    net = nn.Linear(400, 50)
    draws = FanInNormal(3.0, bias_scale=0.5).sample(net, 40, seed=0)
    assert abs(float(draws["weight"].std()) - 3.0 / 20) < 4 * 3.0 / 20 / math.sqrt(2 * 40 * 400 * 50)
    assert abs(float(draws["bias"].std()) - 0.5) < 4 * 0.5 / math.sqrt(2 * 40 * 50)
    weights = HierarchicalNormal(2.0, per="all").sample(net, 4000, seed=0)["bias"][:, 0].double().numpy()
    scale = np.abs(np.random.default_rng(0).normal(size=20000)) * 2.0
    reference = np.random.default_rng(1).normal(size=20000) * scale
    assert st.ks_2samp(weights, reference).pvalue > 1e-3
    assert st.ks_2samp(1.5 * weights, reference).pvalue < 1e-3  # the test can tell a wrong scale


def test_prior_functions_are_those_of_the_drawn_weights():
    net, X = network(), torch.linspace(-1, 1, 15).reshape(5, 3)
    functions = HierarchicalNormal().sample_functions(net, X, 3, seed=1)
    assert functions.shape == (3, 5, 2)
    weights = HierarchicalNormal().sample(net, 3, seed=1)
    for row in range(3):
        expected = torch.func.functional_call(net, {n: w[row] for n, w in weights.items()}, (X,))
        torch.testing.assert_close(functions[row], expected.detach())


def test_seeds_and_the_global_generator():
    net = network()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = Normal().sample(net, 2, seed=1), Normal().sample(net, 2, seed=1)
    other = Normal().sample(net, 2, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[n], second[n]) and not torch.equal(first[n], other[n]) for n in first)


def test_priors_of_the_user_are_left_alone():
    prior = LogNormal(torch.zeros(()), torch.ones(()))
    as_prior({"*": prior}).bind(like())
    assert prior._validate_args
    assert prior.base_dist.loc.dtype == torch.float32


class Odd:
    pass


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: as_prior(0.0), ValueError, "greater than 0"),
        (lambda: as_prior(-1.0), ValueError, "greater than 0"),
        (lambda: as_prior(math.nan), ValueError, "finite"),
        (lambda: as_prior("normal"), TypeError, "dict of patterns"),
        (lambda: as_prior(None), TypeError, "dict of patterns"),
        (lambda: as_prior(Normal), TypeError, r"Use Normal\(\)"),
        (lambda: as_prior({"*": DiagGaussian(torch.zeros(3), torch.ones(3))}), TypeError, "single parameters"),
        (lambda: as_prior({"*": lambda q: q.sum()}), TypeError, "single parameters"),
        (lambda: as_prior({3: 1.0}), TypeError, "patterns must be text"),
        (lambda: as_prior(Categorical(torch.ones(3))), ValueError, "continuous"),
        (lambda: FromDistribution(3), TypeError, "distribution"),
        (lambda: Normal(0.0, 0.0), ValueError, "scale"),
        (lambda: Normal(math.inf, 1.0), ValueError, "loc"),
        (lambda: Normal("0", 1.0), TypeError, "loc"),
        (lambda: Laplace(0.0, -1.0), ValueError, "scale"),
        (lambda: StudentT(0.0), ValueError, "df"),
        (lambda: FanInNormal(1.0, bias_scale=0.0), ValueError, "bias_scale"),
        (lambda: HierarchicalNormal(TorchNormal(0.0, 1.0)), ValueError, "positive"),
        (lambda: HierarchicalNormal(LogNormal(torch.zeros(2), torch.ones(2))), ValueError, "scalar"),
        (lambda: HierarchicalNormal("wide"), TypeError, "scale_prior"),
        (lambda: HierarchicalNormal(per="unit"), ValueError, "'layer'"),
        (lambda: HierarchicalNormal(name="a b"), ValueError, "identifier"),
        (lambda: Horseshoe(global_scale=0.0), ValueError, "global_scale"),
        (lambda: Horseshoe(slab_df=-1.0), ValueError, "slab_df"),
        (lambda: Horseshoe(per="unit"), ValueError, "'layer'"),
        (lambda: Horseshoe(per="input"), ValueError, "'layer'"),
        (lambda: Normal().bind({}), ValueError, "at least one"),
        (lambda: Normal().bind({"w": torch.ones(2).long()}), TypeError, "floating-point"),
        (lambda: as_prior({"*.bias": 1.0}).bind(like()), ValueError, "matches none"),
        (lambda: as_prior({"*": 1.0, "*.bias": 1.0}).bind(like()), ValueError, "of none of"),
        (
            lambda: as_prior({n: HierarchicalNormal(1.0, per="all") for n in ("0.*", "*")}).bind(like()),
            ValueError,
            "names of latents must differ; two priors have prior_scale",
        ),
        (lambda: as_prior(TorchNormal(torch.zeros(3), torch.ones(3))).bind(like()), ValueError, "'0.weight' must be"),
        (lambda: as_prior(DiagGaussian(torch.zeros(3), torch.ones(3))).bind(like()), ValueError, "describe|over"),
        (lambda: as_prior(lambda q: q).bind(like()), ValueError, "scalar"),
        (lambda: as_prior(lambda q: 1.0).bind(like()), TypeError, "tensor"),
    ],
)
def test_bad_priors_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_gaussian_of_another_network_is_refused():
    spec = ParamSpec(("w",), ((26,),))
    with pytest.raises(ValueError, match="parameters of this network"):
        as_prior(DiagGaussian(torch.zeros(26), torch.ones(26), spec)).bind(like())


def test_distributions_of_the_parameters_shape():
    weights = {"w": torch.zeros(2, 3, dtype=torch.float64)}
    column = as_prior(TorchNormal(torch.zeros(2, 1), torch.tensor([[1.0], [2.0]]))).bind(weights)
    expected = 3 * (st.norm.logpdf(0) + st.norm.logpdf(0, scale=2))
    np.testing.assert_allclose(column.log_prob(weights), expected, rtol=1e-7)
    rows = as_prior(MultivariateNormal(torch.zeros(2, 3), torch.eye(3))).bind(weights)
    np.testing.assert_allclose(rows.log_prob(weights), 6 * st.norm.logpdf(0), rtol=1e-6)
    simplex = as_prior(Dirichlet(torch.ones(2, 3))).bind(weights)
    assert simplex.latents[0].shape == (2, 3)


def test_missing_latents_are_named():
    bound = Patterns({"*": HierarchicalNormal()}).bind(like())
    with pytest.raises(ValueError, match=r"missing: 0\.prior_scale"):
        bound.weights({})


@pytest.mark.parametrize("name", [n for n in ALL if n != "patterns"])
def test_latents_of_given_weights(name):
    weights = like()
    bound = ALL[name].bind(weights)
    values = bound.values_of(weights)
    assert set(values) == {latent.name for latent in bound.latents}
    assert torch.isfinite(bound.log_prob(values))
    for key, w in bound.weights(values).items():
        torch.testing.assert_close(w, weights[key], rtol=1e-9, atol=1e-6)
