"""resume: a posterior whose run was stopped, from its folder to its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hnbayes._checks import describe
from hnbayes.posterior.model import Model
from hnbayes.posterior.model_record import model_from_record, model_to_record
from hnbayes.posterior.output_layer import WhitenedOutput
from hnbayes.posterior.posterior import Posterior
from hnbayes.potentials.base import Potential
from hnbayes.sampling import Draws, resume_potential
from hnbayes.sampling.array_file import read_arrays, write_arrays
from hnbayes.sampling.callbacks import Callback
from hnbayes.sampling.cores import Spreader
from hnbayes.sampling.run_folder import folder_of

MODEL = "run.model"


def write_model(folder: Path, model: Model, X: Tensor, y: Tensor, output_layer: str) -> None:
    """Write data and model to a run's folder, so that the network is all that is needed to go on."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: values.detach().cpu().numpy() for name, values in (("X", X), ("y", y))}
    write_arrays(folder / MODEL, arrays, {**model_to_record(model), "output_layer": output_layer})


def resume(
    folder: str | os.PathLike[str],
    model: nn.Module | Potential | Callable[[Tensor], Tensor],
    X: Any = None,
    y: Any = None,
    *,
    likelihood: Any = None,
    prior: Any = None,
    draws: int | None = None,
    checkpoint_every: float = 60.0,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    cores: int | Literal["auto"] | Spreader | None = None,
) -> Posterior | Draws:
    """Go on with a run that `sample` or `sample_potential` wrote checkpoints of, bit for bit.

    Args:
        folder: given to it as `checkpoint`.
        model: the network that was sampled (its weights don't matter), or the potential.
        X: the inputs of the run, if they are to be compared; the folder holds them.
        y: the data of the run, likewise.
        likelihood: needed only if it was a function, or an object of a class of one's own, which files can't hold.
        prior: likewise, or a `DiagGaussian`.
        draws: transitions after warm-up a chain in all; more than the run was asked for are added to it.
        checkpoint_every: seconds between checkpoints.
        progress: show a progress bar.
        callbacks: functions of an `Event`.
        cores: for a run that was begun with `cores`: how many processes take it on; None is as many as then. The draws
            don't depend on it.

    Returns:
        A `Posterior` of a network, `Draws` of a potential: those before the stop and those after.

    Raises:
        TypeError, ValueError: if an argument is none of the above, there is no run or no undamaged checkpoint, or model
            or data aren't those of the run.
        OSError: if the folder can't be written to.

    Example:
        >>> X = torch.linspace(-1, 1, 20)[:, None]
        >>> net = torch.nn.Linear(1, 1)
        >>> options = {"chains": 2, "warmup": 10, "map_steps": 10, "seed": 0, "progress": False}
        >>> post = hnbayes.sample(net, X, X, draws=10, checkpoint="run", **options)
        >>> more = hnbayes.resume("run", net, draws=15, progress=False)  # five draws more
        >>> torch.equal(more.draws.positions[:, :10], post.draws.positions), more.draws.num_draws
        (True, 15)
    """
    given = {"X": X, "y": y, "likelihood": likelihood, "prior": prior}
    options: dict[str, Any] = {"draws": draws, "checkpoint_every": checkpoint_every, "progress": progress}
    options |= {"callbacks": callbacks, "cores": cores}
    path = folder_of(folder)
    if not isinstance(model, nn.Module):
        if named := [name for name, value in given.items() if value is not None]:
            raise TypeError(f"{named[0]} belongs to a network; received it with {describe(model)}.")
        return resume_potential(path, model, **options)
    try:
        arrays, record = read_arrays(path / MODEL)
    except FileNotFoundError:
        raise ValueError(
            f"{path} must hold a run of hnbayes.sample; it holds none of a network. Pass the potential that was "
            "sampled, or check the path."
        ) from None
    inputs, data = (torch.from_numpy(arrays[name]) for name in ("X", "y"))
    made = model_from_record(record, path, model, inputs, likelihood, prior)
    inputs, data = inputs.to(made.like.device), data.to(made.like.device)
    if X is not None or y is not None:
        _compare_data(path, made, (inputs, data), X, y)
    whitened = WhitenedOutput(made, inputs, data) if record.get("output_layer") == "whitened" else None
    U = made.potential(inputs, data) if whitened is None else whitened.potential(stored=True)

    def posterior(reached: Draws) -> Posterior:
        return Posterior(made, reached if whitened is None else whitened.draws(reached), inputs, data)

    try:
        result = resume_potential(path, U, **options)
    except Exception as error:
        if hasattr(error, "draws"):
            error.posterior = posterior(error.draws)  # type: ignore[attr-defined]
        raise
    return posterior(result)


def _compare_data(path: Path, model: Model, stored: tuple[Tensor, Tensor], X: Any, y: Any) -> None:
    """Raise ValueError unless given data are those of the run."""
    given = model.data(stored[0] if X is None else X, stored[1] if y is None else y)
    for name, ours, theirs in zip("Xy", given, stored, strict=True):
        if ours.shape != theirs.shape or not torch.equal(ours, theirs):
            raise ValueError(
                f"{name} must be that of the run in {path}, of shape {tuple(theirs.shape)}; received other numbers, of "
                f"shape {tuple(ours.shape)}. Give the same, or begin a new run in another folder."
            )
