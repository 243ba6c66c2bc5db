"""MultiChainHMC: several documented chains side by side, of one potential or several, in one thread or several."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from documented_chains import (
    CLASSES,
    KINDS,
    Fuse,
    make,
    make_all,
    path,
    paths,
    standard,
    starts_for,
)

from hnbayes import HMC, MultiChainHMC, Potential

torch.set_num_threads(1)


# --- several chains ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_chains_of_the_type_asked_for(kind):
    chains = make_all(kind)
    assert isinstance(chains.chains, list)
    assert [type(chain) for chain in chains.chains] == [CLASSES[kind]] * 3
    assert chains.num_chains == 3
    assert [type(chain) for chain in MultiChainHMC(starts_for(2), standard).chains] == [HMC] * 2
    for chain, start in zip(chains.chains, starts_for(3), strict=True):
        assert torch.equal(chain.current_position, start)


@pytest.mark.parametrize("as_what", [list, tuple, torch.stack])
def test_initial_positions_of_every_kind(as_what):
    starts = starts_for(3)
    chains = make_all("hmc", as_what(starts))
    chains.simulate_chains(2)
    reference = make_all("hmc", starts)
    reference.simulate_chains(2)
    assert torch.equal(paths(chains), paths(reference))


def test_options_are_passed_to_every_chain():
    chains = make_all("nuts", stepsize=0.25, delta_max=7.0, inv_mass=torch.tensor([0.5, 2.0]), max_tree_depth=2)
    chains.simulate_chains(3)
    assert [chain.stepsize for chain in chains.chains] == [0.25] * 3
    assert all(chain.inv_mass.tolist() == [0.5, 2.0] for chain in chains.chains)
    assert chains.to_draws().stats["tree_depth"].max() <= 2
    # In one batch nonetheless a chain may have a setting of its own.
    chains.chains[1].stepsize = 0.5
    chains.simulate_chains(2)
    assert chains.to_draws().stats["step_size"][:, -1].tolist() == [0.25, 0.5, 0.25]


def test_chains_with_other_settings_go_on_side_by_side():
    chains = make_all("hmc")
    chains.chains[1].num_steps = 5
    chains.chains[2].warm_up(20, metric="dense")
    chains.simulate_chains(4)
    assert [chain.to_draws().stats["n_steps"].tolist() for chain in chains.chains] == [[[n] * 4] for n in (3, 5, 3)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_parallel", [1, 2])
def test_chains_are_the_lone_ones(num_parallel, kind):
    """Chain c of MultiChainHMC(seed=s) is the chain with seed=s, chain=c."""
    starts = starts_for(5)
    chains = make_all(kind, starts, seed=7)
    chains.simulate_chains(30, num_parallel=num_parallel)
    for c, start in enumerate(starts):
        alone = make(kind, start, seed=7, chain=c)
        alone.simulate_chain(30)
        torch.testing.assert_close(path(chains.chains[c]), path(alone), rtol=1e-9, atol=1e-9)
        assert (chains.chains[c].seed, chains.chains[c].chain) == (7, c)
    assert len({tuple(chain.current_position.tolist()) for chain in chains.chains}) == 5


def test_one_evaluation_serves_all_chains():
    calls = []

    def U(q):
        calls.append(1)
        return standard(q)

    chains = make_all("hmc", starts_for(5), Potential(U, compile=False))
    chains.simulate_chains(1)
    calls.clear()
    chains.simulate_chains(10)
    assert len(calls) == 10 * 3


def test_num_chains_as_a_number_takes_those_with_fewest_states():
    chains = make_all("hmc", starts_for(4))

    def states():
        return [chain.num_states for chain in chains.chains]

    chains.simulate_chains(5, num_chains=1)
    assert states() == [5, 0, 0, 0]
    chains.simulate_chains(2, num_chains=2)
    assert states() == [5, 2, 2, 0]
    chains.simulate_chains(4, num_chains=np.int64(3))
    assert states() == [5, 6, 6, 4]
    chains.simulate_chains(1, num_chains=4)
    assert states() == [6, 7, 7, 5]
    chains.simulate_chains(1, num_chains=-1)
    assert states() == [7, 8, 8, 6]
    chains.simulate_chains(1)
    assert states() == [8, 9, 9, 7]
    chains.chains[0].clear_position_trajectory()
    chains.simulate_chains(1, num_chains=1)
    assert states() == [8, 9, 9, 8]


@pytest.mark.parametrize("as_what", [list, tuple])
def test_num_chains_as_indices(as_what):
    chains = make_all("hmc", starts_for(4))
    chains.simulate_chains(3, num_chains=as_what([3, 1]))
    assert [chain.num_states for chain in chains.chains] == [0, 3, 0, 3]
    chains.simulate_chains(2, num_chains=as_what([np.int64(0)]))
    assert [chain.num_states for chain in chains.chains] == [2, 3, 0, 3]


def test_an_index_given_twice_counts_once_and_warns():
    chains = make_all("hmc", starts_for(4))
    with pytest.warns(UserWarning, match=r"given twice count once; received \[1, 3, 1\]") as caught:
        chains.simulate_chains(3, num_chains=[1, 3, 1])
    assert len(caught) == 1
    assert [chain.num_states for chain in chains.chains] == [0, 3, 0, 3]


@pytest.mark.parametrize(
    ("num_chains", "error", "message"),
    [
        (0, ValueError, "num_chains must be at least 1; received 0"),
        (-2, ValueError, "num_chains must be at least 1; received -2"),
        (4, ValueError, "num_chains must be at most 3, the number of chains; received 4"),
        (1.0, TypeError, "num_chains must be an integer"),
        (True, TypeError, "num_chains must be an integer"),
        ("all", TypeError, "num_chains must be an integer"),
        (None, TypeError, "num_chains must be an integer"),
        ([], ValueError, "num_chains must name at least one chain"),
        ([0, 3], ValueError, r"chain indices must lie in 0..2; received 3"),
        ([-1], ValueError, "a chain index must be at least 0; received -1"),
        ([0.0], TypeError, "a chain index must be an integer"),
    ],
)
def test_bad_num_chains(num_chains, error, message):
    chains = make_all("hmc")
    with pytest.raises(error, match=message):
        chains.simulate_chains(2, num_chains=num_chains)
    assert [chain.num_states for chain in chains.chains] == [0, 0, 0]


@pytest.mark.parametrize("name", ["num_states", "num_parallel"])
@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), ("2", TypeError)])
def test_bad_counts(value, error, name):
    with pytest.raises(error, match=f"{name} must be"):
        make_all("hmc").simulate_chains(**{"num_states": 2, name: value})


def test_a_batch_that_shrinks_keeps_what_the_chains_are():
    """NUTS chains end at different evaluations; a slow chain (small steps) goes on when the others are done."""
    chains = make_all("nuts", starts_for(4))
    chains.chains[2].stepsize = 0.05
    chains.simulate_chains(20)
    alone = make("nuts", starts_for(4)[2], stepsize=0.05, chain=2)
    alone.simulate_chain(20)
    torch.testing.assert_close(path(chains.chains[2]), path(alone), rtol=1e-8, atol=1e-8)
    assert [len(chain.position_trajectory) for chain in chains.chains] == [21] * 4


# --- a list of potentials, threads ------------------------------------------------------------------------------------


def shifted(c, compile=False):
    return Potential(lambda q: 0.5 * (q - 10.0 * c).square().sum(), compile=compile, on_error="raise")


@pytest.mark.parametrize("num_parallel", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_list_of_potentials_is_one_each(kind, num_parallel):
    U = [shifted(c) for c in range(3)]
    chains = make_all(kind, [torch.full((2,), 10.0 * c, dtype=torch.float64) for c in range(3)], U)
    if kind != "mcmc":  # values are captured, which threads must not do at once; see the test below
        chains.simulate_chains(20, num_parallel=num_parallel)
    else:
        chains.simulate_chains(20)
    draws = chains.to_draws()
    expected = torch.stack([torch.stack([-U[c](q) for q in draws.positions[c]]) for c in range(3)])
    torch.testing.assert_close(draws.stats["lp"], expected)
    for c, chain in enumerate(chains.chains):
        alone = make(kind, torch.full((2,), 10.0 * c, dtype=torch.float64), U[c], chain=c)
        alone.simulate_chain(20)
        torch.testing.assert_close(path(chain), path(alone), rtol=1e-9, atol=1e-9)


def test_a_potential_listed_twice_serves_its_chains_in_one_batch():
    calls = []

    def U(q):
        calls.append(1)
        return standard(q)

    first = Potential(U, compile=False)
    chains = make_all("hmc", starts_for(3), [first, shifted(1), first])
    chains.simulate_chains(1)
    calls.clear()
    chains.simulate_chains(10)
    assert len(calls) == 10 * 3


def test_a_list_of_potentials_must_fit():
    with pytest.raises(ValueError, match="one for each of the 3 chains; received 2"):
        make_all("hmc", U=[standard, standard])


@pytest.mark.parametrize("num_parallel", [1, 3])
def test_an_error_in_one_thread_is_raised(num_parallel):
    fuse = Fuse(ValueError("mine"))
    potentials = [shifted(0), Potential(fuse, on_error="raise"), shifted(0)]
    chains = make_all("hmc", U=potentials)
    chains.simulate_chains(2, num_parallel=num_parallel)
    fuse.left = 7  # two states of three steps, and one step
    with pytest.raises(ValueError, match="mine"):
        chains.simulate_chains(5, num_parallel=num_parallel)
    states = [chain.num_states for chain in chains.chains]
    assert states == ([7, 4, 7] if num_parallel == 3 else [7, 4, 2])
    chains.simulate_chains(3, num_parallel=num_parallel)
    assert [chain.num_states for chain in chains.chains] == [n + 3 for n in states]
    assert paths_are_finite(chains)


def paths_are_finite(chains):
    return all(path(chain).isfinite().all() for chain in chains.chains)


def test_threads_leave_the_process_as_it_was():
    """Capturing patches torch.nn.Module and the warning filters; two captures at once leave the patches in place."""
    code = """
        import threading, time, warnings, torch
        from hnbayes import MultiChainHMC
        from hnbayes.potentials import tracing
        torch.set_num_threads(1)
        call, recorded, lock, inside, most = torch.nn.Module.__call__, tracing.recorded, threading.Lock(), [], []

        def slowly_recorded(*arguments):
            with lock:
                inside.append(1)
                most.append(len(inside))
            time.sleep(0.2)
            with lock:
                inside.pop()
            return recorded(*arguments)

        tracing.recorded = slowly_recorded
        potentials = [lambda q, c=c: 0.5 * (q - c).square().sum() for c in range(3)]
        chains = MultiChainHMC([torch.zeros(2)] * 3, potentials, seed=0)
        chains.simulate_chains(3, num_parallel=3)
        assert len(most) == 3
        assert max(most) == 1, "graphs are captured at the same time"
        assert torch.nn.Module.__call__ is call, "Module.__call__ is still patched"
        assert not torch.fx._symbolic_trace.is_fx_tracing(), "torch.fx believes that it is tracing"
        assert ("ignore", None, Warning, None, 0) not in warnings.filters, "all warnings are ignored"
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr[-300:]
