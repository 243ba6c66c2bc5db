"""Snapshot: a run between two evaluations as plain arrays and text, and back.

Chains are desynchronised, so most are in the middle of a transition. All that a transition on its way consists of is
stored with the rest: the run goes on bit for bit, in the same batch.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnbayes.kernels.adaptation import Adaptation
from hnbayes.kernels.arrays import Host
from hnbayes.kernels.kernel import Kernel, State
from hnbayes.rng import Stream
from hnbayes.sampling.loop import Progress

Arrays = dict[str, Host]
# The arrays of a State; its metric, streams and path are stored apart.
FIELDS = ("position", "energy", "gradient", "step_size", "fresh", "length")


def take(progress: Progress, adaptation: Adaptation | None) -> tuple[Arrays, dict[str, Any]]:
    """All that a run needs to go on: arrays, and what JSON takes."""
    state, final = progress.state, progress.final
    arrays: Arrays = {"chains": progress.chains, "done": progress.done}
    for name, part in (("batch", state), ("final", final)):
        arrays |= {f"{name}.{field}": _host(part, getattr(part, field)) for field in FIELDS}
        arrays[f"{name}.metric"] = part.metric.host_inverse()
    on_device = []
    if state.path is not None:
        for entry in dataclasses.fields(state.path):
            value = getattr(state.path, entry.name)
            arrays[f"path.{entry.name}"] = _host(state, value)
            if isinstance(value, Tensor):
                on_device.append(entry.name)
    if adaptation is not None:
        arrays |= {f"adaptation.{name}": values for name, values in adaptation.arrays().items()}
    streams = [
        None if stream is final.streams[chain] else _of_stream(stream)
        for stream, chain in zip(state.streams, progress.chains.tolist(), strict=True)
    ]
    return arrays, {
        "final_streams": [_of_stream(stream) for stream in final.streams],
        "batch_streams": streams,
        "on_device": on_device,
        "dropped": list(progress.dropped.items()),
    }


def adapted(arrays: Arrays) -> tuple[Host, Host]:
    """Step sizes (C,) and inverse mass matrices (C or 1, ...) of all chains at the moment of a snapshot."""
    step_size, inverse = arrays["final.step_size"].copy(), arrays["final.metric"].copy()
    step_size[arrays["chains"]] = arrays["batch.step_size"]
    if len(inverse) == len(step_size):
        inverse[arrays["chains"]] = arrays["batch.metric"]
    return step_size, inverse


def put_back(
    arrays: Arrays, record: dict[str, Any], kernel: Kernel, progress: Progress, adaptation: Adaptation | None
) -> None:
    """Bring a run that has just begun to the moment of a snapshot.

    Args:
        arrays: of `take`.
        record: of `take`.
        kernel: the run's kernel.
        progress: of the same chains at the same starts; changed.
        adaptation: changed.

    Raises:
        KeyError, ValueError: if the snapshot isn't of such a run.
    """
    final = progress.final
    _fill(final, "final", arrays)
    for stream, stored in zip(final.streams, record["final_streams"], strict=True):
        stream.bit_generator.state = stored
    progress.done[:] = arrays["done"]
    progress.dropped = {int(chain): str(reason) for chain, reason in record["dropped"]}
    chains = arrays["chains"]
    if len(chains) < final.chains:
        progress.chains = chains
        progress.state = progress.state.select(chains)
        if len(chains) and kernel.uses_gradient:
            progress.state.potential.prepare(progress.starts[chains])
    state = progress.state
    _fill(state, "batch", arrays)
    state.streams = [
        final.streams[chain] if stored is None else _stream(stored)
        for chain, stored in zip(chains.tolist(), record["batch_streams"], strict=True)
    ]
    names = [name for name in arrays if name.startswith("path.")]
    if names and kernel.path_type is not None:
        fields = {name.removeprefix("path."): arrays[name] for name in names}
        for name in record["on_device"]:
            fields[name] = state.vectors.array(torch.from_numpy(fields[name]).to(final.positions_tensor().device))
        state.path = kernel.path_type(**fields)
    if adaptation is not None:
        prefix = "adaptation."
        adaptation.restore({k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)})


def _fill(state: State, name: str, arrays: Arrays) -> None:
    """Set the arrays of a state."""
    for field in FIELDS:
        if field == "length" and f"{name}.{field}" not in arrays:
            continue  # written before there were kernels that have one
        values = arrays[f"{name}.{field}"]
        present = getattr(state, field)
        if tuple(values.shape) != tuple(present.shape):
            raise ValueError(f"{name}.{field} has shape {values.shape}, not {tuple(present.shape)}.")
        present[:] = state.vectors.from_host(values) if isinstance(present, Tensor) else values
    inverse = arrays[f"{name}.metric"]
    state.metric = type(state.metric)(state.metric.vectors, inverse)


def _host(state: State, values: Any) -> Host:
    return state.vectors.to_host(values) if isinstance(values, Tensor) else values


def _of_stream(stream: Stream) -> dict[str, Any]:
    state: Any = stream.bit_generator.state
    return dict(state)


def _stream(stored: Any) -> Stream:
    generator = np.random.PCG64()
    generator.state = stored
    return np.random.Generator(generator)
