"""What the sampler's own statistics say: how freely the energy is explored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOW_BFMI = 0.3  # Betancourt (2016)
SATURATED_SHARE = 0.01


def bfmi(energy: NDArray[Any]) -> NDArray[Any]:
    r"""E-BFMI of each chain (Betancourt 2016, eq. 4): \(\sum_n (E_n - E_{n-1})^2 / \sum_n (E_n - \bar E)^2\).

    Args:
        energy: Hamiltonians of the draws, (C, S).

    Returns:
        (C,); below 0.3 the momenta's refreshment moves the energy too little. NaN for a constant energy.

    Example:
        >>> energy = np.random.default_rng(0).normal(size=(2, 500))
        >>> energy[1] = energy[1].cumsum()
        >>> hnbayes.diagnostics.bfmi(energy) > 0.3
        array([ True, False])
    """
    spread = np.square(energy - energy.mean(1, keepdims=True)).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.square(np.diff(energy, axis=1)).sum(1) / spread
