"""Which warm-up a kernel needs."""

from __future__ import annotations

from typing import Any

from hnbayes.kernels.adaptation import Adaptation
from hnbayes.kernels.chees import ChEES
from hnbayes.kernels.chees_adaptation import ChEESAdaptation
from hnbayes.kernels.kernel import Kernel, State
from hnbayes.kernels.microcanonical import Microcanonical
from hnbayes.kernels.microcanonical_adaptation import MicrocanonicalAdaptation


def adaptation_of(kernel: Kernel, state: State, warmup: int, target: float, **options: Any) -> Adaptation:
    """The adaptation that a kernel needs; see `Adaptation` for the arguments."""
    if isinstance(kernel, Microcanonical):
        return MicrocanonicalAdaptation(kernel, state, warmup, target, **options)
    if isinstance(kernel, ChEES):
        return ChEESAdaptation(kernel, state, warmup, target, **options)
    return Adaptation(state, warmup, target, **options)
