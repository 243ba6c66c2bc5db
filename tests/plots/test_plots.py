"""Each picture draws the numbers that it says, in the axes that it is given."""

from __future__ import annotations

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from hnbayes import plots

C, S, N = 4, 100, 15
RNG = np.random.default_rng(0)
X = RNG.permutation(np.linspace(-2, 2, N))
FUNCTIONS = np.sin(X) + 0.2 * RNG.normal(size=(C, S, 1))
NOISY = FUNCTIONS + 0.3 * RNG.normal(size=(C, S, N))
Y = np.sin(X) + 0.3 * RNG.normal(size=N)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def line(ax, label):
    (found,) = [item for item in ax.lines if item.get_label() == label]
    return found.get_xdata(), found.get_ydata()


def band(ax, label):
    (found,) = [item for item in ax.collections if item.get_label() == label]
    vertices = found.get_paths()[0].vertices
    return [(vertices[vertices[:, 0] == x, 1].min(), vertices[vertices[:, 0] == x, 1].max()) for x in np.sort(X)]


DRAWN = {
    "band": lambda ax: plots.plot_band(X, FUNCTIONS, predictive=NOISY, observed=(X, Y), ax=ax),
    "predicted": lambda ax: plots.plot_predicted(Y, Y + 0.1, Y - 1, Y + 1, ax=ax),
    "coverage": lambda ax: plots.plot_coverage(Y, NOISY, ax=ax),
    "reliability": lambda ax: plots.plot_reliability([0, 1, 1], [0.2, 0.7, 0.9], ax=ax),
    "trace": lambda ax: plots.plot_trace(FUNCTIONS[..., 0], ax=ax),
    "ranks": lambda ax: plots.plot_ranks(FUNCTIONS[..., 0], ax=ax),
    "lppd": lambda ax: plots.plot_lppd(-NOISY, ax=ax),
    "energy": lambda ax: plots.plot_energy(NOISY[..., 0], ax=ax),
    "tree_depth": lambda ax: plots.plot_tree_depth(RNG.integers(1, 5, (C, S)), ax=ax),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN.keys())
def test_axes_are_those_given_or_new_and_labelled(draw):
    figure, ax = plt.subplots()
    assert draw(ax) is ax
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    figure.canvas.draw()
    assert draw(None).figure is not figure


def test_band_is_of_quantiles_in_the_inputs_order():
    ax = plots.plot_band(X, torch.tensor(FUNCTIONS)[..., None], predictive=NOISY, observed=(X, Y[:, None]), level=0.8)
    order = np.argsort(X)
    at, mean = line(ax, "mean")
    np.testing.assert_allclose(at, np.sort(X))
    np.testing.assert_allclose(mean, FUNCTIONS.mean((0, 1))[order])
    for label, draws in (("80% of the functions", FUNCTIONS), ("80% of new observations", NOISY)):
        expected = np.percentile(draws, [10, 90], axis=(0, 1))[:, order].T
        np.testing.assert_allclose(band(ax, label), expected)


def test_prior_and_posterior_share_their_scale():
    prior = 5 * RNG.normal(size=(1, 30, N))
    left, right = plots.plot_prior_posterior(X, prior, FUNCTIONS, observed=(X, Y), curves=7)
    assert left.get_ylim() == right.get_ylim()
    assert (left.get_title(), right.get_title()) == ("prior", "posterior")
    curves = [curve.get_ydata() for curve in right.lines]
    assert len(curves) == 7
    np.testing.assert_array_equal(curves[0], FUNCTIONS[0, 0, np.argsort(X)])
    np.testing.assert_array_equal(curves[-1], FUNCTIONS[-1, -1, np.argsort(X)])


def test_predicted_counts_what_is_inside():
    low, high = np.array([0.0, 0.0, 5.0]), np.array([2.0, 2.0, 6.0])
    ax = plots.plot_predicted([1.0, 3.0, 5.5], [1.0, 1.0, 5.2], low, high, level=0.5)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "inside its 50% interval (2)",
        "outside its 50% interval (1)",
    ]
    assert ax.get_title() == "67% inside their 50% interval"


def check_coverage(draw):
    """The share of observations in the central intervals that NumPy's quantiles give."""
    rng = np.random.default_rng(1)
    y, draws = rng.normal(size=40), 1.5 * rng.normal(size=(2, 500, 40)) + 0.2
    levels, covered = line(draw(y, draws), "observed")
    for at in (5, 25, 40, 48):
        low, high = np.quantile(draws, [(1 - levels[at]) / 2, (1 + levels[at]) / 2], axis=(0, 1))
        assert abs(covered[at] - np.mean((low <= y) & (y <= high))) <= 1 / 40
    assert covered[0] == 0
    assert covered[-1] == 1


def test_coverage_is_that_of_the_intervals():
    check_coverage(plots.plot_coverage)
    with pytest.raises(AssertionError):
        check_coverage(lambda y, draws: plots.plot_coverage(y, draws / 3))


def test_reliability_is_the_share_that_is_right_in_each_bin():
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(3), size=60)
    y = rng.integers(0, 3, 60)
    ax = plots.plot_reliability(torch.tensor(y), torch.tensor(chances), bins=4)
    points = np.concatenate(
        [c.get_offsets() for c in ax.collections if len(c.get_offsets()) == 1 and c.get_offsets().any()]
    )
    order = np.argsort(chances.max(1)).reshape(4, 15)
    right = chances.argmax(1) == y
    np.testing.assert_allclose(points, [[chances.max(1)[o].mean(), right[o].mean()] for o in order])
    bars = [c.get_segments()[0][:, 1] for c in ax.collections if hasattr(c, "get_segments")]
    for (low, high), o in zip(bars, order, strict=True):
        interval = stats.binomtest(int(right[o].sum()), 15).proportion_ci(method="wilson")
        np.testing.assert_allclose([low, high], [interval.low, interval.high], rtol=1e-9)


def test_trace_and_ranks_show_the_draws():
    x = FUNCTIONS[..., 0]
    ax = plots.plot_trace(x)
    np.testing.assert_array_equal([item.get_ydata() for item in ax.lines], x)
    ax = plots.plot_ranks(x, bins=10)
    counts = [patch.get_data().values for patch in ax.patches if hasattr(patch, "get_data")]
    ranks = stats.rankdata(x).reshape(x.shape)
    np.testing.assert_array_equal(counts, [[((r - 1) // (C * S / 10) == b).sum() for b in range(10)] for r in ranks])
    assert np.sum(counts) == C * S


def test_lppd_is_drawn_for_each_chain_and_all():
    x = -0.5 * NOISY**2
    ax = plots.plot_lppd(x)
    assert line(ax, "all chains")[1][-1] == pytest.approx(np.mean(logsumexp(x, axis=(0, 1)) - np.log(C * S)))
    assert line(ax, "chain 2")[1][9] == pytest.approx(np.mean(logsumexp(x[2, :10], axis=0) - np.log(10)))


def test_energy_says_the_bfmi():
    energy = NOISY[..., 0].cumsum(1)
    assert f"worst chain {az.bfmi(energy).min():.2f}" in plots.plot_energy(energy).get_title()


def test_tree_depth_leaves_room_above_the_highest_bar():
    depth = np.array([[3] * 8 + [4] * 4])
    ax = plots.plot_tree_depth(depth, depth == 4)
    assert ax.get_ylim()[1] == pytest.approx(1.2 * 8)


def test_tree_depth_stacks_what_was_cut():
    depth = np.array([[2, 2, 3, 4], [4, 4, 3, 2]])
    ax = plots.plot_tree_depth(depth, depth == 4)
    heights = [[bar.get_height() for bar in bars] for bars in ax.containers]
    assert heights == [[3, 2, 0], [0, 0, 3]]


def test_many_chains_are_not_named_one_by_one():
    ax = plots.plot_trace(np.zeros((40, 3)))
    assert ax.get_legend() is None


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.plot_band(X[:-1], FUNCTIONS), r"x must have shape \(15,\); received \(14,\)"),
        (lambda: plots.plot_band(X, FUNCTIONS[0]), r"functions must have shape \(chains, draws, points\)"),
        (lambda: plots.plot_band(X, FUNCTIONS, observed=(X, Y[:3])), r"observed\[1\] must have shape"),
        (lambda: plots.plot_predicted(Y, Y, Y, np.full(N, np.nan)), "high must be finite"),
        (lambda: plots.plot_coverage(Y[:3], NOISY), r"\(chains, draws, 3\)"),
        (lambda: plots.plot_reliability([0, 1], [[0.5, 2.0], [1.0, 0.0]]), "rows that add up to 1"),
        (lambda: plots.plot_reliability([0, 2], [[0.5, 0.5], [1.0, 0.0]]), "class numbers 0 to 1"),
        (lambda: plots.plot_trace(np.zeros(3)), "x must have shape"),
        (lambda: plots.plot_energy(np.zeros((3, 1))), "at least 2 draws"),
        (lambda: plots.plot_tree_depth(np.ones((2, 3)), np.ones((2, 2))), "as many draws"),
    ],
)
def test_what_does_not_fit_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
