"""Every check of `hnbayes.diagnostics` that a posterior can be asked."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from hnbayes.diagnostics import Report, dead_units
from hnbayes.diagnostics import diagnose as diagnose_draws
from hnbayes.posterior.data import as_inputs
from hnbayes.posterior.forward import base_of
from hnbayes.posterior.posterior import Posterior

PROBES = 64


def diagnose(posterior: Posterior, X: Any = None) -> Report:
    """Ask of a posterior everything that its draws can answer, in function space.

    Predictions are the network's outputs, or class probabilities, since logits are known up to a constant only. Of more
    than 64 inputs as many are looked at, evenly spaced.

    Args:
        posterior: what `hnbayes.sample` returned.
        X: inputs (N, ...) at which the chains must agree; None takes those that were sampled with.

    Raises:
        TypeError, ValueError: if X is no input of the network.
    """
    inputs = posterior.X if X is None else as_inputs(X, posterior.model.like)
    rows = np.unique(np.linspace(0, len(inputs) - 1, min(PROBES, len(inputs))).round().astype(int))
    likelihood = posterior.model.likelihood
    outputs = posterior.outputs(inputs[rows.tolist()])
    functions: Tensor = outputs
    if likelihood.task(posterior.model.outputs_at_present(inputs[:1])) == "classification":
        parameters = posterior.params()
        learned = {name: parameters[name].flatten(0, 1).to(outputs.device) for name in posterior.model.learned}
        distribution = likelihood.distribution(outputs.flatten(0, 1), 1, **learned)
        functions = base_of(distribution).probs.unflatten(0, outputs.shape[:2])
    fits = posterior.fits(8 * posterior.y.numel())
    return diagnose_draws(
        functions=functions.flatten(3) if functions.ndim > 4 else functions,
        log_likelihood=posterior.log_likelihood() if fits else None,
        log_prior=posterior.log_prior(),
        stats={name: values.numpy() for name, values in posterior.draws.stats.items()},
        dead_units=dead_units(posterior.net, posterior.weights(), posterior.X),
    )
