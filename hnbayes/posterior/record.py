"""Likelihoods and priors as plain data, so that a file can hold them, and back."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from hnbayes import likelihoods, priors
from hnbayes.likelihoods import Likelihood
from hnbayes.likelihoods.quantity import Quantity
from hnbayes.priors import Prior

ROOMS: dict[str, Any] = {"likelihoods": likelihoods, "priors": priors, "distributions": torch.distributions}


def encode(value: Any) -> Any:
    """A likelihood, a prior or what they are made of, as what JSON takes.

    Raises:
        TypeError: if it is, or holds, something that is known in this process only, such as a function.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Quantity):
        return encode(value.argument)
    if isinstance(value, Tensor):
        return {"tensor": value.detach().cpu().tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {"mapping": [[key, encode(item)] for key, item in value.items()]}
    if isinstance(value, Independent):
        parts = {"base_distribution": value.base_dist, "reinterpreted_batch_ndims": value.reinterpreted_batch_ndims}
        return _made_of("distributions", value, parts)
    if isinstance(value, Distribution):
        constraints: Any = value.arg_constraints
        names = [name for name in _parameters(type(value)) if name in constraints]
        return _made_of("distributions", value, {name: getattr(value, name) for name in names})
    if isinstance(value, (Likelihood, Prior)):
        room = "likelihoods" if isinstance(value, Likelihood) else "priors"
        return _made_of(room, value, {name: getattr(value, name) for name in _parameters(type(value))})
    raise TypeError(f"a {type(value).__name__} can't be written to a file")


def decode(record: Any, made: dict[str, Any] | None = None) -> Any:
    """The reverse of `encode`; equal records become one object, as priors that share their scales need."""
    if not isinstance(record, dict):
        return record
    made = {} if made is None else made
    key = json.dumps(record, sort_keys=True)
    if key not in made:
        if "tensor" in record:
            made[key] = torch.tensor(record["tensor"], dtype=_dtype(record["dtype"]))
        elif "mapping" in record:
            made[key] = {name: decode(item, made) for name, item in record["mapping"]}
        else:
            arguments = {name: decode(item, made) for name, item in record["arguments"].items()}
            made[key] = _class(record["room"], record["class"])(**arguments)
    return made[key]


def _class(room: str, name: str) -> Any:
    """A class that a file may name: a likelihood, a prior or a distribution, and nothing else that is in reach.

    Raises:
        ValueError: if it is none.
    """
    found = getattr(ROOMS.get(room), name, None)
    if not (isinstance(found, type) and issubclass(found, (Likelihood, Prior, Distribution))):
        raise ValueError(f"a file may hold likelihoods, priors and distributions; received {room}.{name}.")
    return found


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"a tensor in a file must have a dtype of torch; received {name}.")
    return found


def _made_of(room: str, value: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Class and arguments of an object, if it can be made from them again."""
    cls = type(value)
    if getattr(ROOMS[room], cls.__name__, None) is not cls:
        raise TypeError(f"a {cls.__name__}, of a class of one's own, can't be written to a file")
    needed = [name for name, p in _parameters(cls).items() if p.default is p.empty]
    if missing := [name for name in needed if name not in arguments]:
        raise TypeError(f"a {cls.__name__} can't be written to a file: its {missing[0]} isn't known")
    return {"room": room, "class": cls.__name__, "arguments": {name: encode(item) for name, item in arguments.items()}}


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(cls).parameters)
    return {name: p for name, p in parameters.items() if name != "validate_args" and p.kind is not p.VAR_KEYWORD}
