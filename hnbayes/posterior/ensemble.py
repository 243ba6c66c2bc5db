r"""Deep ensembles: many networks trained at once, each stopped when its own validation data say so.

Lakshminarayanan et al. (2017), with the prior as a regulariser, so that each member is near a mode of the posterior.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from hnbayes._checks import check_count, check_fraction, check_positive
from hnbayes._version import __version__
from hnbayes.posterior.model import Model
from hnbayes.posterior.posterior import Posterior
from hnbayes.posterior.starts import SPREAD, at_weights, bounds_of
from hnbayes.potentials.tracing import traced
from hnbayes.rng import Stream, resolve_seed, seeded
from hnbayes.sampling import Draws

# Distinguishes a member's randomness from that of the chain, whose streams are (seed, chain), and of other starts.
MEMBER_KEY = 2
# One step of the optimiser moves no coordinate further than the learning rate times this, however wide its prior.
WIDEST = 1.0


@dataclass(frozen=True)
class EnsembleTraining:
    """How the members of an ensemble are trained.

    Args:
        epochs: the most passes over the data.
        batch_size: data of one step of the optimiser; each member draws its own.
        learning_rate: of Adam.
        validation: the share of the data that each member, by a split of its own, keeps for early stopping; 0 trains
            with all data for all epochs.
        patience: a member that hasn't improved on its validation data for so many epochs is done; what counts are the
            weights at its best epoch.
        prior_weight: what the log prior counts for beside the log likelihood; 1 aims at a mode of the posterior.

    Raises:
        TypeError, ValueError: if an argument is none of the above.

    Example:
        >>> training = hnbayes.EnsembleTraining(epochs=20, batch_size=16, patience=5)
        >>> X = torch.linspace(-1, 1, 40)[:, None]
        >>> members = hnbayes.deep_ensemble(torch.nn.Linear(1, 1), X, X, members=3, training=training, seed=0)
        >>> members.draws.positions.shape[0]
        3
    """

    epochs: int = 500
    batch_size: int = 32
    learning_rate: float = 3e-3
    validation: float = 0.1
    patience: int = 50
    prior_weight: float = 1.0

    def __post_init__(self) -> None:
        check_count("epochs", self.epochs)
        check_count("batch_size", self.batch_size)
        check_positive("learning_rate", self.learning_rate)
        if self.validation != 0:
            check_fraction("validation", self.validation)
        check_count("patience", self.patience)
        if self.prior_weight != 0:
            check_positive("prior_weight", self.prior_weight)


def deep_ensemble(
    net: nn.Module,
    X: Any,
    y: Any,
    *,
    likelihood: Any = "gaussian",
    prior: Any = 1.0,
    members: int = 10,
    training: EnsembleTraining | None = None,
    seed: int | None = None,
) -> Posterior:
    """Train an ensemble of networks, all in one batch.

    Args:
        net: as for `hnbayes.sample`; its own weights don't matter where its modules have `reset_parameters`.
        X: inputs, as for `hnbayes.sample`.
        y: data, likewise.
        likelihood: likewise.
        prior: likewise.
        members: K.
        training: how; None is `EnsembleTraining()`.
        seed: a non-negative integer; None draws one from torch's global generator. Member k is a function of (seed, k),
            up to rounding, which differs with the number of members.

    Returns:
        A `Posterior` of K chains with one draw each, which predicts and scores as that of a sampler. Its draws'
        statistics are `lp`, the log joint density of all data and the position; `validation`, the mean log likelihood
        of a validation datum (NaN without validation); and `epochs`, up to the best one.

    Raises:
        TypeError, ValueError: as `hnbayes.sample`, or if there are too few data to split.

    Example:
        >>> X = torch.linspace(-1, 1, 40)[:, None]
        >>> training = hnbayes.EnsembleTraining(epochs=50, learning_rate=0.05)
        >>> members = hnbayes.deep_ensemble(torch.nn.Linear(1, 1), X, 2 * X, members=4, training=training, seed=0)
        >>> members.weights()["weight"].shape
        torch.Size([4, 1, 1, 1])
        >>> members.predict(X)["mean"].shape
        (40,)
    """
    members, seed = check_count("members", members), resolve_seed(seed)
    model = Model(net, likelihood, prior, X)
    inputs, data = model.data(X, y)
    return as_posterior(model, inputs, data, train(model, inputs, data, range(members), seed, training), seed)


@dataclass(frozen=True)
class Trained:
    """What training leaves of K members.

    Attributes:
        positions: (K, D), on the unconstrained axes of the model.
        validation: mean log likelihood of a validation datum, (K,) float64.
        epochs: up to the best one, (K,) int64.
    """

    positions: Tensor
    validation: Tensor
    epochs: Tensor


def as_posterior(model: Model, X: Tensor, y: Tensor, trained: Trained, seed: int) -> Posterior:
    """An ensemble as a posterior of one draw a chain."""
    positions = trained.positions
    with torch.no_grad():
        log_joint = -model.potential(X, y, compile=False).value(positions)
    stats = {"lp": log_joint.double(), "validation": trained.validation, "epochs": trained.epochs}
    draws = Draws(
        positions=positions.cpu()[:, None],
        stats={name: values.cpu()[:, None] for name, values in stats.items()},
        step_size=torch.ones(len(positions), dtype=torch.float64),
        inverse_metric=torch.ones(positions.shape, dtype=torch.float64),
        spec=model.spec,
        metadata={"kernel": "DeepEnsemble", "seed": seed, "chains": len(positions), "draws": 1, "version": __version__},
    )
    return Posterior(model, draws, X, y)


def train(
    model: Model, X: Tensor, y: Tensor, ids: Sequence[int], seed: int, training: EnsembleTraining | None = None
) -> Trained:
    r"""Minimise \(-\frac1B \sum_{n \in \text{batch}} \log p(y_n | x_n, q) - \frac{w}{N} \log p(q)\) for each member.

    Args:
        model: the model.
        X: inputs (N, ...), as `model.data` gives them.
        y: their data, likewise.
        ids: the members' numbers: member k is a function of (seed, k).
        seed: a non-negative integer.
        training: how; None is `EnsembleTraining()`.

    Raises:
        ValueError: if there are too few data to split, or a member's loss is never finite.
    """
    how = training or EnsembleTraining()
    streams = [np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(k, MEMBER_KEY))) for k in ids]
    train_rows, held_out = _split(len(X), how.validation, streams)
    batch = min(how.batch_size, train_rows.shape[1])
    limits = bounds_of(model, seed)
    scale = limits.scale.clamp_max(WIDEST)
    start = torch.stack([_fresh(model, stream) for stream in streams]).clamp(limits.low, limits.high)

    def loss(q: Tensor, inputs: Tensor, data: Tensor) -> Tensor:
        log_prior, log_likelihood = model.log_terms(q, inputs, data)
        return -(log_likelihood / len(data) + how.prior_weight * log_prior / len(X))

    def held_out_density(q: Tensor, inputs: Tensor, data: Tensor) -> Tensor:
        return model.log_terms(q, inputs, data)[1] / len(data)

    first = train_rows[:, :batch]
    gradient = captured(vmap(grad(loss)), start, X[first], y[first])
    density = None if held_out is None else captured(vmap(held_out_density), start, X[held_out], y[held_out])
    moved = torch.zeros_like(start, requires_grad=True)  # in units of the prior's spread
    optimizer = torch.optim.Adam([moved], lr=how.learning_rate)
    best, highest = start.clone(), torch.full((len(start),), -torch.inf, dtype=torch.float64, device=X.device)
    best_epoch = torch.zeros(len(start), dtype=torch.int64, device=X.device)
    here = start
    for epoch in range(1, how.epochs + 1):
        order = torch.as_tensor(np.stack([stream.permutation(train_rows.shape[1]) for stream in streams])).to(X.device)
        shuffled = train_rows.gather(1, order)
        for begin in range(0, shuffled.shape[1] - batch + 1, batch):
            rows = shuffled[:, begin : begin + batch]
            moved.grad = torch.nan_to_num(gradient(here, X[rows], y[rows]) * scale, 0.0, 0.0, 0.0)
            optimizer.step()
            here = (start + scale * moved.detach()).clamp(limits.low, limits.high)
        if density is None or held_out is None:
            best, best_epoch[:] = here, epoch
            continue
        reached = torch.nan_to_num(density(here, X[held_out], y[held_out]).double(), -torch.inf)
        better = reached > highest
        best[better], highest[better], best_epoch[better] = here[better], reached[better], epoch
        if bool((epoch - best_epoch >= how.patience).all()):
            break
    if density is None:
        highest[:] = torch.nan
    elif not bool(torch.isfinite(highest).all()):
        member = list(ids)[int(torch.nonzero(~torch.isfinite(highest))[0])]
        raise ValueError(
            f"the log likelihood must be finite at some epoch of each member; received none for member {member}. Lower "
            "the learning rate, or check the model."
        )
    return Trained(best, highest, best_epoch)


def _split(count: int, share: float, streams: Sequence[Stream]) -> tuple[Tensor, Tensor | None]:
    """For each member the rows that it trains with (K, T) and those it is validated with (K, V)."""
    held_out = 0 if share == 0 else max(1, round(share * count))
    if count - held_out < 1:
        raise ValueError(f"X must hold data to train with beside those for validation; received {count} in all.")
    order = torch.as_tensor(np.stack([stream.permutation(count) for stream in streams]))
    return order[:, held_out:], order[:, :held_out] if held_out else None


def _fresh(model: Model, stream: Stream) -> Tensor:
    """A position (D,) that stands for the network with weights drawn anew, as its own modules draw them.

    Parameters of modules that can't draw theirs are those of the network, with a little noise.
    """
    net = copy.deepcopy(model.function.net)
    drawn: set[str] = set()
    with seeded(int(stream.integers(2**31))):
        for prefix, module in net.named_modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
                drawn |= {f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters()}
        own = {name: parameter.detach() for name, parameter in net.named_parameters()}
        weights = {}
        for name, present in model.function.like().items():
            weights[name] = own[name] if name in drawn else present + SPREAD * torch.randn_like(present)
    return at_weights(model, weights)


def captured(function: Callable[..., Tensor], *arguments: Tensor) -> Callable[..., Tensor]:
    """The function as a graph of plain operations, if that gives the same numbers; else the function itself."""
    try:
        graph = traced(function, *arguments)
        others = (arguments[0] + 0.01, *(values.flip(1) for values in arguments[1:]))
        for given in (arguments, others):
            if not torch.allclose(graph(*given), function(*given), rtol=1e-3, atol=1e-5, equal_nan=True):
                return function
    except Exception:  # what can't be captured runs under vmap
        return function
    captured: Callable[..., Tensor] = graph
    return captured
