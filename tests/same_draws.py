"""Two runs gave the same draws, bit for bit, and adapted to the same."""

from __future__ import annotations

import numpy as np
import torch


def assert_identical(a, b):
    for name in ("positions", "step_size", "inverse_metric", "warmup_positions"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for mine, other in ((a.stats, b.stats), (a.warmup_stats, b.warmup_stats)):
        assert mine.keys() == other.keys()
        for name, values in mine.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)  # energies may be NaN
