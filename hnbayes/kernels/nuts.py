"""The No-U-Turn sampler, multinomial and iterative, for desynchronised chains.

Trees are built one leaf at a time: each `advance` is one leapfrog step of every chain, whatever the stage of each
chain's tree (Phan et al. 2019; Lao and Dillon 2019); `uturn.py` has the checks of the subtrees within.

A trajectory from (q_i, p_i) to (q_n, p_n) has turned where going on from an end would bring the ends closer:
(q_n - q_i) . p <= 0 at either (Hoffman and Gelman 2014, equation 9). The generalised criterion (Betancourt 2017,
appendix A.4.2) puts the sum of the momenta in place of M (q_n - q_i) / step, which a Euclidean metric doesn't need, and
which misses U-turns of short trajectories, where the ends weigh as much as their middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hnbayes._checks import check_count, check_positive
from hnbayes.kernels.arrays import Array, Host
from hnbayes.kernels.growth import Growth, point_of
from hnbayes.kernels.hmc import DIVERGENCE_THRESHOLD
from hnbayes.kernels.kernel import (
    Finished,
    Kernel,
    State,
    column,
    draw_normal,
    draw_uniform,
    integrate,
    kinetic,
)
from hnbayes.kernels.metropolis import log_uniform
from hnbayes.kernels.uturn import OpenSubtrees, is_turning

MAX_TREE_DEPTH_LIMIT = 20

# The fields of a Tree by kind: a vector, two, one for each depth, a number, or a count a chain.
VECTORS = (
    *("q", "p", "gradient"),
    *("proposal_q", "proposal_gradient", "candidate_q", "candidate_gradient"),
)
ENDS = ("end_q", "end_p", "end_gradient")
FIRSTS = ("first_q", "first_p")
NUMBERS = (
    *("proposal_energy", "proposal_hamiltonian", "candidate_energy", "candidate_hamiltonian"),
    *("start", "log_weight", "subtree_log_weight", "accept_sum", "lowest", "highest"),
)
COUNTS = ("right", "depth", "leaf", "size", "n_steps")


@dataclass
class Tree:
    """The trees on their way; each array has the chain first.

    A tree is what is complete; a subtree of as many leaves grows at one of its ends.

    Attributes:
        q, p, gradient: the current leaf, (C, D).
        step: signed step size of the subtree, (C, 1).
        end_q, end_p, end_gradient: the tree's left (0) and right (1) end, (C, 2, D).
        first_q, first_p: the first leaves of open subtrees within the subtree, (C, depth, D).
        proposal_q, proposal_gradient: the state chosen from the tree, (C, D).
        candidate_q, candidate_gradient: the state chosen from the subtree, (C, D).
        proposal_energy, proposal_hamiltonian: U and H of the tree's choice, (C,).
        candidate_energy, candidate_hamiltonian: the same of the subtree's.
        exponentials: a standard exponential number for each leaf of the subtree, (C, at least its size).
        start: H at the start, (C,).
        log_weight, subtree_log_weight: log of the sum of exp(start - H) over tree and subtree, (C,).
        right: 1 where the subtree grows at the right end, (C,).
        depth: completed doublings, (C,).
        leaf: leaves of the subtree so far, (C,).
        size: leaves of the subtree when it is complete, (C,).
        n_steps: leapfrog steps of the tree, without the subtree's, (C,).
        accept_sum: sum of min(1, exp(start - H)) over all leaves, (C,).
        lowest, highest: the extremes of start - H over the tree, (C,).
        saturated: whether the tree has all the doublings that are allowed and no U-turn, (C,).
    """

    q: Array
    p: Array
    gradient: Array
    step: Array
    end_q: Array
    end_p: Array
    end_gradient: Array
    first_q: Array
    first_p: Array
    proposal_q: Array
    proposal_gradient: Array
    candidate_q: Array
    candidate_gradient: Array
    proposal_energy: Host
    proposal_hamiltonian: Host
    candidate_energy: Host
    candidate_hamiltonian: Host
    exponentials: Host
    start: Host
    log_weight: Host
    subtree_log_weight: Host
    right: Host
    depth: Host
    leaf: Host
    size: Host
    n_steps: Host
    accept_sum: Host
    lowest: Host
    highest: Host
    saturated: Host

    @classmethod
    def empty(cls, state: State, max_depth: int) -> Tree:
        """Room for the trees of all chains."""
        C, D = state.position.shape
        zeros = state.vectors.zeros
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(VECTORS, (C, D))
        shapes |= dict.fromkeys(ENDS, (C, 2, D)) | dict.fromkeys(FIRSTS, (C, max_depth, D)) | {"step": (C, 1)}
        numbers = {name: np.zeros(C) for name in NUMBERS}
        counts = {name: np.zeros(C, np.int64) for name in COUNTS}
        vectors = {name: zeros(*shape) for name, shape in shapes.items()}
        return cls(**vectors, **numbers, **counts, exponentials=np.zeros((C, 1)), saturated=np.zeros(C, bool))


class NUTS(Kernel):
    """Multinomial NUTS (Hoffman and Gelman 2014; Betancourt 2017) with biased progressive sampling.

    Args:
        max_tree_depth: the most doublings; a transition takes at most 2^max_tree_depth - 1 steps.
        delta_max: energy error above which a transition stops and is reported as divergent.

    Example:
        >>> draws = hnbayes.sample_potential(
        ...     lambda q: 0.5 * (q**2).sum(),
        ...     torch.zeros(2, 3),
        ...     kernel=hnbayes.kernels.NUTS(max_tree_depth=4),
        ...     warmup=20,
        ...     draws=20,
        ...     seed=0,
        ...     progress=False,
        ... )
        >>> int(draws.stats["n_steps"].max()) <= 15
        True
    """

    stats: ClassVar[dict[str, Any]] = {
        "lp": np.float64,
        "acceptance_rate": np.float64,
        "step_size": np.float64,
        "tree_depth": np.int64,
        "n_steps": np.int64,
        "diverging": np.bool_,
        "energy": np.float64,
        "energy_error": np.float64,
        "max_energy_error": np.float64,
        "reached_max_treedepth": np.bool_,
    }
    path_type = Tree

    def __init__(self, max_tree_depth: int = 10, delta_max: float = DIVERGENCE_THRESHOLD) -> None:
        self.max_tree_depth = check_count("max_tree_depth", max_tree_depth)
        if max_tree_depth > MAX_TREE_DEPTH_LIMIT:
            raise ValueError(
                f"max_tree_depth must be at most {MAX_TREE_DEPTH_LIMIT}; received {max_tree_depth}, "
                f"which allows 2^{max_tree_depth} leapfrog steps for a draw."
            )
        self.delta_max = check_positive("delta_max", delta_max)
        self._open = OpenSubtrees(max_tree_depth)
        self._growth: Growth | None = None

    def advance(self, state: State) -> tuple[State, Finished | None]:
        """One leapfrog step, so one leaf, of every chain's tree; or more, where U is compiled."""
        with np.errstate(all="ignore"):
            if np.count_nonzero(state.fresh):
                self._begin(state, state.fresh.nonzero()[0])
            tree: Tree = state.path
            turning, diverging = self._grow(state)
            ended = turning | diverging
            complete = ((tree.leaf == tree.size) > ended).nonzero()[0]
            # An abandoned subtree counts as a doubling that was begun.
            tree.depth += ended
            if len(complete):
                ended[complete] = self._merge(state, complete)
            if not np.count_nonzero(ended):
                return state, None
            return state, self._finish(state, ended.nonzero()[0], turning, diverging)

    def _grow(self, state: State) -> tuple[Host, Host]:
        """Add a leaf or more to each subtree. Returns U-turns within subtrees, and divergences, (C,) each."""
        point = point_of(state)
        if point is not None and all(getattr(type(self), name) is method for name, method in LEAVES.items()):
            if self._growth is None or not self._growth.fits(state, point):
                self._growth = Growth(state, point, self.delta_max)
            return self._growth.grow(state)
        energy = integrate(state, state.path, state.path.step)
        diverging = self._add_leaf(state, energy)
        return self._check_subtrees(state), diverging

    def __getstate__(self) -> dict[str, Any]:
        """What addresses memory of this process stays here."""
        return self.__dict__ | {"_growth": None}

    # The random decisions are methods of their own, so that a test can enumerate their outcomes.

    def _choose_leaf(self, state: State, log_probability: Host) -> Host:
        """Say yes to the newest leaf with the given probability, for each chain."""
        tree: Tree = state.path
        return -tree.exponentials[state.rows, tree.leaf] <= log_probability

    def _choose_subtree(self, state: State, rows: Host, log_probability: Host) -> Host:
        """Say yes to a complete subtree with the given probability (above 1 is 1), for each row."""
        return log_uniform(state, rows) <= log_probability

    def _direction(self, state: State, rows: Host) -> Host:
        """1 (right) or 0 (left) with equal probability, for each row."""
        return (draw_uniform(state, rows) < 0.5).astype(np.int64)

    def _begin(self, state: State, rows: Host) -> None:
        """Draw momenta; each tree is its first leaf."""
        if state.path is None:
            state.path = Tree.empty(state, self.max_tree_depth)
        tree: Tree = state.path
        ix = state.vectors.index(rows)
        q, gradient = state.position[ix], state.gradient[ix]
        p = state.metric.momentum(draw_normal(state, rows), ix)
        tree.end_q[ix], tree.end_p[ix], tree.end_gradient[ix] = q[:, None], p[:, None], gradient[:, None]
        tree.proposal_q[ix], tree.proposal_gradient[ix] = q, gradient
        start = state.energy[rows] + kinetic(state, p, rows)
        tree.start[rows] = tree.proposal_hamiltonian[rows] = start
        tree.proposal_energy[rows] = state.energy[rows]
        for values in (tree.log_weight, tree.depth, tree.n_steps, tree.accept_sum, tree.lowest, tree.highest):
            values[rows] = 0
        self._begin_subtree(state, rows)
        state.fresh[rows] = False

    def _begin_subtree(self, state: State, rows: Host) -> None:
        """Choose an end of each tree at random and go on from there."""
        tree: Tree = state.path
        right = self._direction(state, rows)
        ix, side = state.vectors.index(rows), state.vectors.index(right)
        tree.q[ix], tree.p[ix] = tree.end_q[ix, side], tree.end_p[ix, side]
        tree.gradient[ix] = tree.end_gradient[ix, side]
        tree.step[ix] = column(state, np.where(right, 1.0, -1.0) * state.step_size[rows])
        tree.right[rows] = right
        tree.subtree_log_weight[rows] = -np.inf
        tree.leaf[rows] = 0
        tree.size[rows] = 1 << tree.depth[rows]
        self._draw_exponentials(state, rows)

    def _draw_exponentials(self, state: State, rows: Host) -> None:
        """The random numbers of new subtrees, drawn at once: one by one they cost more than the rest of a leaf."""
        tree: Tree = state.path
        sizes = tree.size[rows].tolist()
        room = tree.exponentials.shape[1]
        if max(sizes) > room:
            tree.exponentials = np.pad(tree.exponentials, ((0, 0), (0, max(sizes) - room)))
        for row, size in zip(rows.tolist(), sizes, strict=True):
            if size == 1:
                continue  # a subtree's first leaf is always chosen
            tree.exponentials[row, :size] = state.streams[row].standard_exponential(size)

    def _add_leaf(self, state: State, energy: Host) -> Host:
        """Weigh the new leaf and choose it with probability weight / subtree's weight. Returns divergences (C,)."""
        tree: Tree = state.path
        H = energy + kinetic(state, tree.p)
        # fmax passes NaN over, so it counts as an infinite error.
        log_weight = np.fmax(tree.start - H, -np.inf)
        tree.accept_sum += np.exp(np.minimum(log_weight, 0.0))
        np.minimum(tree.lowest, log_weight, out=tree.lowest)
        np.maximum(tree.highest, log_weight, out=tree.highest)
        tree.subtree_log_weight = np.logaddexp(tree.subtree_log_weight, log_weight)
        chosen = self._choose_leaf(state, log_weight - tree.subtree_log_weight)
        tree.leaf += 1
        taken = chosen.nonzero()[0]
        if len(taken):
            state.vectors.copy_rows(tree.q, tree.candidate_q, taken)
            state.vectors.copy_rows(tree.gradient, tree.candidate_gradient, taken)
            np.copyto(tree.candidate_energy, energy, where=chosen)
            np.copyto(tree.candidate_hamiltonian, H, where=chosen)
        return log_weight < -self.delta_max

    def _check_subtrees(self, state: State) -> Host:
        """Whether a subtree that the new leaf completes makes a U-turn, (C,)."""
        tree: Tree = state.path
        return self._open.add(state.vectors, tree.leaf, tree.right, tree.q, tree.p, tree.first_q, tree.first_p)

    def _merge(self, state: State, rows: Host) -> Host:
        """Join complete subtrees to their trees. Returns which of the rows end their transition, (R,)."""
        tree: Tree = state.path
        # Biased progressive sampling: prefer the new subtree, as far from the start as possible.
        chosen = rows[self._choose_subtree(state, rows, tree.subtree_log_weight[rows] - tree.log_weight[rows])]
        cx = state.vectors.index(chosen)
        tree.proposal_q[cx], tree.proposal_gradient[cx] = tree.candidate_q[cx], tree.candidate_gradient[cx]
        tree.proposal_energy[chosen] = tree.candidate_energy[chosen]
        tree.proposal_hamiltonian[chosen] = tree.candidate_hamiltonian[chosen]

        ix, side = state.vectors.index(rows), state.vectors.index(tree.right[rows])
        tree.log_weight[rows] = np.logaddexp(tree.log_weight[rows], tree.subtree_log_weight[rows])
        tree.end_q[ix, side], tree.end_p[ix, side] = tree.q[ix], tree.p[ix]
        tree.end_gradient[ix, side] = tree.gradient[ix]
        tree.depth[rows] += 1
        tree.n_steps[rows] += tree.leaf[rows]
        tree.leaf[rows] = 0

        displacement = tree.end_q[ix, 1] - tree.end_q[ix, 0]
        turning = is_turning(state.vectors, displacement, tree.end_p[ix, 0], tree.end_p[ix, 1])
        tree.saturated[rows] = ~turning & (tree.depth[rows] >= self.max_tree_depth)
        ended = turning | tree.saturated[rows]
        going_on = rows[~ended]
        if len(going_on):
            self._begin_subtree(state, going_on)
        return ended

    def _finish(self, state: State, rows: Host, turning: Host, diverging: Host) -> Finished:
        """Move chains to what was chosen from their trees."""
        tree: Tree = state.path
        n_steps = tree.n_steps[rows] + tree.leaf[rows]
        lowest, highest = tree.lowest[rows], tree.highest[rows]
        ix = state.vectors.index(rows)
        state.position[ix], state.gradient[ix] = tree.proposal_q[ix], tree.proposal_gradient[ix]
        state.energy[rows] = tree.proposal_energy[rows]
        state.fresh[rows] = True
        info = {
            "lp": -state.energy[rows],
            "acceptance_rate": tree.accept_sum[rows] / n_steps,
            "step_size": state.step_size[rows],
            "tree_depth": tree.depth[rows],
            "n_steps": n_steps,
            "diverging": diverging[rows],
            "energy": tree.proposal_hamiltonian[rows],
            "energy_error": tree.proposal_hamiltonian[rows] - tree.start[rows],
            "max_energy_error": -np.where(-lowest > highest, lowest, highest),
            "reached_max_treedepth": tree.saturated[rows] & ~(turning | diverging)[rows],
        }
        return Finished(rows, info)


# What compiled C does in place of these methods; where a subclass has others, it isn't used.
LEAVES = {name: getattr(NUTS, name) for name in ("_choose_leaf", "_add_leaf", "_check_subtrees")}
