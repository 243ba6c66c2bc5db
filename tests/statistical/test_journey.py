"""Ranks through the package's own pieces: `hnbayes.sample`, Pyro models, tasks in sequence by EWC priors."""

from __future__ import annotations

import functools

import pytest
from journey import PYRO_CASES, _groups, _rates, network_ranks, pyro_ranks, sequential_ranks

pytestmark = [pytest.mark.statistical, pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")]


def hold(record, name, what, ranks):
    record.ranks[name, what] = (ranks.names, ranks.values, ranks.possible)
    record.hold("ranks, journey", name, what, ranks.p_values())


@pytest.mark.parametrize("centred", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["noncentred", "centred"])
def test_networks(centred, seed, full, record):
    hold(
        record,
        "hnbayes.sample",
        f"network, {'' if centred else 'non-'}centred",
        network_ranks(100 if full else 8, seed, centred=centred),
    )


@pytest.mark.slow
def test_networks_reject_another_prior_of_the_noise(seed, record):
    found = network_ranks(120, seed, noise=4.0).p_values()
    record.reject("ranks, journey", "noise prior times 4", "network, non-centred", found)


@pytest.mark.parametrize("case", PYRO_CASES)
def test_pyro_models(case, seed, full, record):
    hold(record, "VectorizedMCMC", f"Pyro model, {case}", pyro_ranks(PYRO_CASES[case], 80 if full else 8, seed))


@pytest.mark.slow
@pytest.mark.parametrize(("case", "wrong"), [("groups", {"location": 10.0}), ("rates", {"shape": 20.0})])
def test_pyro_models_reject_another_prior(case, wrong, seed, record):
    model = functools.partial({"groups": _groups, "rates": _rates}[case], **wrong)
    found = pyro_ranks(PYRO_CASES[case], 120, seed, model).p_values()
    record.reject("ranks, journey", f"another prior, {case}", "Pyro model", found)


def test_tasks_in_sequence(seed, full, record):
    hold(record, "EWC prior", "tasks in sequence", sequential_ranks(100 if full else 8, seed))


@pytest.mark.slow
def test_tasks_in_sequence_reject_a_prior_counted_again(seed, record):
    found = sequential_ranks(200, seed, again=4).p_values()
    record.reject("ranks, journey", "prior counted again", "tasks in sequence", found)
