"""Weights stored by existing code: all of a network's tensors once more, as one numbered list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from hnbayes.mnets.bookkeeping import Entry

LISTS = ("_internal_params.", "_weights.", "_layer_weight_tensors.", "_layer_bias_vectors.")
# Networks inside, whose tensors are in the list as well.
INNER = ("_hnet.", "_reducer.", "_network.")


def take_up(net: nn.Module, entries: Sequence[Entry], state_dict: dict[str, Any], prefix: str) -> None:
    """Rename the tensors of a stored list to this package's names, and drop what is stored twice.

    Args:
        net: the network that loads them.
        entries: its own tensors, in the order of the list.
        state_dict: changed in place; left alone if it holds no such list.
        prefix: what the network's names begin with.
    """
    if f"{prefix}_internal_params.0" not in state_dict:
        return
    names = {module: name for name, module in net.named_modules()}
    stored = [state_dict.get(f"{prefix}_internal_params.{i}") for i in range(len(entries))]
    for key in [key for key in state_dict if key.startswith(tuple(prefix + name for name in LISTS + INNER))]:
        del state_dict[key]
    for entry, tensor in zip(entries, stored, strict=True):
        if tensor is not None:
            where = names[entry.owner]
            state_dict[f"{prefix}{where}{'.' if where else ''}{entry.attribute}"] = tensor
