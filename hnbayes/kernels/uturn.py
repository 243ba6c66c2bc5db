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


def is_turning(vectors: Vectors, first_v: Array, last_v: Array, rho: Array) -> Host:
    """Whether the velocity v = M^-1 p at either end points against the displacement: v . rho <= 0.

    Args:
        vectors: where vectors live.
        first_v: velocities at one end, (R, D).
        last_v: velocities at the other, (R, D).
        rho: trapezoidal sum of the momenta from end to end, (R, D).
    """
    return (vectors.rowdot(rho, last_v) <= 0) | (vectors.rowdot(rho, first_v) <= 0)


class OpenSubtrees:
    """The first leaves of the subtrees that are open within each chain's growing subtree.

    Args:
        max_depth: the most doublings of a tree.
    """

    def __init__(self, max_depth: int) -> None:
        self._slot, self._closed = subtree_tables(max_depth)

    def add(self, vectors: Vectors, leaves: Host, v: Array, T: Array, first_v: Array, first_sum: Array) -> Host:
        """Take the newest leaf of each chain: it opens a subtree, or closes one or more.

        Args:
            vectors: where vectors live.
            leaves: number of leaves of each chain's subtree, the newest included, (C,).
            v: the newest leaf's velocity M^-1 p, (C, D).
            T: the sum of the subtree's momenta with the newest counted half, (C, D).
            first_v: velocities of first leaves, (C, depth, D); changed.
            first_sum: T of first leaves, (C, depth, D); changed.

        Returns:
            Whether a subtree that the leaf closes makes a U-turn, (C,).
        """
        chains, dimension = v.shape
        if isinstance(vectors, HostVectors) and (chains <= FEW_CHAINS or dimension >= LONG_VECTOR):
            return self._add_one_by_one(leaves, v, T, first_v, first_sum)
        return self._add_at_once(vectors, leaves, v, T, first_v, first_sum)

    def _add_one_by_one(self, leaves: Host, v: Array, T: Array, first_v: Array, first_sum: Array) -> Host:
        turning = np.zeros(len(leaves), bool)
        for row, leaf in enumerate(leaves.tolist()):
            closed = self._closed[leaf - 1]
            if not closed:
                slot = self._slot[leaf - 1]
                first_v[row, slot], first_sum[row, slot] = v[row], T[row]
                continue
            last_v, last_sum = v[row], T[row]
            for slot in closed:
                rho = last_sum - first_sum[row, slot]
                if rho.dot(last_v) <= 0 or rho.dot(first_v[row, slot]) <= 0:
                    turning[row] = True
                    break
        return turning

    def _add_at_once(
        self, vectors: Vectors, leaves: Host, v: Array, T: Array, first_v: Array, first_sum: Array
    ) -> Host:
        turning = np.zeros(len(leaves), bool)
        opening, closing = self._pairs(leaves)
        if len(opening):
            ix, slot = vectors.index(opening[0]), vectors.index(opening[1])
            first_v[ix, slot], first_sum[ix, slot] = v[ix], T[ix]
        if len(closing):
            rows = closing[0]
            ix, slot = vectors.index(rows), vectors.index(closing[1])
            turns = is_turning(vectors, first_v[ix, slot], v[ix], T[ix] - first_sum[ix, slot])
            turning[rows[turns]] = True
        return turning

    def _pairs(self, leaves: Host) -> tuple[Host, Host]:
        """The pairs (chain, slot) of subtrees that the newest leaves open, and of those that they close, (2, pairs)."""
        opening, closing = [], []
        for row, leaf in enumerate(leaves.tolist()):
            closed = self._closed[leaf - 1]
            if closed:
                closing += [(row, slot) for slot in closed]
            else:
                opening.append((row, self._slot[leaf - 1]))
        return np.array(opening).T, np.array(closing).T


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
