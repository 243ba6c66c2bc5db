"""A model as plain data beside its draws, and a model made again from that and the network."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor, nn

from hnbayes.params import ParamSpec
from hnbayes.posterior.model import Model
from hnbayes.posterior.record import decode, encode
from hnbayes.potentials.networks import NetworkFunction

Place = str | os.PathLike[str]


def model_to_record(model: Model) -> dict[str, Any]:
    """Shapes of network and positions, likelihood and prior, as what JSON takes; None for what it can't hold."""
    return {
        "network": _shapes(model.function.spec),
        "positions": _shapes(model.spec),
        "likelihood": _encoded(model.likelihood),
        "prior": _encoded(model.prior),
    }


def model_from_record(
    record: dict[str, Any], place: Place, net: nn.Module, X: Tensor, likelihood: Any = None, prior: Any = None
) -> Model:
    """The model that a record stands for.

    Args:
        record: what `model_to_record` gave.
        place: the file that holds it, for messages.
        net: the network, whose weights don't matter.
        X: inputs, on which the network is tried.
        likelihood: for one that no file can hold.
        prior: likewise.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if the network is another, or likelihood or prior are needed, or are others.
    """
    _check_network(place, net, record["network"])
    likelihood = _part(place, "likelihood", record, likelihood)
    model = Model(net, likelihood, _part(place, "prior", record, prior), X)
    if ParamSpec(*_pairs(record["positions"])) != model.spec:
        raise ValueError(
            f"{place} was sampled with another likelihood or prior: its positions are made of "
            f"{', '.join(name for name, _ in record['positions'])}, those of the model given of "
            f"{', '.join(model.spec.names)}. Give the same likelihood and prior."
        )
    return model


def _encoded(part: Any) -> Any:
    try:
        return encode(part)
    except TypeError:
        return None  # whoever reads it is asked for it


def _shapes(spec: ParamSpec) -> list[tuple[str, tuple[int, ...]]]:
    return list(zip(spec.names, spec.shapes, strict=True))


def _pairs(shapes: list[Any]) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    return tuple(name for name, _ in shapes), tuple(tuple(shape) for _, shape in shapes)


def _check_network(place: Place, net: nn.Module, network: list[Any]) -> None:
    spec, stored = NetworkFunction(net).spec, ParamSpec(*_pairs(network))
    if spec == stored:
        return
    ours, theirs = dict(_shapes(spec)), dict(_shapes(stored))
    differing = [name for name in {**theirs, **ours} if ours.get(name) != theirs.get(name)]
    told = "; ".join(
        f"{name!r} is {theirs.get(name, 'not there')} in the file, {ours.get(name, 'not there')} in the network"
        for name in differing[:4]
    )
    raise ValueError(f"{place} holds the posterior of another network: {told or 'its parameters have another order'}.")


def _part(place: Place, name: str, record: dict[str, Any], given: Any) -> Any:
    if given is not None:
        return given
    if record[name] is None:
        raise ValueError(
            f"{place} was sampled with a {name} that files can't hold. Pass {name}=... as to hnbayes.sample."
        )
    return decode(record[name])
