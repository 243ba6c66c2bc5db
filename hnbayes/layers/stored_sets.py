"""StoredSets: numbered sets of tensors in a layer's state_dict, taken up when a state_dict is loaded."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_count


def drop_leftovers(state_dict: dict[str, Any], prefix: str) -> None:
    """Remove what earlier implementations stored besides: counts, and each weight a second time under `_weights`."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if name in ("_num_stats", "_num_ckpts") or name.startswith("_weights."):
            del state_dict[key]


class StoredSets(nn.Module):
    """A layer that keeps sets of tensors numbered from 0, such as one set of statistics a task.

    Loading a state_dict leaves as many sets as it holds, however many the layer had.

    Attributes:
        set_names: the names of a set's tensors; tensor `name` of set i is the buffer or parameter `name_i`.
    """

    set_names: tuple[str, ...] = ()

    def _num_sets(self) -> int:
        return next(i for i in itertools.count() if not any(hasattr(self, f"{name}_{i}") for name in self.set_names))

    def _append_set(self, tensors: dict[str, Tensor], *, learnable: bool = False) -> None:
        at = self._num_sets()
        for name, tensor in tensors.items():
            if learnable and tensor.is_floating_point():
                self.register_parameter(f"{name}_{at}", nn.Parameter(tensor))
            else:
                self.register_buffer(f"{name}_{at}", tensor)

    def _set(self, at: int) -> dict[str, Tensor]:
        return {name: getattr(self, f"{name}_{at}") for name in self.set_names if hasattr(self, f"{name}_{at}")}

    def _check_set(self, name: str, at: Any, count: int) -> int:
        at = check_count(name, at, 0)
        if at >= count:
            raise ValueError(f"{name} must lie in 0..{count - 1}, as there are {count}; received {at}.")
        return at

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        drop_leftovers(state_dict, prefix)
        own = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
        count = next(i for i in itertools.count() if not any(f"{name}_{i}" in own for name in self.set_names))
        first = {name: state_dict[f"{prefix}{name}_0"] for name in self.set_names if f"{name}_0" in own}
        if own:
            self._resize(count, first)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _resize(self, count: int, like: dict[str, Tensor]) -> None:
        for at in reversed(range(count, self._num_sets())):
            for name in self.set_names:
                self._buffers.pop(f"{name}_{at}", None)
                self._parameters.pop(f"{name}_{at}", None)
        if self._num_sets() < count:
            device = next(itertools.chain(self.parameters(), self.buffers()), torch.empty(0)).device
            learnable = any(f"{name}_0" in self._parameters for name in self.set_names)
            while self._num_sets() < count:
                fresh = {name: torch.empty_like(tensor, device=device) for name, tensor in like.items()}
                self._append_set(fresh, learnable=learnable)
