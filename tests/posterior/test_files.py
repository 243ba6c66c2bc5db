"""Posteriors on disk: the same predictions again, and files that are none are refused."""

from __future__ import annotations

import importlib.util

import arviz as az
import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.distributions import Gamma, HalfNormal, Independent, LogNormal, Normal

import hnbayes
from hnbayes import likelihoods, priors
from hnbayes.laplace import DiagGaussian
from hnbayes.posterior.record import decode, encode

N = 20
pytestmark = pytest.mark.filterwarnings(
    "ignore::hnbayes.SamplingWarning", "ignore:Estimated shape parameter of Pareto:UserWarning"
)


def network(hidden=3, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 1)).to(dtype)


def inputs(seed=0):
    return torch.randn(N, 2, generator=torch.Generator().manual_seed(seed))


def sampled(net=None, **options):
    X = inputs()
    return hnbayes.sample(
        net or network(),
        X,
        X[:, :1],
        **{"prior": {"*.bias": 1.0, "*": priors.HierarchicalNormal(Gamma(2.0, 2.0), per="all")}, **options},
        chains=2,
        warmup=20,
        draws=10,
        map_steps=20,
        max_tree_depth=3,
        seed=0,
        progress=False,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("posterior") / "posterior.nc"
    post = sampled()
    post.save(path)
    return path, post


def equal(first, second):
    X = inputs(seed=1)
    a, b = first.predict(X), second.predict(X)
    assert all(np.array_equal(a[name], b[name]) for name in a.data_vars)
    np.testing.assert_array_equal(first.log_prior(), second.log_prior())
    np.testing.assert_array_equal(first.log_likelihood(), second.log_likelihood())
    assert first.score(X, X[:, 0]) == second.score(X, X[:, 0])


def test_what_was_saved_predicts_the_same(saved):
    path, post = saved
    other = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))  # other weights
    again = hnbayes.load(path, other)
    equal(post, again)
    assert torch.equal(again.draws.positions, post.draws.positions)
    assert torch.equal(again.draws.inverse_metric, post.draws.inverse_metric)
    assert again.draws.metadata["seed"] == 0
    assert set(again.draws.stats) == set(post.draws.stats)
    assert torch.equal(again.X, post.X)
    assert torch.equal(again.y, post.y)
    equal(post, hnbayes.Posterior.load(str(path), other))


def test_arviz_reads_it(saved):
    idata = az.from_netcdf(saved[0])
    assert {"posterior", "log_likelihood", "prior", "unconstrained_posterior"} <= set(idata.groups())
    assert np.isfinite(az.loo(idata, reff=1.0).elpd_loo)


def test_saving_again_replaces_the_file_and_leaves_nothing_else(saved, tmp_path):
    path = tmp_path / "p.nc"
    path.write_bytes(b"what was there before")
    saved[1].save(path)
    equal(saved[1], hnbayes.load(path, network()))
    assert [file.name for file in tmp_path.iterdir()] == ["p.nc"]


def test_a_failed_save_leaves_the_old_file(saved, tmp_path, monkeypatch):
    path = tmp_path / "p.nc"
    path.write_bytes(b"what was there before")

    def fail(self, name):
        raise OSError("the disk is full")

    monkeypatch.setattr(az.InferenceData, "to_netcdf", fail)
    with pytest.raises(OSError, match="disk is full"):
        saved[1].save(path)
    assert path.read_bytes() == b"what was there before"
    assert [file.name for file in tmp_path.iterdir()] == ["p.nc"]


def test_a_zarr_directory(saved, tmp_path):
    pytest.importorskip("zarr")
    for _ in range(2):
        saved[1].save(tmp_path / "p.zarr")
    equal(saved[1], hnbayes.load(tmp_path / "p.zarr", network()))


def test_zarr_where_it_is_not_installed(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install zarr"):
        saved[1].save(tmp_path / "p.zarr")


def test_classes_and_dtypes(tmp_path):
    X = inputs()
    net = nn.Linear(2, 3).double()
    post = hnbayes.sample(
        net,
        X,
        torch.arange(N) % 3,
        likelihood="categorical",
        chains=1,
        warmup=20,
        draws=10,
        map_steps=5,
        max_tree_depth=3,
        metric="dense",
        seed=0,
        progress=False,
    )
    post.save(tmp_path / "p.nc")
    again = hnbayes.load(tmp_path / "p.nc", net)
    assert again.draws.positions.dtype == torch.float64
    assert again.y.dtype == torch.int64
    assert again.draws.inverse_metric.shape == (1, 9, 9)
    np.testing.assert_array_equal(post.predict(X)["probability"], again.predict(X)["probability"])


def test_functions_have_to_be_given_again(tmp_path):
    def noise(f):
        return Independent(Normal(f, 0.3), 1)

    gaussian = DiagGaussian(torch.zeros(13), torch.ones(13))
    post = sampled(likelihood=noise, prior=gaussian)
    post.save(tmp_path / "p.nc")
    with pytest.raises(ValueError, match=r"likelihood that files can't hold\. Pass likelihood="):
        hnbayes.load(tmp_path / "p.nc", network())
    with pytest.raises(ValueError, match="Pass prior="):
        hnbayes.load(tmp_path / "p.nc", network(), likelihood=noise)
    equal(post, hnbayes.load(tmp_path / "p.nc", network(), likelihood=noise, prior=gaussian))


def test_another_likelihood_is_refused(saved):
    with pytest.raises(ValueError, match="another likelihood or prior"):
        hnbayes.load(saved[0], network(), likelihood=likelihoods.Gaussian(0.3))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: network(4), r"another network: '0.weight' is \(3, 2\) in the file, \(4, 2\) in the network"),
        (lambda: nn.Linear(2, 1), r"another network.*'0.weight' is .* not there in the network"),
    ],
)
def test_another_network_is_refused(saved, net, message):
    with pytest.raises(ValueError, match=message):
        hnbayes.load(saved[0], net())


def test_files_that_are_no_posterior(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        hnbayes.load(tmp_path / "none.nc", network())
    text = tmp_path / "text.nc"
    text.write_text("not a netCDF file")
    with pytest.raises(ValueError, match="must be a posterior written by"):
        hnbayes.load(text, network())
    other = tmp_path / "other.nc"
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(other, engine="h5netcdf")
    with pytest.raises(ValueError, match="must be a posterior written by"):
        hnbayes.load(other, network())
    foreign = tmp_path / "foreign.nc"
    az.from_dict({"a": np.zeros((2, 5))}).to_netcdf(str(foreign))
    with pytest.raises(ValueError, match="must be a posterior written by"):
        hnbayes.load(foreign, network())
    with pytest.raises(TypeError, match="path must be"):
        hnbayes.load(3, network())


@pytest.mark.parametrize(
    "part",
    [
        likelihoods.Gaussian(0.5),
        likelihoods.Gaussian("learned"),
        likelihoods.Gaussian(LogNormal(torch.zeros(2), torch.tensor([1.0, 2.0]))),
        likelihoods.Gaussian(torch.tensor([0.5, 1.0], dtype=torch.float64)),
        likelihoods.HeteroscedasticGaussian("exp", 0.0),
        likelihoods.StudentT("learned", 0.5),
        likelihoods.NegativeBinomial(Gamma(1.0, 3.0)),
        likelihoods.Categorical(),
        likelihoods.Bernoulli(),
        likelihoods.Poisson(),
    ],
    ids=repr,
)
def test_likelihoods_as_plain_data(part):
    again = decode(encode(part))
    assert type(again) is type(part)
    output = torch.zeros(4, 2)
    first, second = part.parameters(output), again.parameters(output)
    assert list(first) == list(second)
    values = {name: prior.sample() for name, prior in first.items()}
    for name, prior in first.items():
        torch.testing.assert_close(second[name].log_prob(values[name]), prior.log_prob(values[name]))
    y = torch.zeros(4, dtype=torch.long) if isinstance(part, likelihoods.Categorical) else torch.zeros(4, 2)
    y = y[:, :1] if isinstance(part, likelihoods.HeteroscedasticGaussian) else y
    torch.testing.assert_close(again.log_prob(output, y, **values), part.log_prob(output, y, **values))


@pytest.mark.parametrize(
    "part",
    [
        priors.Normal(0.5, 2.0),
        priors.Laplace(0.5, 2.0),
        priors.StudentT(3.0, 0.5, 2.0),
        priors.FanInNormal(2.0, 0.5),
        priors.HierarchicalNormal(HalfNormal(2.0), per="parameter", centred=True, fan_in=True, name="tau"),
        priors.Horseshoe(0.3, 1.0, 3.0, "all", "hs"),
        priors.as_prior(LogNormal(0.0, 2.0)),
        priors.as_prior({"*.bias": 0.5, "0.*": (shared := priors.HierarchicalNormal(per="all")), "*": shared}),
    ],
    ids=lambda part: type(part).__name__,
)
def test_priors_as_plain_data(part):
    again = decode(encode(part))
    assert type(again) is type(part)
    like = {name: p.detach() for name, p in network().named_parameters()}
    first, second = part.bind(like), again.bind(like)
    assert [latent.name for latent in first.latents] == [latent.name for latent in second.latents]
    values = first.sample(1, seed=0)
    torch.testing.assert_close(second.log_prob(values), first.log_prob(values))
    for name, w in first.weights(values).items():
        torch.testing.assert_close(second.weights(values)[name], w)


def test_what_cannot_be_plain_data():
    class Own(likelihoods.Gaussian):
        pass

    for part in (Own(), likelihoods.as_likelihood(lambda f: Normal(f, 1.0)), priors.as_prior(lambda q: q.sum())):
        with pytest.raises(TypeError, match="can't be written to a file"):
            encode(part)
