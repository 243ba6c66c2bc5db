"""One chain's error, NaN or infinity is its own: the others have the draws they would have had."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import hnbayes
from hnbayes import SamplingWarning, sample_potential
from hnbayes.sampling import read_draws, resume_potential
from hnbayes.sampling.callbacks import StopSampling

KERNELS = ("nuts", "hmc", "metropolis", "mclmc", "mamclmc", "chees")
START = torch.tensor([[0.1, 0.2], [0.3, -0.4], [-0.5, 0.6]], dtype=torch.float64)
FAR = torch.tensor([50.0, 50.0], dtype=torch.float64)


class NoTable(KeyError):
    """An error that isn't numerical: of a program, for some positions only."""


def potential(limit=1e9, error=None):
    """A Gaussian whose program fails beyond a limit; it must be asked one position at a time."""

    def U(q):
        if float(q[0].detach()) > limit:
            raise NoTable("row 7") if error is None else error
        return 0.5 * q.square().sum()

    return hnbayes.Potential(U)


def sample(U, start=START, **options):
    # Step sizes that are being found make leaps that cross any limit.
    options = {"step_size": 0.4, "adapt_step_size": False, "max_tree_depth": 4} | options
    options = {"warmup": 30, "draws": 60, "seed": 2, "progress": False} | options
    if options.get("kernel") == "metropolis":
        options.pop("max_tree_depth")
    return sample_potential(U, start, **options)


pytestmark = pytest.mark.filterwarnings(
    "ignore:the potential can't be evaluated for all chains at once", "ignore:.*(diverged|E-BFMI|tree depth|not moved)"
)


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_error_drops_its_chain_alone(kernel):
    whole = sample(potential(), kernel=kernel)
    _, dropped, found = one_dropped(kernel)
    others = [chain for chain in range(3) if chain not in dropped]
    assert torch.equal(found.positions, whole.positions[others])
    for name, values in found.stats.items():
        np.testing.assert_array_equal(values, whole.stats[name][others])
    assert torch.equal(found.step_size, whole.step_size[others])
    assert torch.equal(found.inverse_metric, whole.inverse_metric[others])
    assert found.metadata["dropped_chains"] == dropped
    assert found.to_inference_data().posterior.sizes["chain"] == len(others)


def one_dropped(kernel):
    """A limit that a chain crosses (or two at once), found from above, with what came of it."""
    for limit in np.arange(3.5, 0.5, -0.2):
        dropped, found = attempt(potential(limit), kernel)
        if dropped:
            break
    assert 0 < len(dropped) < 3
    return limit, dropped, found


def attempt(U, kernel, **options):
    """The chains that were dropped, and what is left; each is warned of with its state."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = sample(U, kernel=kernel, on_error="drop", **options)
    dropped = found.metadata.get("dropped_chains", [])
    messages = [str(w.message) for w in told if "was dropped after" in str(w.message)]
    assert len(messages) == len(dropped)
    for chain in dropped:
        (message,) = [text for text in messages if text.startswith(f"chain {chain} ")]
        assert "NoTable: 'row 7'" in message
        assert "U = " in message
        assert "q = (" in message
    return dropped, found


def test_by_default_the_error_ends_the_run():
    with pytest.raises(NoTable) as caught:
        sample(potential(1.0))
    assert caught.value.draws.chains == 3


@pytest.mark.parametrize("kernel", KERNELS)
def test_chains_that_cant_begin(kernel):
    start = torch.cat((START[:1], FAR[None], START[1:]))
    whole = sample(potential(), kernel=kernel, chain_ids=[0, 2, 3])
    dropped, found = None, None
    with pytest.warns(SamplingWarning, match="chain 1 was dropped where it starts: NoTable"):
        found = sample(potential(20.0), start, kernel=kernel, on_error="drop")
    dropped = found.metadata["dropped_chains"]
    assert 1 in dropped
    if dropped == [1]:
        assert torch.equal(found.positions, whole.positions)


def test_infinite_starts_are_dropped_too():
    def U(q):
        return 0.5 * q.square().sum() + torch.where(q[0] > 20, torch.inf, 0.0)

    start = torch.cat((START, FAR[None]))
    with pytest.warns(SamplingWarning, match="chain 3 was dropped where it starts: U or its gradient is not finite"):
        found = sample(U, start, on_error="drop")
    assert torch.equal(found.positions, sample(U).positions)
    with pytest.raises(ValueError, match="finite at every initial position"):
        sample(U, start)
    with pytest.raises(ValueError, match="at least one chain must be able to begin"), pytest.warns(SamplingWarning):
        sample(U, FAR[None].repeat(2, 1), on_error="drop")


def test_when_all_chains_fail_the_error_surfaces():
    with pytest.raises(NoTable), pytest.warns(SamplingWarning, match="was dropped after"):
        sample(potential(0.7), on_error="drop", warmup=100)


def test_the_last_chain_on_its_way_fails():
    """When the other has all its draws, which are kept."""
    ended = []

    def U(q):
        if float(q[0].detach()) < 1e9 and ended:
            raise NoTable("row 7")
        return 0.5 * q.square().sum()

    def look(event):
        ended.extend(event.chains[event.done == event.total].tolist())

    with pytest.warns(SamplingWarning, match="was dropped after"):
        found = sample(hnbayes.Potential(U), START[:2], on_error="drop", callbacks=[look])
    assert found.positions.shape == (1, 60, 2)
    assert len(ended) == 1
    whole = sample(potential(), START[:2])
    assert torch.equal(found.positions[0], whole.positions[ended[0]])


@pytest.mark.parametrize("error", [MemoryError("no"), StopSampling(), KeyboardInterrupt()])
def test_what_is_no_fault_of_a_chain_is_none(error):
    U = potential(1.0, error)
    if isinstance(error, MemoryError):
        with pytest.raises(MemoryError):
            sample(U, on_error="drop")
    else:
        with pytest.warns(SamplingWarning, match="interrupted before any draw"):
            assert sample(U, on_error="drop").metadata["interrupted"]


def test_dropped_chains_stay_dropped_in_a_resumed_run(tmp_path):
    limit, dropped, whole = one_dropped("hmc")

    class Stop:
        def __init__(self, at):
            self.at = at

        def __call__(self, event):
            self.at -= 1
            if self.at == 0:
                raise StopSampling

    for number, at in enumerate((10, 40, 80)):
        folder = tmp_path / str(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sample(potential(limit), kernel="hmc", on_error="drop", checkpoint=folder, callbacks=[Stop(at)])
            found = resume_potential(folder, potential(limit), progress=False)
        assert found.metadata["dropped_chains"] == dropped
        assert torch.equal(found.positions, whole.positions)
        assert torch.equal(read_draws(folder).positions, whole.positions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # more draws may drop more chains
            longer = resume_potential(folder, potential(limit), progress=False, draws=80)
        assert longer.num_draws == 80
        assert set(dropped) <= set(longer.metadata["dropped_chains"])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_and_infinity_harm_no_other_chain(kernel, value):
    """The first chain is in a well with walls of NaN or infinity; the others never come near."""

    def U(q):
        return 0.5 * q.square().sum() + torch.where((q[0] - 90).abs() < 9.9, value, 0.0)

    start = torch.cat((torch.tensor([[100.0, 0.0]], dtype=torch.float64), START))
    found = sample(U, start, kernel=kernel, warmup=0)
    alone = sample(U, START, kernel=kernel, warmup=0, chain_ids=[1, 2, 3])
    torch.testing.assert_close(found.positions[1:], alone.positions, rtol=0, atol=0)
    assert torch.isfinite(found.positions).all()
    assert found.stats["diverging"][0].any()


def test_a_stuck_chain_is_reported_with_its_state():
    def U(q):
        return torch.where(q[0] > 20, torch.where(q[0] == 50, 7.0 + 0 * q[1], torch.inf), 0.5 * q.square().sum())

    start = torch.cat((START, FAR[None]))
    with pytest.warns(
        SamplingWarning, match=r"chain 3 has not moved in its last 50 draws.*q = \(50, 50\), \|q\| = 70.71, with U = 7 "
    ):
        sample(U, start, kernel="metropolis", warmup=0)


@pytest.mark.filterwarnings("error")
def test_chains_that_move_are_not_called_stuck():
    sample(lambda q: 0.5 * q.square().sum(), kernel="hmc", warmup=200)


def test_bad_choice():
    with pytest.raises(ValueError, match="on_error must be one of"):
        sample(potential(), on_error="ignore")
