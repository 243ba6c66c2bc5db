"""Every row of the table leaves its target invariant, and every mutant is seen not to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from exact import DENSITIES, geweke, invariance, rank_test
from mutants import WRONG_MODELS, mutants_of
from problems import JOINTS
from samplers import PLAIN, rows

pytestmark = [pytest.mark.statistical, pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")]
every_sampler = rows()
every_batched = rows(lambda sampler: sampler.batched, ("hmc diag",))
every_density = pytest.mark.parametrize("density", DENSITIES)
every_joint = pytest.mark.parametrize("joint", JOINTS)


def chains_for(sampler, full, batched, alone):
    """How many chains a row can afford."""
    return (batched if full else batched // 4) if sampler.batched else (alone if full else 8)


def spoilt(mutant):
    """The plain sampler of a mutant's family, at the mutant's step size."""
    sampler = PLAIN[mutant.family]
    return replace(sampler, step_share=sampler.step_share * mutant.stretch)


@every_sampler
@every_density
def test_exact_draws_stay_exact(sampler, density, seed, full, record):
    found = invariance(sampler, DENSITIES[density], chains_for(sampler, full, 4000, 48), seed)
    record.hold("invariance", sampler.name, density, found)


@mutants_of("invariance")
def test_invariance_rejects(mutant, seed, record, monkeypatch):
    mutant.apply(monkeypatch)
    found = invariance(spoilt(mutant), DENSITIES["banana"], 8000, seed, transitions=6)
    record.reject("invariance", f"{mutant.family}, {mutant.name}", "banana", found)


@rows(lambda sampler: sampler.reversible)
@every_joint
def test_ranks_are_uniform(sampler, joint, seed, full, record):
    ranks = rank_test(sampler, JOINTS[joint], chains_for(sampler, full, 1000, 24), seed)
    record.ranks[sampler.name, joint] = (ranks.names, ranks.values, ranks.possible)
    record.hold("ranks", sampler.name, joint, ranks.p_values())


@mutants_of("ranks")
def test_ranks_reject(mutant, seed, record, monkeypatch):
    mutant.apply(monkeypatch)
    ranks = rank_test(spoilt(mutant), JOINTS["regression"], 1500, seed)
    record.reject("ranks", f"{mutant.family}, {mutant.name}", "regression", ranks.p_values())


@pytest.mark.parametrize("family", ["hmc", pytest.param("nuts", marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", WRONG_MODELS)
def test_ranks_reject_another_model(model, family, seed, record):
    wrong = WRONG_MODELS[model]
    ranks = rank_test(PLAIN[family], wrong, 1500, seed)
    record.reject("ranks", f"{family}, {model}", wrong.name, ranks.p_values())


@every_batched
@every_joint
def test_joint_distribution_is_kept(sampler, joint, seed, full, record):
    found = geweke(sampler, JOINTS[joint], 2000 if full else 1000, seed, rounds=12 if full else 6)
    record.hold("Geweke", sampler.name, joint, found)


@pytest.mark.slow
@mutants_of("Geweke")
def test_joint_distribution_rejects(mutant, seed, record, monkeypatch):
    mutant.apply(monkeypatch)
    found = geweke(spoilt(mutant), JOINTS["regression"], 4000, seed, rounds=15)
    record.reject("Geweke", f"{mutant.family}, {mutant.name}", "regression", found)


@pytest.mark.slow
@pytest.mark.parametrize("model", WRONG_MODELS)
def test_joint_distribution_rejects_another_model(model, seed, record):
    wrong = WRONG_MODELS[model]
    found = geweke(PLAIN["nuts"], wrong, 4000, seed, rounds=15)
    record.reject("Geweke", f"nuts, {model}", wrong.name, found)
