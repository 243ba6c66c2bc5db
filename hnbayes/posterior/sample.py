"""sample: from a network and data to the posterior of its weights."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from hnbayes._checks import check_choice, check_count
from hnbayes.kernels.kernel import Kernel
from hnbayes.posterior.ensemble import EnsembleTraining, train
from hnbayes.posterior.model import Model
from hnbayes.posterior.output_layer import WhitenedOutput
from hnbayes.posterior.posterior import Posterior
from hnbayes.posterior.resume import write_model
from hnbayes.posterior.starts import starts
from hnbayes.potentials.base import CompileMode
from hnbayes.rng import resolve_seed
from hnbayes.sampling import sample_potential
from hnbayes.sampling.arguments import check_storage
from hnbayes.sampling.run_folder import folder_of, refuse_run

OPTIONS = frozenset(inspect.signature(sample_potential).parameters) - {
    "potential",
    "initial_positions",
    "kernel",
    "warmup",
    "draws",
    "seed",
    "compile",
}


def sample(
    net: nn.Module,
    X: Any,
    y: Any,
    *,
    likelihood: Any = "gaussian",
    prior: Any = 1.0,
    kernel: str | Kernel = "nuts",
    chains: int = 4,
    warmup: int = 1000,
    draws: int = 1000,
    init: str | Tensor | EnsembleTraining = "map",
    map_steps: int = 1000,
    output_layer: str = "weights",
    seed: int | None = None,
    compile: CompileMode = "auto",
    **options: Any,
) -> Posterior:
    """Sample the posterior of a network's weights, and of what the likelihood learns beside them.

    What is sampled are unconstrained numbers, as `Model.spec` names them; scales go through a logarithm, with its
    Jacobian. Chain c is a function of (seed, c) alone. Ctrl-C returns what has been drawn so far. With `checkpoint`, a
    folder, a run that is stopped in whatever way goes on by `hnbayes.resume(folder, net)`.

    Args:
        net: any `torch.nn.Module` from inputs (N, ...) to one tensor (N, ...), with parameters of float32 or float64,
            in evaluation mode if it holds dropout or batch normalisation. It is never changed.
        X: inputs, of first dimension N: tensor, NumPy array or table. Floating-point numbers are taken in the
            parameters' dtype. Standardise them.
        y: data: of the outputs' shape (one number a point may be (N,) or (N, 1)), or labels (N,).
        likelihood: "gaussian" (with learned noise), "categorical", ..., an object of `hnbayes.likelihoods`, or a
            function from outputs to a distribution; see `as_likelihood`.
        prior: a standard deviation, an object of `hnbayes.priors`, a distribution, a dict by patterns of names, a
            `DiagGaussian`, or a function of the flat weights; see `as_prior`.
        kernel: see `sample_potential`.
        chains: C.
        warmup: transitions of warm-up a chain.
        draws: transitions a chain after that.
        init: where chains start: "map", a draw of the prior, of each chain its own, moved towards a mode by an
            optimiser; "prior", a draw of the prior; "module", the network's weights, all chains alike; "ensemble",
            or an `EnsembleTraining` that says how, at the members of a deep ensemble, trained on minibatches with early
            stopping (see `hnbayes.deep_ensemble`); or positions (C, D).
        map_steps: steps of the optimiser.
        output_layer: "weights" samples it as the rest; "whitened" on axes where it is standard normal given the rest,
            for regressions with little noise, where "weights" takes very long trajectories. The posterior is the same,
            a step costs more. It needs an `nn.Sequential` that ends in an `nn.Linear`, `Gaussian` noise of one scale,
            and independent normal priors of mean 0 on the output layer. Step sizes, metrics, and what callbacks and
            `hnbayes.read_draws` see are then those of these axes; see `hnbayes.posterior.output_layer`.
        seed: a non-negative integer; None draws one from torch's global generator.
        compile: see `Potential`.
        **options: those of `sample_potential`: step_size, num_steps, target_accept, max_tree_depth, metric, thin,
            progress, save_warmup, callbacks, adapt_step_size, adaptation, chain_ids, checkpoint, checkpoint_every,
            storage_dtype, storage, on_error, cores.

    Returns:
        The posterior.

    Raises:
        TypeError, ValueError: if an argument is none of the above, shapes don't fit (nothing is broadcast silently), or
            data hold NaN or are out of range.
        Exception: what stops a run; the draws so far are its attribute `posterior`.

    Example:
        >>> X = torch.linspace(-1, 1, 20)[:, None]
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        >>> quick = {"warmup": 10, "draws": 10, "max_tree_depth": 4, "map_steps": 10}  # to see the calls
        >>> post = hnbayes.sample(net, X, X**2, likelihood="gaussian", chains=2, seed=0, progress=False, **quick)
        >>> post.weights()["0.weight"].shape  # (chains, draws, ...)
        torch.Size([2, 10, 4, 1])
        >>> list(post.predict(X))
        ['mean', 'sd', 'sd_noise', 'sd_weights', 'quantile']
    """
    if unknown := sorted(set(options) - OPTIONS):
        raise TypeError(f"options must be of {', '.join(sorted(OPTIONS))}; received {', '.join(unknown)}.")
    check_choice("output_layer", output_layer, ("weights", "whitened"))
    chains, map_steps = check_count("chains", chains), check_count("map_steps", map_steps, 0)
    seed = resolve_seed(seed)
    check_storage(options.get("storage"), options.get("checkpoint"))
    folder = None if options.get("checkpoint") is None else folder_of(options["checkpoint"])
    if folder is not None:
        refuse_run(folder)  # before what takes long
    model = Model(net, likelihood, prior, X)
    inputs, data = model.data(X, y)
    whitened = WhitenedOutput(model, inputs, data) if output_layer == "whitened" else None
    stored = folder is not None
    U = model.potential(inputs, data, compile) if whitened is None else whitened.potential(compile, stored)
    chain_ids = options.get("chain_ids") or range(chains)
    if isinstance(init, EnsembleTraining) or (isinstance(init, str) and init == "ensemble"):
        training = init if isinstance(init, EnsembleTraining) else None
        positions = train(model, inputs, data, chain_ids, seed, training).positions
        positions = positions if whitened is None else whitened.from_weights(positions)
    else:
        positions = starts(model, U, init, chain_ids, seed, map_steps, whitened)
    if folder is not None:
        write_model(folder, model, inputs, data, output_layer)
    try:
        result = sample_potential(U, positions, kernel=kernel, warmup=warmup, draws=draws, seed=seed, **options)
    except Exception as error:
        if hasattr(error, "draws"):
            reached = error.draws if whitened is None else whitened.draws(error.draws)
            error.posterior = Posterior(model, reached, inputs, data)  # type: ignore[attr-defined]
        raise
    if whitened is not None:
        result = whitened.draws(result)
    return Posterior(model, result, inputs, data)
