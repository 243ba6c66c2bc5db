"""What draws depend on: seed, chain, start, options; and what not: constants, neighbours, global state, pauses."""

from __future__ import annotations

import copy
import gc
import random

import arviz
import numpy as np
import pytest
import torch
from targets import banana, independent_gaussian, standard_normal
from torch import nn

from hnbayes.kernels import HMC, NUTS, RandomWalkMetropolis, State, hmc
from hnbayes.kernels.adaptation import Adaptation
from hnbayes.kernels.arrays import HostVectors
from hnbayes.kernels.metrics import identity_metric
from hnbayes.potentials import Potential, nn_pot_energy
from hnbayes.potentials.nn import log_prob_standard_normal_prior
from hnbayes.rng import chain_streams
from hnbayes.sampling import beginning, sample_potential
from hnbayes.sampling.draws import Recorder
from hnbayes.sampling.loop import run

KERNELS = {"nuts": NUTS, "hmc": HMC, "metropolis": RandomWalkMetropolis}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
pytestmark = pytest.mark.filterwarnings("ignore::hnbayes.sampling.SamplingWarning")  # warm-ups are short
BENT = banana([1.0, 0.8, 1.2, 1.5], [0.3, -0.4, 0.2])


def short(potential, start, kernel, warmup=60, draws=40, seed=1, **options):
    options = {"kernel": kernel, "warmup": warmup, "draws": draws, "seed": seed, "progress": False} | options
    return sample_potential(potential, start, **options)


def record(draws):
    """All numbers that a run leaves, by name."""
    return {
        "positions": draws.positions,
        "step_size": draws.step_size,
        "inverse_metric": draws.inverse_metric,
        **draws.stats,
    }


def assert_identical(a, b):
    a, b = record(a), record(b)
    for name, values in a.items():
        assert torch.equal(values, b[name]), name


# A constant added to U

NORMAL = independent_gaussian([0.3, 0.6, 1.0, 2.0, 3.0])
SCALES = NORMAL.covariance.diagonal().sqrt()


def shifted(c):
    """A Gaussian's U + c, elementwise so that float32 is float32 throughout."""
    return lambda q: 0.5 * (q / SCALES.to(q.dtype)).square().sum() + c


def shifted_run(c, dtype=torch.float32):
    # What does not find the right step size is not to take all day.
    return short(shifted(c), NORMAL.draw(16, seed=2).to(dtype), NUTS(max_tree_depth=5), warmup=300, draws=300)


@pytest.fixture(scope="module")
def in_float64():
    return shifted_run(0.0, torch.float64)


def check_same_posterior(draws, reference):
    x = draws.positions.double().numpy()
    z = [x[..., i].mean() / float(arviz.mcse(x[..., i], method="mean")) for i in range(x.shape[-1])]
    step = float((draws.step_size.log().mean() - reference.step_size.log().mean()).exp())
    print(f"z {np.abs(z).max():.2f}, step size {step:.2f} of that in float64")
    assert np.abs(z).max() < 4
    assert abs(step - 1) < 0.25
    assert int(draws.stats["diverging"].sum()) <= int(reference.stats["diverging"].sum())
    np.testing.assert_allclose(x.reshape(-1, 5).std(0), SCALES, rtol=0.15)


@pytest.mark.parametrize("c", [0.0, 1e4, 1e6])
def test_constants_change_no_posterior_in_float32(c, in_float64):
    check_same_posterior(shifted_run(c), in_float64)


@pytest.mark.slow
def test_same_posterior_check_rejects_energies_too_coarse(in_float64):
    draws = shifted_run(1e8)
    with pytest.raises(AssertionError):
        check_same_posterior(draws, in_float64)


@pytest.mark.parametrize(
    ("c", "dtype", "spacing"),
    [
        *((1e8, torch.float32, "8"), (-1e8, torch.float32, "8"), (4e6, torch.float32, "0.25")),
        *((1e6, torch.float32, None), (1e8, torch.float64, None)),
    ],
)
def test_energies_too_coarse_are_warned_of(c, dtype, spacing, recwarn):
    short(shifted(c), torch.zeros(2, 5, dtype=dtype), HMC(num_steps=2), step_size=0.1)
    told = [str(warning.message) for warning in recwarn if "float32" in str(warning.message)]
    assert len(told) == (spacing is not None)
    assert all(f"float32 numbers are {spacing} apart" in message for message in told)


def check_constant_is_exact(kernel, c=1024.0, **options):
    """A power of two loses the last digits of an energy and changes no decision."""
    start = BENT.draw(4, seed=3)
    plain = short(BENT.potential, start, kernel, **options)
    with_constant = short(lambda q: BENT.potential(q) + c, start, kernel, **options)
    torch.testing.assert_close(with_constant.positions, plain.positions, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(with_constant.stats["lp"], plain.stats["lp"] - c, rtol=0, atol=1e-6)
    for name in ("n_steps", "diverging"):
        assert torch.equal(with_constant.stats[name], plain.stats[name])
    if not options.get("adapt_step_size", True):
        assert torch.equal(with_constant.positions, plain.positions)


@every_kernel
@pytest.mark.parametrize("c", [1024.0, -65536.0])
def test_constants_change_no_draw(kernel, c):
    # With a fixed step size: its adaptation amplifies the rounding that a constant changes.
    check_constant_is_exact(kernel(), c, step_size=0.5, adapt_step_size=False, metric="unit")


def test_constant_check_rejects_probabilities_that_underflow(monkeypatch):
    def by_ratio(energy, proposed, *_):
        ratio = np.exp(-proposed) / np.exp(-energy)
        return np.log(np.minimum(np.nan_to_num(ratio, nan=0.0), 1.0))

    monkeypatch.setattr(hmc, "log_acceptance", by_ratio)
    with pytest.raises(AssertionError):
        check_constant_is_exact(HMC(), step_size=0.5, adapt_step_size=False, metric="unit")


# Seeds and chains


@every_kernel
@pytest.mark.parametrize("metric", ["diag", "dense"])
def test_a_seed_gives_the_same_draws(kernel, metric):
    start = BENT.draw(3, seed=3)
    first, again, other = (short(BENT.potential, start, kernel(), metric=metric, seed=seed) for seed in (7, 7, 8))
    assert_identical(first, again)
    assert not torch.equal(first.positions, other.positions)


@every_kernel
def test_a_seed_gives_the_same_draws_in_float32(kernel):
    start = BENT.draw(3, seed=3).float()
    assert_identical(*(short(BENT.potential, start, kernel()) for _ in range(2)))


def check_lone_chains(potential, start, kernel, chains, **options):
    """Each of some chains of a batch is the run of that chain alone."""
    batch = record(short(potential, start, kernel, **options))
    for c in chains:
        lone = record(short(potential, start[c : c + 1], kernel, chain_ids=[c], **options))
        for name, values in lone.items():
            torch.testing.assert_close(batch[name][c : c + 1], values, rtol=1e-10, atol=1e-10, msg=f"{name} of {c}")


@every_kernel
@pytest.mark.parametrize("metric", ["diag", "dense"])
def test_chains_do_not_depend_on_their_batch(kernel, metric):
    check_lone_chains(BENT.potential, BENT.draw(8, seed=3), kernel(), (0, 3, 7), metric=metric)


def network_potential(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 2, generator=generator, dtype=torch.float64).to(dtype)
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).to(dtype)
    return nn_pot_energy(net, x, torch.sin(x[:, :1]), log_prob_standard_normal_prior, tau_pred=10.0)


def test_chains_of_a_network_do_not_depend_on_their_batch():
    """Matrix products of another batch size may round differently, and chains amplify that: so this is a short run."""
    start = 0.5 * standard_normal(8, 13, seed=4)
    check_lone_chains(network_potential(), start, NUTS(), (0, 3, 7), warmup=5, draws=5)


WELLS = [(0.0, 0.05), (100.0, 0.4), (200.0, 2.0)]  # of quick, middling and slow chains at a given step size
QUICK_AND_SLOW = torch.tensor([0, 0, 1, 0, 2, 0, 1, 2])


def wells(q):
    """Normal densities of different widths, so far apart that no chain leaves its own."""
    first, second = q[0] > 50, q[0] > 150
    centre = torch.where(second, 200.0, torch.where(first, 100.0, 0.0))
    width = torch.where(second, 2.0, torch.where(first, 0.4, 0.05))
    z = torch.cat(((q[:1] - centre) / width, q[1:] / width))
    return 0.5 * z.square().sum() + 0.1 * z[0].square().log1p()


def wells_start():
    start = torch.zeros(8, 2, dtype=torch.float64)
    start[:, 0] = 100.0 * QUICK_AND_SLOW
    return start + 0.03 * standard_normal(8, 2, seed=5)


class Counting(Potential):
    """Notes the sizes of the batches that it evaluates."""

    sizes: set[int]

    def value_and_grad(self, positions):
        self.sizes = {*getattr(self, "sizes", ()), len(positions)}
        return super().value_and_grad(positions)


UNEVEN = [
    {"step_size": 0.06, "adapt_step_size": False, "metric": "unit", "warmup": 0, "draws": 15},
    {"step_size": 0.06, "metric": "diag", "warmup": 30, "draws": 5},
    {"step_size": 0.06, "metric": "dense", "warmup": 30, "draws": 5},
]


@pytest.mark.parametrize("kernel", [NUTS, lambda: HMC(trajectory_length=3.0)], ids=["nuts", "hmc"])
@pytest.mark.parametrize("options", UNEVEN, ids=["fixed", "diag", "dense"])
def test_chains_do_not_depend_on_when_others_end(kernel, options):
    check_lone_chains(wells, wells_start(), kernel(), (0, 2, 4, 7), **options)


def test_chains_that_have_ended_leave_the_batch():
    potential = Counting(wells)
    short(potential, wells_start(), NUTS(), **UNEVEN[0])
    assert {8, 4, 2} <= potential.sizes
    assert max(potential.sizes) == 8


def test_lone_chain_check_rejects_streams_that_are_shared(monkeypatch):
    monkeypatch.setattr(beginning, "chain_streams", lambda seed, ids: chain_streams(seed, [0]) * len(ids))
    with pytest.raises(AssertionError):
        check_lone_chains(BENT.potential, BENT.draw(8, seed=3), HMC(), (0, 3, 7))


def test_lone_chain_check_rejects_streams_in_wrong_order(monkeypatch):
    """Mutant: chains that go on take the streams of the first rows."""
    select = State.select

    def careless(self, rows):
        state = select(self, rows)
        state.streams = self.streams[: len(rows)]
        return state

    monkeypatch.setattr(State, "select", careless)
    with pytest.raises(AssertionError):
        # Counting, for which rows that have ended do leave the batch, though they are few.
        check_lone_chains(Counting(wells), wells_start(), NUTS(), (0, 2, 4, 7), **UNEVEN[0])


# Global state


def global_states():
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - it is what users may have set
    return torch.get_rng_state().tolist(), (kind, keys.tolist(), *rest), random.getstate()


def disturb(number):
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002
    random.seed(number)


@every_kernel
def test_with_a_seed_global_random_state_is_neither_read_nor_changed(kernel):
    runs = []
    for number in (1, 2):
        disturb(number)
        before = global_states()
        runs.append(short(BENT.potential, BENT.draw(2, seed=3), kernel()))
        assert global_states() == before
    assert_identical(*runs)


def test_without_a_seed_torchs_generator_makes_one():
    runs = []
    for number in (5, 5, None):
        if number is not None:
            torch.manual_seed(number)
        runs.append(short(BENT.potential, BENT.draw(2, seed=3), HMC(), seed=None))
    first, again, later = runs
    assert_identical(first, again)
    assert not torch.equal(again.positions, later.positions)
    assert_identical(later, short(BENT.potential, BENT.draw(2, seed=3), HMC(), seed=later.metadata["seed"]))


# What belongs to the caller


def snapshot(tensors):
    return {name: (t.detach().clone(), t.requires_grad, t.grad, t._version) for name, t in tensors.items()}


def assert_untouched(tensors, before):
    for name, tensor in tensors.items():
        values, requires_grad, grad, version = before[name]
        assert torch.equal(tensor.detach(), values), name
        assert tensor.requires_grad == requires_grad, name
        assert tensor.grad is None, name
        assert grad is None, name
        assert tensor._version == version, name


def check_caller_keeps_tensors(kernel):
    precision = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    positions = standard_normal(2, 3, seed=6).requires_grad_()
    metric = torch.tensor([1.0, 0.5, 0.3], dtype=torch.float64)
    given = {"precision": precision, "positions": positions, "metric": metric}
    before = snapshot(given)
    draws = short(lambda q: 0.5 * (precision * q.square()).sum(), positions, kernel, metric=metric)
    assert_untouched(given, before)
    for name, values in record(draws).items():
        assert not values.requires_grad, name
        assert values.grad_fn is None, name
    assert float(draws.positions.std()) > 0.1


@every_kernel
def test_the_callers_tensors_stay_as_they_are(kernel):
    check_caller_keeps_tensors(kernel())


def test_lists_of_positions_stay_as_they_are():
    positions = {str(c): standard_normal(1, 4, seed=c)[0].requires_grad_() for c in range(3)}
    before = snapshot(positions)
    draws = short(BENT.potential, list(positions.values()), NUTS())
    assert_untouched(positions, before)
    assert not torch.equal(draws.positions[:, -1], torch.stack([before[c][0] for c in positions]))


class MovesPositions(HMC):
    """Mutant: the state is the caller's tensor."""

    def init(self, potential, positions, streams, step_size=1.0, metric=None):
        state = super().init(potential, positions, streams, step_size, metric)
        state.position = positions.detach().numpy()
        return state


def test_callers_tensors_check_rejects():
    with pytest.raises(AssertionError, match="positions"):
        check_caller_keeps_tensors(MovesPositions())


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_network_stays_as_it_is(kernel):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1)).double()
    net[0].bias.requires_grad_(False)
    net(standard_normal(10, 2, seed=7))
    net.eval()
    x, y = standard_normal(20, 2, seed=8), standard_normal(20, 1, seed=9)
    given = {**dict(net.named_parameters()), **dict(net.named_buffers()), "x": x, "y": y}
    before = snapshot(given)
    U = nn_pot_energy(net, x, y, log_prob_standard_normal_prior)
    draws = short(U, 0.1 * standard_normal(2, U.spec.size, seed=10), kernel, warmup=20, draws=10)
    assert_untouched(given, before)
    assert not net.training
    assert draws.params()["0.weight"].shape == (2, 10, 3, 2)
    assert "0.bias" not in draws.params()


def tensors_with_graphs():
    gc.collect()
    return {id(t) for t in gc.get_objects() if type(t) is torch.Tensor and t.grad_fn is not None}


def one_at_a_time(q):
    """Not to be vectorised."""
    return (1.0 + 0.0 * q.sum().item()) * BENT.potential(q)


@every_kernel
@pytest.mark.parametrize("potential", [BENT.potential, one_at_a_time], ids=["batched", "sequential"])
@pytest.mark.filterwarnings("ignore:the potential can't be evaluated for all chains:UserWarning")
def test_nothing_that_is_kept_holds_a_graph(kernel, potential):
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    U = Potential(lambda q: weight * potential(q))
    before = tensors_with_graphs()
    seen = []
    draws = short(U, BENT.draw(2, seed=3), kernel(), callbacks=[seen.append], warmup=10, draws=10)
    assert not tensors_with_graphs() - before
    assert weight.grad is None
    assert len(seen) > 0
    assert draws.positions.shape == (2, 10, 4)


def test_graphs_are_found_where_they_are_kept():
    before = tensors_with_graphs()
    kept = [torch.ones(2, requires_grad=True) * 2]
    assert tensors_with_graphs() - before == {id(kept[0])}


# A run in parts


def new_state(kernel, potential=wells, adapted=None):
    start = wells_start()
    metric = identity_metric(adapted, *start.shape, HostVectors(start.dtype)) if adapted else None
    return kernel.init(Potential(potential), start, chain_streams(1, range(8)), 0.06, metric)


def collect(kernel, state, draws):
    recorder = Recorder(8, draws, 2, torch.float64, kernel.stats)
    final, interrupted = run(kernel, state, warmup=0, draws=draws, sink=recorder)
    assert not interrupted
    return final, recorder.complete()


@every_kernel
def test_two_runs_are_one_run_twice_as_long(kernel):
    kernel = kernel()
    _, (whole, whole_stats) = collect(kernel, new_state(kernel), 14)
    middle, (first, first_stats) = collect(kernel, new_state(kernel), 6)
    _, (second, second_stats) = collect(kernel, middle, 8)
    assert torch.equal(torch.cat((first, second), 1), whole)
    for name, values in whole_stats.items():
        assert torch.equal(torch.cat((first_stats[name], second_stats[name]), 1), values), name


@every_kernel
def test_whole_steps_are_the_draws_of_a_run(kernel):
    kernel = kernel()
    _, (whole, whole_stats) = collect(kernel, new_state(kernel), 6)
    state = new_state(kernel)
    for n in range(6):
        state, info = kernel.step(state)
        assert torch.equal(state.positions_tensor(), whole[:, n])
        for name, values in whole_stats.items():
            assert torch.equal(torch.from_numpy(info[name]), values[:, n]), name


def go_on(kernel, state, adaptation, done, advances):
    """Advance with adaptation; what was completed, in order."""
    completed = []
    for _ in range(advances):
        state, finished = kernel.advance(state)
        if finished is None:
            continue
        rows = finished.rows
        done[rows] += 1
        completed += [rows.copy(), state.position[rows].copy(), *(v.copy() for v in finished.info.values())]
        warm = rows[done[rows] <= adaptation.warmup]
        if len(warm):
            acceptance = finished.info["acceptance_rate"][done[rows] <= adaptation.warmup]
            adaptation.update(state, warm, warm, done[warm], acceptance)
    return completed


def check_resumes(kernel, adapted, copy_of):
    """A copy made in the middle of trajectories and of warm-up goes on as the run it was made from, and alone."""
    state = new_state(kernel, adapted=adapted)
    parts = (kernel, state, Adaptation(state, 40, 0.8, metric=adapted), np.zeros(8, np.int64))
    go_on(*parts, advances=137)
    stored = copy_of(parts)
    expected = go_on(*parts, advances=150)
    go_on(*copy_of(stored), advances=150)
    resumed = go_on(*stored, advances=150)
    assert len(resumed) == len(expected)
    for a, b in zip(resumed, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@every_kernel
@pytest.mark.parametrize("adapted", ["diag", "dense"])
def test_a_copy_made_anywhere_goes_on_bit_for_bit(kernel, adapted):
    check_resumes(kernel(), adapted, copy.deepcopy)


@every_kernel
def test_resuming_check_rejects_a_copy_that_shares(kernel):
    # Two runs on the same arrays may also end in numbers that no run could have (a tree of no leaves).
    with pytest.raises((AssertionError, RuntimeWarning)):
        check_resumes(kernel(), "diag", lambda parts: tuple(copy.copy(part) for part in parts))
