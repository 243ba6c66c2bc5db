"""NUTS leaves exp(-H) invariant to rounding: every path of tree building is followed on one leapfrog orbit.

The real kernel runs with its two kinds of random decisions prescribed, one row of the batch a path, and the product of
the probabilities it asked for is the probability of the path.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from targets import Target, banana, hamiltonian, independent_gaussian, leapfrog_orbit, standard_normal

from hnbayes.kernels import NUTS, uturn
from hnbayes.kernels.arrays import HostVectors
from hnbayes.kernels.metrics import as_metric
from hnbayes.kernels.uturn import is_turning
from hnbayes.potentials import Potential
from hnbayes.rng import chain_streams

pytestmark = pytest.mark.statistical
NO, YES, EITHER = 0, 1, 2


class Prescribed:
    """Stands in for a chain's stream: its normal numbers are those that give the momentum wanted."""

    def __init__(self, normal):
        self.normal = normal

    def standard_normal(self, dtype, out):
        out[:] = self.normal

    def standard_exponential(self, size):
        return np.zeros(size)  # decisions are prescribed too


class ScriptedNUTS(NUTS):
    """NUTS whose decisions follow a script, one row a path, for a single transition of each row.

    Args:
        directions: what each doubling is told, (R, depth); 1 is right.
        outcomes: what each decision to accept is told, (R, 2^depth - 1 + depth): the leaves in the order in which they
            are computed, then the merges. EITHER says yes without counting how probable that was.

    After `run`, `probability` is that of each path, `log_weight` that of its tree, and `leaves` has, for each advance,
    (which rows were under way, q, p).
    """

    def __init__(self, directions, outcomes):
        rows, depth = directions.shape
        super().__init__(depth)
        self.directions, self.outcomes = directions, outcomes
        self.probability = np.full(rows, 0.5**depth)
        self.used = np.zeros(outcomes.shape, bool)
        self.live = np.ones(rows, bool)
        self.count = np.zeros(rows, np.int64)  # leaves computed in the present transition
        self.log_weight = np.zeros(rows)
        self.leaves = []

    def run(self, state):
        """One transition of every row. Returns the rows' final positions (R, D) and the report on them."""
        position = np.zeros_like(state.position)
        report = {name: np.zeros(state.chains, kind) for name, kind in self.stats.items()}
        while self.live.any():
            state, finished = self.advance(state)
            if finished is None:
                continue
            first = self.live[finished.rows]
            rows = finished.rows[first]
            position[rows] = state.position[rows]
            self.log_weight[rows] = state.path.log_weight[rows]
            for name, values in finished.info.items():
                report[name][rows] = values[first]
            self.live[rows] = False
        # A leaf or merge that was never reached can't have been accepted. (The first leaf of a subtree is no decision.)
        first_leaves = 2 ** np.arange(self.max_tree_depth) - 1
        impossible = ~self.used & (self.outcomes == YES)
        impossible[:, first_leaves] = False
        self.probability[impossible.any(1)] = 0.0
        return position, report

    def advance(self, state):
        self.count[state.fresh] = 0
        return super().advance(state)

    def _direction(self, state, rows):
        return self.directions[rows, bit_length(self.count[rows])]

    def _choose_leaf(self, state, log_probability):
        at = self.count.copy()
        self.count += 1
        self.leaves.append((self.live.copy(), state.path.q.copy(), state.path.p.copy()))
        return self._decide(np.arange(state.chains), at, log_probability)

    def _choose_subtree(self, state, rows, log_probability):
        at = 2**self.max_tree_depth - 2 + bit_length(self.count[rows])
        return self._decide(rows, at, log_probability)

    def _decide(self, rows, at, log_probability):
        outcome, live = self.outcomes[rows, at], self.live[rows]
        p = np.exp(np.minimum(log_probability, 0.0))
        factor = np.select([outcome == YES, outcome == NO], [p, 1 - p], 1.0)
        self.probability[rows[live]] *= factor[live]
        self.used[rows[live], at[live]] = True
        return outcome != NO


def bit_length(count):
    """How often a tree has begun to double when it has computed so many leaves besides its start."""
    return np.frexp(count)[1]


class MergesUniformly(ScriptedNUTS):
    """Right, though not ours: a new subtree is taken with its share of the whole weight."""

    def _choose_subtree(self, state, rows, log_probability):
        return super()._choose_subtree(state, rows, log_probability - np.logaddexp(log_probability, 0.0))


class AlwaysTakesNewSubtree(ScriptedNUTS):
    def _choose_subtree(self, state, rows, log_probability):
        return super()._choose_subtree(state, rows, np.zeros(len(rows)))


class KeepsInvalidSubtree(ScriptedNUTS):
    """Merges a subtree that has turned, as far as it has come, before it ends."""

    def _check_subtrees(self, state):
        turning = super()._check_subtrees(state)
        if turning.any():
            self._merge(state, np.flatnonzero(turning))
        return turning


class ChecksWholeSubtreesOnly(ScriptedNUTS):
    """Asks a complete subtree whether it turns, but not the subtrees within it."""

    def _check_subtrees(self, state):
        super()._check_subtrees(state)
        tree = state.path
        if len(self.leaves) == 1:
            self.first_q, self.first_p = tree.q.copy(), tree.p.copy()
        doublings = bit_length(self.count)
        opening = self.count == 2 ** (doublings - 1)
        self.first_q[opening], self.first_p[opening] = tree.q[opening], tree.p[opening]
        displacement = np.where(tree.right[:, None], 1, -1) * (tree.q - self.first_q)
        turning = is_turning(state.vectors, displacement, self.first_p, tree.p)
        return turning & (self.count == 2**doublings - 1) & ~opening


class MeasuresLopsidedly(ScriptedNUTS):
    """Takes q half a step further where the subtree was built to, which depends on the direction."""

    def _check_subtrees(self, state):
        tree = state.path
        ahead = tree.q + 0.5 * tree.step * state.metric.velocity(tree.p)
        return self._open.add(state.vectors, tree.leaf, tree.right, ahead, tree.p, tree.first_q, tree.first_p)


MUTANTS = (AlwaysTakesNewSubtree, KeepsInvalidSubtree, ChecksWholeSubtreesOnly, MeasuresLopsidedly)


def every_outcome(depth):
    """All outcomes of all decisions to accept."""
    leaves = 2**depth - 1
    first_leaves = set(2 ** np.arange(depth) - 1)
    choices = [(YES,) if n in first_leaves else (NO, YES) for n in range(leaves)] + [(NO, YES)] * depth
    return np.array(list(itertools.product(*choices)))


def every_last_acceptance(depth):
    """The same events by what they lead to: a row for each leaf (and the start) that may end up as the draw.

    No decision depends on the outcome of another, so those which a later acceptance overrules can be left open.
    """
    leaves = 2**depth - 1
    table = np.full((leaves + 1, leaves + depth), EITHER)
    table[0, leaves:] = NO
    for n in range(1, leaves + 1):
        subtree = n.bit_length() - 1
        table[n, n - 1] = YES
        table[n, n : 2 ** (subtree + 1) - 1] = NO
        table[n, leaves + subtree] = YES
        table[n, leaves + subtree + 1 :] = NO
    return table


@dataclass(frozen=True)
class Case:
    """A target, a metric and a point, on whose orbit the kernel moves."""

    target: Target
    seed: int
    inverse_mass: torch.Tensor = field(default_factory=lambda: torch.eye(4, dtype=torch.float64))

    def momentum(self, z):
        """Momenta L^-T z for M^-1 = L L^T."""
        return torch.linalg.solve(torch.linalg.cholesky(self.inverse_mass).mT, z.mT).mT

    def orbit(self, step, reach):
        """Positions, momenta and H of the points -reach, ..., reach."""
        q = self.target.draw(1, self.seed)[0]
        p = self.momentum(standard_normal(1, len(q), self.seed + 1))[0]
        q, p = leapfrog_orbit(self.target, q, p, step, self.inverse_mass, reach, reach)
        return q, p, hamiltonian(self.target, self.inverse_mass, q, p).numpy()

    def state(self, kernel, step, q, p):
        """A state whose rows start at points (q, p)."""
        normal = p @ torch.linalg.cholesky(self.inverse_mass)
        return kernel.init(
            Potential(self.target.potential, compile=False),
            q,
            [Prescribed(row) for row in normal.numpy()],
            step,
            as_metric(self.inverse_mass, q.shape[1], HostVectors(torch.float64)),
        )


# Each has fast modes and slow ones.
MASS = [[1.0, 0.3, 0.0, 0.1], [0.3, 0.6, 0.2, 0.0], [0.0, 0.2, 1.5, -0.4], [0.1, 0.0, -0.4, 0.8]]
CASES = {
    "Gaussian": Case(independent_gaussian([0.6, 0.8, 2.0, 6.0]), 9),
    "banana": Case(banana([2.0, 1.0, 0.7, 5.0], [0.6, -0.4, 0.3]), 27),
    "dense metric": Case(banana([2.0, 1.0, 1.0, 3.0], [0.5, 0.5, 0.5]), 19, torch.tensor(MASS, dtype=torch.float64)),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def transition_matrix(kind, case, step, outcomes, depth, window):
    """T(i -> j) from every point i that may lead to one of the points -window, ..., window of an orbit.

    Returns:
        T (starts, points), the starts as indices of points, and the points' weights exp(min H - H).
    """
    reach = 2**depth - 1
    q, p, H = case.orbit(step, window + 2 * reach)
    assert torch.pdist(q).min() > 1e-3, "points must be told apart by their positions"
    starts = np.arange(reach, len(q) - reach)
    directions = np.array(list(itertools.product((0, 1), repeat=depth)))
    table = outcomes(depth)
    start, direction, outcome = (index.ravel() for index in np.indices((len(starts), len(directions), len(table))))
    kernel = kind(directions[direction], table[outcome])
    at = starts[start]
    position, _ = kernel.run(case.state(kernel, step, q[at], p[at]))
    possible = kernel.probability > 0
    apart = (torch.from_numpy(position[possible])[:, None] - q).abs().amax(-1).min(1)
    assert apart.values.max() < 1e-9, "draws must be points of the orbit"
    T = np.zeros((len(starts), len(q)))
    np.add.at(T, (start[possible], apart.indices.numpy()), kernel.probability[possible])
    return T, starts, np.exp(H.min() - H)


def invariance_error(kind, case, step, depth=4, window=2):
    """max |sum_i w_i T(i -> j) - w_j| / w_j over the points j = -window, ..., window."""
    T, starts, w = transition_matrix(kind, case, step, every_last_acceptance, depth, window)
    assert np.abs(T.sum(1) - 1).max() < 1e-13, "the paths must be all there are"
    middle = slice(len(w) // 2 - window, len(w) // 2 + window + 1)
    return np.abs((w[starts] @ T)[middle] / w[middle] - 1).max()


@every_case
@pytest.mark.parametrize("step", [0.4, 0.7, 1.0])
def test_transition_leaves_weights_invariant(case, step):
    assert invariance_error(ScriptedNUTS, case, step) < 1e-12


@every_case
@pytest.mark.parametrize("step", [0.4, 0.7, 1.0])
def test_it_does_with_subtrees_checked_one_by_one(case, step, monkeypatch):
    """The way of few chains, for which the paths of this test are too many."""
    monkeypatch.setattr(uturn, "FEW_CHAINS", 10**6)
    assert invariance_error(ScriptedNUTS, case, step) < 1e-12


@every_case
@pytest.mark.parametrize("mutant", [ChecksWholeSubtreesOnly, MeasuresLopsidedly])
def test_invariance_rejects_mutants_checked_one_by_one(case, mutant, monkeypatch):
    monkeypatch.setattr(uturn, "FEW_CHAINS", 10**6)
    assert invariance_error(mutant, case, 0.7) > 1e-3


@every_case
def test_invariance_accepts_another_right_sampler(case):
    assert invariance_error(MergesUniformly, case, 0.7) < 1e-12


@every_case
@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("step", [0.7, 1.0])
def test_invariance_rejects_mutants(case, mutant, step):
    assert invariance_error(mutant, case, step) > 1e-3


@every_case
def test_enumerations_agree(case):
    """Following all outcomes of all decisions gives the transition matrix that the shorter table gives."""
    full, short = (
        transition_matrix(ScriptedNUTS, case, 0.7, outcomes, depth=3, window=0)[0]
        for outcomes in (every_outcome, every_last_acceptance)
    )
    np.testing.assert_allclose(full, short, rtol=0, atol=1e-14)
    assert (np.count_nonzero(full, axis=1) > 4).any()


class RecursiveTree:
    """A NUTS trajectory built recursively (Hoffman and Gelman 2014, algorithm 6; Betancourt 2017, appendix A).

    Args:
        case: for U and M^-1.
        q, p: the start, (D,).
        step: step size.
        directions: of each doubling, (depth,); 1 is right.

    Attributes:
        leaves: [(q, p)] in the order in which they are computed.
        depth: doublings begun.
        turned: whether it ended by a U-turn, of a subtree or the whole.
        log_weight: log of the sum of exp(H_0 - H) over the tree that was complete last.
        errors: H - H_0 of each leaf.
    """

    def __init__(self, case, q, p, step, directions):
        self.case, self.step = case, step
        self.leaves, self.errors = [], []
        self.start = self._hamiltonian(q, p)
        points, weights = [(q, p)], [0.0]
        self.turned = False
        for self.depth, right in enumerate(directions, start=1):
            ahead, new_weights, turned = self._grow(*points[-1 if right else 0], right, self.depth - 1)
            if turned:
                self.turned = True
                break
            points = points + ahead if right else ahead + points
            weights += new_weights
            if self._turns(points):
                self.turned = True
                break
        self.log_weight = np.logaddexp.reduce(weights)

    def _hamiltonian(self, q, p):
        return float(hamiltonian(self.case.target, self.case.inverse_mass, q[None], p[None]))

    def _grow(self, q, p, right, depth):
        """2^depth points beyond (q, p) in order of time, their log weights, and whether a subtree turns."""
        if depth == 0:
            step = self.step if right else -self.step
            at, momentum = leapfrog_orbit(self.case.target, q, p, step, self.case.inverse_mass, 0, 1)
            point = (at[1], momentum[1])
            self.leaves.append(point)
            self.errors.append(self._hamiltonian(*point) - self.start)
            return [point], [-self.errors[-1]], False
        near, near_weights, turned = self._grow(q, p, right, depth - 1)
        if turned:
            return near, near_weights, True
        far, far_weights, turned = self._grow(*near[-1 if right else 0], right, depth - 1)
        points = near + far if right else far + near
        return points, near_weights + far_weights, turned or self._turns(points)

    def _turns(self, points):
        """Whether (q_n - q_i) . p <= 0 at an end, for points in the order of time."""
        (first_q, first_p), (last_q, last_p) = points[0], points[-1]
        displacement = last_q - first_q
        return bool(first_p @ displacement <= 0 or last_p @ displacement <= 0)


STARTS, TREE_DEPTH, TREE_STEP = 50, 6, 0.3


def trajectory_starts(case):
    """Random points (q, p) and directions for the comparison of trees."""
    q = case.target.draw(STARTS, 100)
    p = case.momentum(standard_normal(*q.shape, 101))
    return q, p, np.random.default_rng(102).integers(0, 2, (STARTS, TREE_DEPTH))


@pytest.fixture(scope="module", params=list(CASES))
def recursive(request):
    """A case and its recursively built trees."""
    case = CASES[request.param]
    q, p, directions = trajectory_starts(case)
    return case, [RecursiveTree(case, *start, TREE_STEP, right) for *start, right in zip(q, p, directions, strict=True)]


def matching_trees(kind, case, trees):
    """Which of the iterative kernel's trees are the given ones, (STARTS,)."""
    q, p, directions = trajectory_starts(case)
    outcomes = np.full((STARTS, 2**TREE_DEPTH - 1 + TREE_DEPTH), EITHER)
    kernel = kind(directions, outcomes)
    _, report = kernel.run(case.state(kernel, TREE_STEP, q, p))

    def matches(row, tree):
        leaves = [(at[row], momentum[row]) for live, at, momentum in kernel.leaves if live[row]]
        expected = np.array([[at.numpy(), momentum.numpy()] for at, momentum in tree.leaves])
        errors = np.array(tree.errors)
        received = [report[name][row] for name in ("acceptance_rate", "max_energy_error")]
        return (
            len(leaves) == len(expected) == report["n_steps"][row]
            and report["tree_depth"][row] == tree.depth
            and report["reached_max_treedepth"][row] != tree.turned
            and np.allclose(leaves, expected, rtol=1e-5, atol=1e-9)
            and np.isclose(kernel.log_weight[row], tree.log_weight, rtol=1e-5, atol=1e-9)
            and np.allclose(
                received,
                [np.exp(np.minimum(-errors, 0)).mean(), errors[np.abs(errors).argmax()]],
                rtol=1e-5,
                atol=1e-9,
            )
        )

    return np.array([matches(row, tree) for row, tree in enumerate(trees)])


def test_iterative_tree_is_the_recursive_tree(recursive):
    case, trees = recursive
    assert matching_trees(ScriptedNUTS, case, trees).all()
    # The starts cover every way to end.
    incomplete = [len(tree.leaves) < 2**tree.depth - 1 for tree in trees]
    assert any(incomplete)
    assert not all(incomplete)
    assert len({tree.depth for tree in trees}) > 2


@pytest.mark.parametrize("mutant", [ChecksWholeSubtreesOnly, MeasuresLopsidedly])
def test_tree_comparison_rejects_mutants(recursive, mutant):
    assert not matching_trees(mutant, *recursive).all()


def test_steps_and_depth_are_bounded():
    """2^(depth - 1) <= n_steps <= 2^depth - 1, depth <= maximum, for trees that turn, diverge or are cut."""
    target = banana([1.0, 1.0, 0.5], [2.0, 1.0])
    kernel = NUTS(max_tree_depth=4)
    chains = 60
    state = kernel.init(
        Potential(target.potential, compile=False),
        target.draw(chains, 0),
        chain_streams(0, range(chains)),
        np.geomspace(0.01, 3.0, chains),
    )
    reports = []
    for _ in range(200):
        state, finished = kernel.advance(state)
        if finished is not None:
            reports.append(finished.info)
    info = {name: np.concatenate([report[name] for report in reports]) for name in kernel.stats}
    assert info["diverging"].any()
    assert info["reached_max_treedepth"].any()
    assert not (info["diverging"] | info["reached_max_treedepth"]).all()
    assert (info["n_steps"] <= 2 ** info["tree_depth"] - 1).all()
    assert (info["n_steps"] >= 2 ** (info["tree_depth"] - 1)).all()
    assert info["tree_depth"].max() == 4
    assert ((info["acceptance_rate"] >= 0) & (info["acceptance_rate"] <= 1)).all()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_tiny_steps_reach_the_maximum_depth(depth):
    target = independent_gaussian([1.0, 2.0])
    kernel = NUTS(depth)
    state = kernel.init(Potential(target.potential), target.draw(3, 0), chain_streams(0, range(3)), 1e-4)
    _, info = kernel.step(state)
    assert (info["n_steps"] == 2**depth - 1).all()
    assert (info["tree_depth"] == depth).all()
    assert info["reached_max_treedepth"].all()
    assert not info["diverging"].any()
