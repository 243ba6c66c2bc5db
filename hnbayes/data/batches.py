"""BatchOrder: an endless sequence of passes through n samples, taken in batches."""

from __future__ import annotations

import numpy as np


class BatchOrder:
    """The order in which samples come.

    Args:
        random: the source of the order.
        shuffle: whether each pass has a random order.
    """

    def __init__(self, random: np.random.Generator, shuffle: bool = True) -> None:
        self._random = random
        self.shuffle = shuffle
        self._pending = np.empty(0, dtype=np.int64)

    def reset(self) -> None:
        """Begin a new pass."""
        self._pending = self._pending[:0]

    def separate(self) -> BatchOrder:
        """An order of its own, beginning with a new pass, from the same source."""
        return BatchOrder(self._random, self.shuffle)

    def take(self, count: int, n: int) -> np.ndarray:
        """The next `count` of the indices 0..n-1."""
        parts = [self._pending]
        have = len(self._pending)
        while have < count:
            parts.append(self._random.permutation(n) if self.shuffle else np.arange(n))
            have += n
        pending = np.concatenate(parts)
        self._pending = pending[count:]
        return pending[:count]
