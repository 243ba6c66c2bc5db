"""U-turns of the nested subtrees that a growing subtree is made of.

Leaf n of a subtree is the last of as many nested complete subtrees as n has trailing one-bits, and what is kept of
their first leaves is in the slots that the bits of n name (Phan et al. 2019; Lao and Dillon 2019). So O(log) leaves are
kept while a subtree grows.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hnbayes.kernels.arrays import Array, Host, HostVectors, Vectors

# On a CPU a chain's checks are done one by one where there are few chains, or where a vector is so long that gathering
# vectors of several chains costs more than it saves.
FEW_CHAINS = 16
LONG_VECTOR = 500


def is_turning(vectors: Vectors, displacement: Array, first_p: Array, last_p: Array) -> Host:
    """Whether the momentum at either end points against the displacement from the first to the last.

    Args:
        vectors: where vectors live.
        displacement: q_n - q_i in the order of time, (R, D).
        first_p: p_i, (R, D).
        last_p: p_n, (R, D).
    """
    last, first = vectors.rowdots(displacement, last_p, first_p)
    turning: Host = (last <= 0) | (first <= 0)
    return turning


class OpenSubtrees:
    """The first leaves of the subtrees that are open within each chain's growing subtree.

    Args:
        max_depth: the most doublings of a tree.
    """

    def __init__(self, max_depth: int) -> None:
        self._slot, self._closed = subtree_tables(max_depth)
        self._slots, self._counts = np.array(self._slot), np.array([len(slots) for slots in self._closed])

    def add(
        self, vectors: Vectors, leaves: Host, right: Host, q: Array, p: Array, first_q: Array, first_p: Array
    ) -> Host:
        """Take the newest leaf of each chain: it opens a subtree, or closes one or more.

        Args:
            vectors: where vectors live.
            leaves: number of leaves of each chain's subtree, the newest included, (C,).
            right: 1 where the subtree grows forwards in time, 0 where backwards, (C,).
            q: position of the newest leaf, (C, D).
            p: its momentum, (C, D).
            first_q: positions of first leaves, (C, depth, D); changed.
            first_p: their momenta, (C, depth, D); changed.

        Returns:
            Whether a subtree that the leaf closes makes a U-turn, (C,).
        """
        chains, dimension = q.shape
        if isinstance(vectors, HostVectors) and (chains <= FEW_CHAINS or dimension >= LONG_VECTOR):
            return self._add_one_by_one(leaves, right, q, p, first_q, first_p)
        return self._add_at_once(vectors, leaves, right, q, p, first_q, first_p)

    def _add_one_by_one(self, leaves: Host, right: Host, q: Array, p: Array, first_q: Array, first_p: Array) -> Host:
        turning = np.zeros(len(leaves), bool)
        for row, (leaf, forwards) in enumerate(zip(leaves.tolist(), right.tolist(), strict=True)):
            closed = self._closed[leaf - 1]
            if not closed:
                slot = self._slot[leaf - 1]
                first_q[row, slot], first_p[row, slot] = q[row], p[row]
                continue
            last_q, last_p = q[row], p[row]
            for slot in closed:
                displacement = last_q - first_q[row, slot] if forwards else first_q[row, slot] - last_q
                if displacement.dot(last_p) <= 0 or displacement.dot(first_p[row, slot]) <= 0:
                    turning[row] = True
                    break
        return turning

    def _add_at_once(
        self, vectors: Vectors, leaves: Host, right: Host, q: Array, p: Array, first_q: Array, first_p: Array
    ) -> Host:
        turning = np.zeros(len(leaves), bool)
        opening, closing = self._pairs(leaves)
        if opening.size:
            ix, slot = vectors.index(opening[0]), vectors.index(opening[1])
            first_q[ix, slot], first_p[ix, slot] = q[ix], p[ix]
        if closing.size:
            rows = closing[0]
            ix, slot = vectors.index(rows), vectors.index(closing[1])
            sign = vectors.from_host(np.where(right[rows], 1.0, -1.0)[:, None])
            displacement = sign * (q[ix] - first_q[ix, slot])
            turns = is_turning(vectors, displacement, first_p[ix, slot], p[ix])
            turning[rows[turns]] = True
        return turning

    def _pairs(self, leaves: Host) -> tuple[Host, Host]:
        """The pairs (chain, slot) of subtrees that the newest leaves open, and of those that they close, (2, pairs)."""
        slots, counts = self._slots[leaves - 1], self._counts[leaves - 1]
        opening = (counts == 0).nonzero()[0]
        # The subtrees that a leaf closes were opened in its own slot and those below.
        rows = np.repeat(np.arange(len(leaves)), counts)
        below = np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)
        return np.stack((opening, slots[opening])), np.stack((rows, slots[rows] - below))


@lru_cache
def subtree_tables(max_depth: int) -> tuple[list[int], list[list[int]]]:
    """For leaf n of a subtree: its slot, and the slots of the nested subtrees that it is the last leaf of.

    The slot is the number of one-bits of n // 2: leaf n, if even, opens the subtrees in this slot. The number of
    trailing one-bits of n counts the subtrees that n, if odd, closes; they were opened in this slot and those below.
    """
    # The last doubling adds 2^(max_depth - 1) leaves.
    leaves = range(1 << (max_depth - 1))
    slots = [(n >> 1).bit_count() for n in leaves]
    closed = [[slots[n] - k for k in range((n ^ (n + 1)).bit_length() - 1)] for n in leaves]
    return slots, closed
