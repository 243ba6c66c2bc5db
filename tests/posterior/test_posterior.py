"""Posterior: predictions, densities, ArviZ groups and what ArviZ makes of them."""

from __future__ import annotations

import dataclasses

import arviz as az
import matplotlib as mpl
import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from torch import nn
from torch.func import functional_call

import hnbayes
from hnbayes.likelihoods import Bernoulli, Categorical, Gaussian, Poisson
from hnbayes.posterior import Posterior
from hnbayes.priors import HierarchicalNormal

mpl.use("agg")
N, C, S = 24, 2, 30
pytestmark = pytest.mark.filterwarnings(
    "ignore::hnbayes.SamplingWarning",
    "ignore:Estimated shape parameter of Pareto:UserWarning",
    "ignore:The inplace keyword",  # ArviZ 0.x on pandas 3.1
)


def inputs(rows=N, seed=0):
    return torch.randn(rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(outputs=1):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, outputs)).double()


def sampled(likelihood, outputs, y, **options):
    return hnbayes.sample(
        network(outputs),
        inputs(),
        y,
        likelihood=likelihood,
        prior=HierarchicalNormal(per="all"),
        **{"chains": C, "warmup": 40, "draws": S, "map_steps": 100, "max_tree_depth": 4, **options},
        seed=0,
        progress=False,
        save_warmup=True,
    )


@pytest.fixture(scope="module")
def regression():
    noise = 0.2 * torch.randn(N, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return sampled(Gaussian("learned"), 1, inputs()[:, :1] + noise)


@pytest.fixture(scope="module")
def classification():
    return sampled(Categorical(), 3, (inputs()[:, 0] > 0).long() + (inputs()[:, 1] > 0.5).long())


def outputs_of(post, X):
    """Every draw's outputs (M, N, K) by torch's own means, one draw after another."""
    weights = {name: value.flatten(0, 1) for name, value in post.weights().items()}
    with torch.no_grad():
        return torch.stack(
            [functional_call(post.net, {n: w[m] for n, w in weights.items()}, (X,)) for m in range(C * S)]
        )


def test_outputs_are_those_of_each_draw(regression):
    X = inputs(7, seed=2)
    torch.testing.assert_close(regression.outputs(X).flatten(0, 1), outputs_of(regression, X))


def test_predictions_of_numbers(regression):
    X = inputs(7, seed=2)
    table = regression.predict(X)
    f = outputs_of(regression, X)[..., 0].numpy()
    sigma = regression.params()["sigma"].flatten().numpy()
    np.testing.assert_allclose(table["mean"], f.mean(0))
    np.testing.assert_allclose(table["sd_weights"], f.std(0))
    np.testing.assert_allclose(table["sd_noise"], np.full(7, np.sqrt(np.square(sigma).mean())))
    assert table["quantile"].dims == ("level", "point")
    assert list(table["level"].values) == [0.05, 0.5, 0.95]
    assert set(table.data_vars) == {"mean", "sd", "sd_noise", "sd_weights", "quantile"}


def test_blocks_change_nothing(regression, classification):
    X = inputs(11, seed=2)
    for post in (regression, classification):
        whole, blocks = post.predict(X), post.predict(X, memory_limit=1)
        for name in whole.data_vars:
            np.testing.assert_allclose(whole[name], blocks[name], rtol=1e-10, atol=1e-12)
    y = X[:, :1]
    assert regression.score(X, y)["lppd"] == pytest.approx(regression.score(X, y, memory_limit=1)["lppd"])
    np.testing.assert_allclose(regression.log_likelihood(X, y), regression.log_likelihood(X, y, memory_limit=1))


def test_blocks_keep_to_the_limit(regression):
    forward = regression._forward(8 * C * S * 8 * 3)  # three points of one float64 output each, eight tensors at once
    sizes = [outputs.shape[1] for _, outputs in forward.blocks(inputs(8))]
    assert sizes == [3, 3, 2]


def test_predictions_of_classes(classification):
    X = inputs(7, seed=2)
    table = classification.predict(X)
    p = torch.softmax(outputs_of(classification, X), -1).numpy()
    np.testing.assert_allclose(table["probability"], p.mean(0))
    assert table["probability"].dims == ("point", "class")
    assert table["label"].dims == ("point",)
    np.testing.assert_array_equal(table["label"], p.mean(0).argmax(-1))


def test_predictions_of_yes_and_no_and_of_counts():
    binary = sampled(Bernoulli(), 1, (inputs()[:, 0] > 0).double())
    X = inputs(5, seed=3)
    expected = torch.sigmoid(outputs_of(binary, X))[..., 0].mean(0).numpy()
    np.testing.assert_allclose(binary.predict(X)["probability"], expected)
    scores = binary.score(X, (X[:, 0] > 0).long())
    assert scores["accuracy"] == pytest.approx(((expected > 0.5) == (X[:, 0] > 0).numpy()).mean())
    counts = sampled(Poisson(), 1, torch.arange(N) % 4)
    rates = outputs_of(counts, X)[..., 0].exp().numpy()
    table = counts.predict(X)
    np.testing.assert_allclose(table["mean"], rates.mean(0))
    np.testing.assert_allclose(table["sd"] ** 2, rates.mean(0) + rates.var(0))
    assert (table["quantile"] == table["quantile"].round()).all()
    assert set(counts.score(X, torch.arange(5))) == {"rmse", "lppd", "crps", "coverage", "interval_width"}


def test_log_likelihood_and_scores(regression, classification):
    X = inputs(9, seed=4)
    y = X[:, :1] + 0.1
    f, sigma = outputs_of(regression, X), regression.params()["sigma"].flatten()
    expected = torch.distributions.Normal(f[..., 0], sigma[:, None]).log_prob(y[:, 0])
    received = regression.log_likelihood(X, y)
    assert received.shape == (C, S, 9)
    np.testing.assert_allclose(received.reshape(-1, 9), expected)
    found = regression.score(X, y[:, 0])
    lppd = (torch.logsumexp(expected, 0) - np.log(C * S)).mean()
    assert found["lppd"] == pytest.approx(float(lppd))
    assert found["rmse"] == pytest.approx(float((f.mean(0) - y).square().mean().sqrt()))
    table = regression.predict(X, quantiles=(0.05, 0.95))["quantile"].values
    truth = y[:, 0].numpy()
    assert found["coverage"] == pytest.approx(((table[0] <= truth) & (truth <= table[1])).mean())
    assert found["interval_width"] == pytest.approx((table[1] - table[0]).mean())
    own = regression.log_likelihood()
    np.testing.assert_allclose(own, regression.log_likelihood(regression.X, regression.y))
    labels = torch.arange(9) % 3
    p = torch.softmax(outputs_of(classification, X), -1).mean(0).numpy()
    found = classification.score(X, labels)
    assert found["accuracy"] == pytest.approx((p.argmax(-1) == labels.numpy()).mean())
    assert found["lppd"] == pytest.approx(np.log(p[np.arange(9), labels]).mean())
    assert set(found) == {"accuracy", "lppd", "brier", "ece"}


def test_draws_of_data_have_the_predictive_moments(regression):
    X = inputs(3, seed=5)
    many = np.concatenate([regression.sample_data(X, seed=seed).flatten(0, 1)[..., 0].numpy() for seed in range(100)])
    table = regression.predict(X)
    error = table["sd"].values / np.sqrt(len(many))
    assert (abs(many.mean(0) - table["mean"].values) < 4.5 * error).all()
    assert (abs(many.std(0) / table["sd"].values - 1) < 4.5 / np.sqrt(2 * len(many))).all()
    assert torch.equal(regression.sample_data(X, seed=1), regression.sample_data(X, seed=1))


def test_permuted_hidden_units_change_no_prediction_or_diagnostic():
    """Each draw's hidden units in an order of its own: weights look as if chains never met, functions don't change."""
    y = inputs()[:, :1] + 0.2 * torch.randn(N, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    post = hnbayes.sample(
        network(),
        inputs(),
        y,
        prior=1.0,
        chains=2,
        warmup=40,
        draws=S,
        map_steps=100,
        max_tree_depth=4,
        seed=0,
        progress=False,
    )
    spec, positions = post.model.spec, post.draws.positions
    parts = spec.unflatten(positions.clone())
    generator = torch.Generator().manual_seed(0)
    for c in range(C):
        for s in range(S):
            order = torch.randperm(4, generator=generator)
            for name in ("0.weight", "0.bias"):
                parts[name][c, s] = parts[name][c, s][order]
            parts["2.weight"][c, s] = parts["2.weight"][c, s][:, order]
    other = Posterior(post.model, dataclasses.replace(post.draws, positions=spec.flatten(parts)), post.X, post.y)
    assert not torch.allclose(other.draws.positions, positions)
    X = inputs(6, seed=2)
    torch.testing.assert_close(other.outputs(X), post.outputs(X))
    np.testing.assert_allclose(other.log_likelihood(), post.log_likelihood())
    np.testing.assert_allclose(other.log_prior(), post.log_prior())
    for name in post.predict(X).data_vars:
        np.testing.assert_allclose(other.predict(X)[name], post.predict(X)[name], rtol=1e-9)
    assert loo_of(other) == pytest.approx(loo_of(post))


def loo_of(post):
    """PSIS-LOO, which sorts: a draw that stayed where it was must have the same density again, to the last digit."""
    data = post.to_inference_data(prior_draws=0)
    for name, values in data.log_likelihood.data_vars.items():
        data.log_likelihood[name] = values.round(9)
    return az.loo(data, reff=1.0).elpd_loo


GROUPS = {
    "posterior",
    "sample_stats",
    "log_likelihood",
    "log_prior",
    "posterior_predictive",
    "prior",
    "prior_predictive",
    "observed_data",
    "constant_data",
    "predictions",
    "predictions_constant_data",
    "warmup_posterior",
    "warmup_sample_stats",
}


@pytest.fixture(scope="module")
def idata(regression):
    return regression.to_inference_data(predictions=inputs(5, seed=6), prior_draws=50)


def test_all_groups(idata, regression):
    assert set(idata.groups()) == GROUPS
    assert set(idata.posterior.data_vars) == {*regression.weights(), "prior_scale", "sigma"}
    np.testing.assert_allclose(idata.posterior["sigma"], regression.params()["sigma"])
    assert idata.posterior["0.weight"].shape == (C, S, 4, 2)
    assert idata.warmup_posterior["sigma"].shape == (C, 40)
    assert (idata.warmup_posterior["sigma"] > 0).all()
    assert idata.log_likelihood["y"].dims == ("chain", "draw", "point")
    assert idata.posterior_predictive["y"].shape == (C, S, N)
    assert idata.observed_data["y"].dims == ("point",)
    assert idata.constant_data["X"].shape == (N, 2)
    assert idata.predictions["y"].shape == (C, S, 5)
    assert idata.predictions_constant_data["X"].shape == (5, 2)
    assert idata.prior["0.weight"].shape == (1, 50, 4, 2)
    assert idata.prior_predictive["y"].shape == (1, 50, N)
    np.testing.assert_allclose(idata.log_prior["log_prior"], regression.log_prior())
    lp = idata.log_likelihood["y"].sum("point") + idata.log_prior["log_prior"]
    jacobian = np.log(idata.posterior["sigma"]) + np.log(idata.posterior["prior_scale"])
    np.testing.assert_allclose(idata.sample_stats["lp"], lp + jacobian, rtol=1e-8)


def test_the_prior_group_holds_draws_of_the_prior(regression):
    prior = regression.to_inference_data(prior_draws=2000, log_likelihood=False, predictive=False).prior
    assert abs(float(prior["sigma"].mean()) - np.sqrt(2 / np.pi)) < 4 * 0.603 / np.sqrt(2000)
    assert abs(float(prior["prior_scale"].mean()) - np.sqrt(2 / np.pi)) < 4 * 0.603 / np.sqrt(2000)
    ratio = prior["0.bias"] / prior["prior_scale"]
    assert abs(float(ratio.std()) - 1) < 4 / np.sqrt(2 * 8000)


def test_arviz_works_on_it(idata):
    loo = az.loo(idata, pointwise=True)
    assert np.isfinite(loo.elpd_loo)
    assert len(az.compare({"one": idata, "two": idata})) == 2
    assert az.bfmi(idata).shape == (C,)
    assert len(az.summary(idata, var_names=["sigma", "prior_scale"])) == 2
    az.plot_ppc(idata, num_pp_samples=5)
    az.plot_energy(idata)
    az.plot_trace(idata, var_names=["sigma", "prior_scale"])
    az.plot_pair(idata, var_names=["sigma", "prior_scale"], divergences=True)
    az.plot_khat(loo)
    mpl.pyplot.close("all")


def test_classes_in_arviz(classification):
    idata = classification.to_inference_data(prior_draws=10)
    assert idata.posterior_predictive["y"].dtype.kind == "i"
    assert np.isfinite(az.loo(idata).elpd_loo)


def test_the_function_and_the_method_agree(regression):
    idata = hnbayes.to_inference_data(regression, attrs={"experiment": "one"})
    assert "log_likelihood" in idata.groups()
    assert idata.posterior.attrs["experiment"] == "one"


def test_no_prior_group_where_the_prior_cannot_be_drawn_from():
    post = hnbayes.sample(
        network(),
        inputs(),
        inputs()[:, :1],
        prior=lambda q: -0.5 * q.square().sum(),
        chains=2,
        warmup=20,
        draws=10,
        map_steps=10,
        max_tree_depth=3,
        seed=0,
        progress=False,
    )
    groups = set(post.to_inference_data().groups())
    assert "prior" not in groups
    assert "posterior_predictive" in groups


def test_the_band_widens_in_a_gap_of_the_data():
    X = torch.cat([torch.linspace(-3, -1.2, 25), torch.linspace(1.2, 3, 25)])[:, None].double()
    y = torch.sin(X) + 0.1 * torch.randn(50, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 1)).double()
    post = hnbayes.sample(
        net,
        X,
        y,
        prior=2.0,
        likelihood=Gaussian(0.1),
        chains=2,
        warmup=150,
        draws=150,
        max_tree_depth=6,
        seed=0,
        progress=False,
    )
    table = post.predict(torch.tensor([[-2.0], [0.0], [2.0]]).double())
    left, gap, right = table["sd_weights"].values
    assert gap > 3 * max(left, right)
    width = (table["quantile"].sel(level=0.95) - table["quantile"].sel(level=0.05)).values
    assert width[1] > 1.5 * max(width[0], width[2])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: p.predict(torch.zeros(3, 5)), ValueError, "can't be applied"),
        (lambda p: p.predict([[0.0, float("nan")]]), ValueError, "X must be finite"),
        (lambda p: p.predict(inputs(), quantiles=(0.0,)), ValueError, "each quantile"),
        (lambda p: p.predict(inputs(), quantiles=(1.5,)), ValueError, "each quantile"),
        (lambda p: p.predict(inputs(), memory_limit=0), ValueError, "memory_limit"),
        (lambda p: p.predict(inputs(), seed=-1), ValueError, "seed"),
        (lambda p: p.log_likelihood(inputs()), ValueError, "belong together"),
        (lambda p: p.log_likelihood(inputs(), torch.zeros(N, 3)), ValueError, "y must have shape"),
        (lambda p: p.score(inputs(), None), ValueError, "X and y are needed"),
        (lambda p: p.score(inputs(), inputs()[:, :1], level=1.0), ValueError, "level"),
        (lambda p: p.outputs(inputs(1).expand(10_000_000, 2)), ValueError, "would take 4.5 GiB"),
        (lambda p: p.to_inference_data(prior_draws=-1), ValueError, "prior_draws"),
        (lambda p: p.diagnose(torch.zeros(3, 5)), ValueError, "can't be applied"),
        (lambda p: p.diagnose([[0.0, float("nan")]]), ValueError, "X must be finite"),
    ],
)
def test_bad_arguments_are_refused(regression, call, error, message):
    with pytest.raises(error, match=message):
        call(regression)


def worst_rhat(values):
    """ArviZ's rank-normalised split R-hat, point by point."""
    points = values.reshape(*values.shape[:2], -1)
    return max(az.rhat(points[..., i]) for i in range(points.shape[2]))


def test_diagnose_looks_at_functions(regression, classification):
    new = inputs(5, seed=3)
    report = regression.diagnose(new)
    by_hand = np.stack(
        [
            functional_call(
                regression.net,
                {name: w[c, s] for name, w in regression.weights().items()},
                (new,),
            )[:, 0].numpy()
            for c in range(C)
            for s in range(S)
        ]
    ).reshape(C, S, 5)
    numbers = report["predictions: chains agree"].numbers
    assert numbers["worst_rhat"] == pytest.approx(worst_rhat(by_hand), rel=1e-6)
    assert report.notes == ()
    assert {"divergences", "tree depth", "leave-one-out", "log prior: chains agree"} <= {c.name for c in report.checks}
    logits = classification.outputs(classification.X).numpy()
    numbers = classification.diagnose()["predictions: chains agree"].numbers
    assert numbers["worst_rhat"] == pytest.approx(worst_rhat(softmax(logits, -1)), rel=1e-6)
    assert numbers["worst_rhat"] != pytest.approx(worst_rhat(logits), rel=1e-6)


def test_diagnose_of_yes_and_no_and_of_many_inputs():
    post = sampled(Bernoulli(), 1, (inputs()[:, :1] > 0).double(), warmup=20)
    many = inputs(100, seed=4)
    kept = np.linspace(0, 99, 64).round().astype(int)
    flips = expit(post.outputs(many).numpy()[:, :, kept])
    assert post.diagnose(many)["predictions: chains agree"].numbers["worst_rhat"] == pytest.approx(worst_rhat(flips))
