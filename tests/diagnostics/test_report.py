"""The report: each fault of a run is found, said and answered; symmetries of the network change nothing."""

from __future__ import annotations

import json

import arviz as az
import numpy as np
import pytest
import torch
from torch import nn

from hnbayes.diagnostics import Report, diagnose, relative_efficiency
from hnbayes.diagnostics.checks import judged
from hnbayes.sampling import Draws

C, S, N = 4, 600, 12


def healthy(seed=0):
    """Independent draws of everything: a run without a fault."""
    rng = np.random.default_rng(seed)
    mean = 0.3 * rng.normal(size=(C, S, N))
    return {
        "functions": mean,
        "log_likelihood": -0.5 * (rng.normal(size=N) - 0.3 * mean) ** 2,
        "log_prior": rng.normal(size=(C, S)),
        "stats": {
            "diverging": np.zeros((C, S), bool),
            "energy": rng.normal(size=(C, S)),
            "reached_max_treedepth": np.zeros((C, S), bool),
        },
    }


def not_ok(report):
    return {check.name: check.verdict for check in report.checks if check.verdict != "ok"}


def test_a_faultless_run_is_ok_in_every_check():
    report = diagnose(**healthy())
    assert not_ok(report) == {}
    assert report.verdict == "ok"
    assert report.notes == ()
    names = [check.name for check in report.checks]
    assert len(names) == len(set(names)) == 15
    assert all(check.why and check.value and not check.advice for check in report.checks)


def test_modes_apart_stop_and_say_that_more_draws_do_not_help():
    arrays = healthy()
    arrays["functions"] = arrays["functions"] + np.arange(C)[:, None, None]
    report = diagnose(**arrays)
    check = report["predictions: chains agree"]
    assert check.verdict == "stop"
    assert check.numbers["worst_rhat"] == pytest.approx(max(az.rhat(arrays["functions"][..., n]) for n in range(N)))
    assert "several modes" in check.why
    assert "more draws of these chains won't help" in check.advice.lower()
    assert report["predictions: each chain has settled"].verdict == "ok"


def test_drift_stops_and_says_to_run_longer():
    arrays = healthy()
    arrays["functions"] = (
        arrays["functions"] + np.linspace(0, 3, S)[None, :, None] * np.array([1, -1, 1, -1])[:, None, None]
    )
    report = diagnose(**arrays)
    assert report["predictions: chains agree"].verdict == "stop"
    assert "not forgotten" in report["predictions: chains agree"].why
    settled = report["predictions: each chain has settled"]
    assert settled.verdict == "stop"
    assert "chain 0, 1, 2, 3" in settled.why


def test_a_stuck_chain_stops():
    arrays = healthy()
    arrays["functions"][2] = arrays["functions"][2, :1]
    check = diagnose(**arrays)["predictions: chains agree"]
    assert (check.verdict, check.value) == ("stop", "1 of 4 chains stuck")


def test_nothing_moving_stops():
    check = diagnose(functions=np.ones((C, S, 2)))["predictions: effective draws"]
    assert (check.verdict, check.value) == ("stop", "no variation")


def test_one_chain_is_looked_at_for_what_it_can_say():
    report = diagnose(functions=healthy()["functions"][:1])
    assert not_ok(report) == {"predictions: chains agree": "look"}


def test_numbers_that_are_not_finite_stop():
    arrays = healthy()
    arrays["functions"][1, 5, 3] = np.inf
    arrays["log_likelihood"][0, 0, 0] = np.nan
    report = diagnose(**arrays)
    assert report["predictions"].value == "NaN or infinite in 1 of 2400 draws"
    assert report["log likelihood"].verdict == "stop"


def test_sticky_draws_are_few():
    rng = np.random.default_rng(0)
    few = np.repeat(rng.normal(size=(C, S // 20, N)), 20, axis=1)
    report = diagnose(functions=few)
    assert report["predictions: effective draws"].verdict in ("look", "stop")
    check = report["predictions: Monte Carlo error"]
    assert check.verdict in ("look", "ok")
    at = max(range(N), key=lambda n: az.mcse(few[..., n]) / few[..., n].std(ddof=1))
    expected = az.mcse(few[..., at]) / few[..., at].std(ddof=1)
    assert check.numbers["worst_relative_mcse"] == pytest.approx(expected)


@pytest.mark.parametrize(("count", "verdict"), [(0, "ok"), (5, "look"), (24, "look"), (25, "stop")])
def test_divergences(count, verdict):
    stats = healthy()["stats"]
    stats["diverging"].flat[:count] = True
    check = diagnose(stats=stats)["divergences"]
    assert check.verdict == verdict
    assert check.numbers["divergences"] == count


def test_a_slow_energy_and_cut_trajectories():
    rng = np.random.default_rng(0)
    stats = {"energy": rng.normal(size=(C, S)).cumsum(1), "reached_max_treedepth": rng.random((C, S)) < 0.5}
    report = diagnose(stats=stats)
    worst = az.bfmi(stats["energy"]).min()
    assert report["energy"].verdict == "stop"
    assert report["energy"].numbers["worst_bfmi"] == pytest.approx(worst)
    assert report["tree depth"].verdict == "look"


def test_rejections_of_metropolis_are_no_divergences():
    report = diagnose(functions=healthy()["functions"], stats={"diverging": np.ones((C, S), bool)})
    assert "divergences" not in [check.name for check in report.checks]


def test_a_density_that_still_rises_and_points_that_cannot_be_left_out():
    rng = np.random.default_rng(0)
    x = healthy()["log_likelihood"]
    x[..., 0] += np.linspace(0, 4, S)
    x[..., 1] = 6 * rng.standard_t(1.5, size=(C, S))
    report = diagnose(log_likelihood=x)
    assert report["predictive density"].verdict == "stop"
    check = report["leave-one-out"]
    assert check.verdict == "stop"
    idata = az.from_dict(posterior={"w": np.zeros((C, S))}, log_likelihood={"y": x})
    with pytest.warns(UserWarning, match="Pareto"):
        elpd = az.loo(idata, reff=relative_efficiency(x), pointwise=True)
    assert check.numbers["bad"] == int((elpd.pareto_k > elpd.good_k).sum()) >= 1


def test_dead_units():
    units = {"1": np.zeros((C, 5, 10), bool), "3": np.zeros((C, 5, 10), bool)}
    units["3"][..., :3] = True
    check = diagnose(functions=healthy()["functions"], dead_units=units)["ReLU units"]
    assert check.verdict == "look"
    assert check.value == "30% dead in '3' (worst layer)"


def test_many_short_chains_are_judged_by_superchains():
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(16), 32)
    fresh = rng.normal(size=(512, 5, 3))
    check = diagnose(functions=fresh, superchains=ids)["predictions: superchains agree"]
    assert check.verdict == "ok"
    remembered = fresh + rng.normal(size=(16, 1, 3))[ids]
    assert diagnose(functions=remembered, superchains=ids)["predictions: superchains agree"].verdict == "stop"


# Symmetries of a network


def permuted(params, seed):
    """The same functions: the hidden units of each draw in another order, some with both signs turned."""
    rng = np.random.default_rng(seed)
    result = {name: p.clone() for name, p in params.items()}
    chains, draws, hidden = params["0.bias"].shape
    for c in range(chains):
        for s in range(draws):
            order, sign = torch.tensor(rng.permutation(hidden)), torch.tensor(rng.choice([-1.0, 1.0], hidden))
            result["0.weight"][c, s] = sign[:, None] * params["0.weight"][c, s, order]
            result["0.bias"][c, s] = sign * params["0.bias"][c, s, order]
            result["2.weight"][c, s] = sign * params["2.weight"][c, s][:, order]
    return result


def test_permuted_hidden_units_change_no_diagnostic():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    params = {name: torch.randn(3, 100, *p.shape, dtype=torch.float64) for name, p in net.named_parameters()}
    X, y = torch.randn(10, 2, dtype=torch.float64), torch.randn(10, dtype=torch.float64)

    def arrays(params):
        def function(p):
            return torch.func.functional_call(net, p, (X,))[:, 0]

        # Rounded, since sums in another order differ in their last digits, which decides ties among ranks.
        functions = torch.func.vmap(torch.func.vmap(function))(params).round(decimals=9)
        log_prior = sum(-0.5 * p.square().flatten(2).sum(2) for p in params.values()).round(decimals=9)
        return {"functions": functions, "log_likelihood": -0.5 * (functions - y) ** 2, "log_prior": log_prior}

    before, after = diagnose(**arrays(params)), diagnose(**arrays(permuted(params, 1)))
    assert [c.verdict for c in before.checks] == [c.verdict for c in after.checks]
    for one, other in zip(before.checks, after.checks, strict=True):
        np.testing.assert_allclose(list(one.numbers.values()), list(other.numbers.values()), rtol=1e-12)
    # Weights do tell them apart.
    weights, moved = params["0.weight"], permuted(params, 1)["0.weight"]
    assert abs(az.rhat(weights[..., 0, 0].numpy()) - az.rhat(moved[..., 0, 0].numpy())) > 1e-4


# What goes in and comes out


def test_groups_of_inference_data_are_used():
    arrays = healthy()
    rows = arrays["log_likelihood"]
    idata = az.from_dict(
        posterior={"w": np.zeros((C, S))},
        sample_stats=arrays["stats"],
        log_likelihood={"a": rows[..., :5], "b": rows[..., 5:]},
    )
    found, expected = diagnose(idata), diagnose(log_likelihood=rows, stats=arrays["stats"])
    assert found.to_dict() == expected.to_dict()
    assert "functions=" in found.notes[0]


def test_draws_are_taken_too():
    stats = {name: torch.as_tensor(x) for name, x in healthy()["stats"].items()}
    draws = Draws(torch.zeros(C, S, 2), stats, torch.ones(C), torch.ones(C, 2))
    assert [c.name for c in diagnose(draws).checks] == ["divergences", "energy", "tree depth"]


def test_the_report_is_a_readable_table():
    arrays = healthy()
    arrays["stats"]["diverging"][0, :3] = True
    report = diagnose(functions=arrays["functions"], stats=arrays["stats"])
    text = str(report)
    assert text.startswith("Verdict: look (6 ok, 1 to look at, 0 to stop at)")
    assert max(map(len, text.splitlines())) <= 100
    assert "look  divergences" in text
    assert "Try: Raise target_accept" in text
    assert "Not checked: predictive density" in text


def test_to_dict_is_json_without_nan():
    arrays = healthy()
    text = json.dumps(diagnose(**arrays).to_dict(), allow_nan=False)
    assert json.loads(text)["verdict"] == "ok"
    with pytest.raises(KeyError, match="there is no check 'x'; the checks are divergences"):
        diagnose(stats=arrays["stats"])["x"]


@pytest.mark.parametrize("draws", [1, 2, 3, 5])
@pytest.mark.parametrize("chains", [1, 3])
def test_a_run_that_has_hardly_begun_is_no_error_and_not_ok(chains, draws):
    arrays = healthy()
    stats = {name: x[:chains, :draws] for name, x in arrays.pop("stats").items()}
    report = diagnose(**{name: x[:chains, :draws] for name, x in arrays.items()}, stats=stats)
    assert report["predictions: effective draws"].verdict == "stop"
    assert report.verdict == "stop"


def test_an_empty_report_is_no_approval():
    assert Report(()).verdict == "look"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "something to look at"),
        ({"x": 3}, TypeError, "received int"),
        ({"functions": np.zeros(3)}, ValueError, "functions must have shape"),
        ({"log_likelihood": np.zeros((3, 4))}, ValueError, "log_likelihood must have shape"),
        ({"functions": np.zeros((2, 9, 1)), "log_prior": np.zeros((9, 2))}, ValueError, "same"),
        ({"stats": {"energy": np.zeros(3)}}, ValueError, "energy"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        diagnose(**arguments)


def test_limits_go_both_ways_and_nan_is_never_ok():
    assert [judged(v, (1.01, 1.05)) for v in (1.0, 1.01, 1.03, 1.06, np.nan)] == ["ok", "ok", "look", "stop", "stop"]
    assert [judged(v, (400, 100)) for v in (500, 400, 150, 99, np.nan)] == ["ok", "ok", "look", "stop", "stop"]
