"""The potential energy of a neural network's posterior over weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hnbayes._checks import check_choice, check_finite, check_positive, describe
from hnbayes.params import ParamSpec
from hnbayes.potentials.base import CompileMode, OnError, Potential
from hnbayes.potentials.dense import Normal, Parts

PriorLogProb = Callable[[Tensor], Tensor]
NllType = Literal["regression", "classification"]


def log_prob_standard_normal_prior(position: Tensor, mean: float | Tensor = 0.0, std: float | Tensor = 1.0) -> Tensor:
    r"""Log density of an isotropic Gaussian, normalised: \(\log N(q; \mu, \sigma^2 I)\).

    Args:
        position: q, shape (D,), or (C, D) for several at once.
        mean: \(\mu\), a number or a tensor that broadcasts to (D,).
        std: \(\sigma > 0\), a number or a tensor that broadcasts to (D,).

    Returns:
        The sum over the last dimension: shape () or (C,).

    Raises:
        ValueError: if a number given as `std` is not positive.

    Example:
        >>> q = torch.zeros(2)
        >>> hnbayes.log_prob_standard_normal_prior(q, std=0.5).exp()  # (1 / (0.5 sqrt(2 pi)))^2
        tensor(0.6366)
    """
    if not isinstance(std, Tensor):
        log_std: float | Tensor = math.log(check_positive("std", std))
    else:
        log_std = std.log()
    z = (position - mean) / std
    return (-0.5 * (z.square() + math.log(2 * math.pi)) - log_std).sum(-1)


def nn_pot_energy(
    net: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    prior_log_prob_func: PriorLogProb,
    tau_pred: float = 1.0,
    nll_type: NllType = "regression",
    *,
    compile: CompileMode = "auto",
    on_error: OnError | None = None,
) -> Potential:
    r"""U(W) = NLL(W) - log p(W) for the weights W of a network, over the whole data set.

    For `"regression"` the NLL is \(\frac{\tau}{2} \sum_n \lVert f(x_n, W) - y_n \rVert^2\), a Gaussian likelihood
    of precision `tau_pred` up to its constant; for `"classification"` it is the sum of the softmax cross-entropies.

    Any `torch.nn.Module` goes in (its trainable parameters are sampled, in `named_parameters` order, frozen ones and
    buffers stay as they are), and so does a network that takes its weights from outside, with `param_shapes` and
    `forward(x, weights=[...])`. The network itself is never changed.

    Args:
        net: the network, in evaluation mode if it holds dropout or batch normalisation.
        inputs: all inputs, first dimension N.
        targets: for regression, the network's output shape (N, ...); for classification, integer labels (N,).
        prior_log_prob_func: log p(W) of a flat vector (D,), as `log_prob_standard_normal_prior`.
        tau_pred: precision (inverse variance) of the Gaussian likelihood; regression only.
        nll_type: "regression" or "classification".
        compile: see `Potential`.
        on_error: see `Potential`.

    Returns:
        A `Potential` whose `spec` holds the parameters' names and shapes.

    Raises:
        TypeError: if the network is no module, or data have the wrong type or dtype.
        ValueError: if shapes don't fit (nothing is broadcast silently), data hold NaN, labels are out of range, or
            the network is in training mode with dropout or batch normalisation.

    Example:
        >>> net, X = torch.nn.Linear(2, 1), torch.randn(10, 2)
        >>> U = hnbayes.nn_pot_energy(net, X, X[:, :1], hnbayes.log_prob_standard_normal_prior, tau_pred=100.0)
        >>> U.spec.names
        ('weight', 'bias')
        >>> starts = torch.randn(4, U.spec.size)
        >>> draws = hnbayes.sample_potential(U, starts, warmup=20, draws=20, seed=0, progress=False)
        >>> draws.params()["weight"].shape
        torch.Size([4, 20, 1, 2])
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module; received {describe(net)}.")
    if not callable(prior_log_prob_func):
        raise TypeError(
            f"prior_log_prob_func must be a function of the flat weights; received {describe(prior_log_prob_func)}."
        )
    check_choice("nll_type", nll_type, ("regression", "classification"))
    tau = check_positive("tau_pred", tau_pred)
    refuse_training_mode(net)
    _check_data(inputs, targets)
    # Tensors of inference mode can't take part in what is differentiated.
    inputs, targets = (t.clone() if t.is_inference() else t for t in (inputs, targets))

    spec, forward = _as_function(net)
    outputs = _trial_output(net, inputs)
    if nll_type == "regression":
        _check_regression_targets(targets, outputs)
    else:
        _check_labels(targets, outputs)

    def potential(q: Tensor) -> Tensor:
        predictions = forward(q, inputs)
        if nll_type == "regression":
            nll = 0.5 * tau * (predictions - targets).square().sum()
        else:
            nll = nn.functional.cross_entropy(predictions, targets.long(), reduction="sum")
        return nll - prior_log_prob_func(q)

    dtype = weights_dtype(net, inputs)
    normal = _normal_of(prior_log_prob_func, spec, dtype)

    def rest(q: Tensor, loss: Tensor) -> Tensor:
        return (tau if nll_type == "regression" else 1.0) * loss - prior_log_prob_func(q)

    parts = Parts(
        outputs=lambda q: forward(q, inputs),
        inputs=inputs,
        targets=targets,
        loss="squares" if nll_type == "regression" else "categorical",
        factor=tau if nll_type == "regression" else 1.0,
        normal=normal,
        constant=0.0 if normal is None else -float(prior_log_prob_func(normal.mean)),
        rest=rest if normal is None else None,
    )
    return Potential(potential, spec=spec, dtype=dtype, compile=compile, on_error=on_error, parts=parts)


def _normal_of(prior: PriorLogProb, spec: ParamSpec, dtype: torch.dtype | None) -> Normal | None:
    """The moments of `log_prob_standard_normal_prior`, as it is or in a `functools.partial`; None for other priors."""
    function, arguments = (prior.func, prior.keywords) if isinstance(prior, partial) else (prior, {})
    if function is not log_prob_standard_normal_prior or (isinstance(prior, partial) and prior.args):
        return None
    mean, std = arguments.get("mean", 0.0), arguments.get("std", 1.0)
    # A tensor may be changed in place later.
    if isinstance(mean, Tensor) or isinstance(std, Tensor):
        return None
    ones = torch.ones(spec.size, dtype=dtype)
    return Normal(mean * ones, ones / std**2)


def refuse_training_mode(net: nn.Module) -> None:
    """Raise ValueError if a module would behave randomly or change its state when it is evaluated."""
    for name, module in net.named_modules():
        if not module.training:
            continue
        where = f"{name or type(net).__name__} ({type(module).__name__})"
        # Recurrent and transformer modules keep their dropout rate in an attribute.
        rate = getattr(module, "p" if isinstance(module, nn.modules.dropout._DropoutNd) else "dropout", 0.0)
        if isinstance(rate, (int, float)) and rate > 0:
            raise ValueError(
                f"net must not be in training mode where it holds dropout; received {where} with rate {rate} in "
                "training mode. Call net.eval()."
            )
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            raise ValueError(
                "net must not be in training mode where it holds batch normalisation, whose statistics would change "
                f"with every evaluation; received {where} in training mode. Call net.eval()."
            )


def _as_function(net: nn.Module) -> tuple[ParamSpec, Callable[[Tensor, Tensor], Tensor]]:
    """The spec of a network's weights and its forward pass as a function of (flat weights, inputs)."""
    shapes: Sequence[Any] | None = getattr(net, "param_shapes", None)
    if shapes is None:
        module_spec = ParamSpec.from_module(net)

        def through_functional_call(q: Tensor, x: Tensor) -> Tensor:
            output: Tensor = functional_call(net, module_spec.unflatten(q), (x,))
            return output

        return module_spec, through_functional_call

    spec = ParamSpec(_weight_names(net, shapes), tuple(tuple(shape) for shape in shapes))

    def through_weights(q: Tensor, x: Tensor) -> Tensor:
        output: Tensor = net.forward(x, weights=list(spec.unflatten(q).values()))
        return output

    return spec, through_weights


def _weight_names(net: nn.Module, shapes: Sequence[Any]) -> tuple[str, ...]:
    """The names of a network's own parameters where they are those of `param_shapes`, else numbered names."""
    own = [(name, tuple(p.shape)) for name, p in net.named_parameters()]
    if [shape for _, shape in own] == [tuple(shape) for shape in shapes]:
        return tuple(name for name, _ in own)
    return tuple(f"weights.{i}" for i in range(len(shapes)))


def _check_data(inputs: Tensor, targets: Tensor) -> None:
    for name, tensor in (("inputs", inputs), ("targets", targets)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor; received {describe(tensor)}. Use torch.as_tensor(...).")
        if tensor.ndim == 0 or tensor.numel() == 0:
            raise ValueError(f"{name} must hold at least one data point; received {describe(tensor)}.")
        if tensor.is_floating_point():
            check_finite(name, tensor)
    if len(inputs) != len(targets):
        raise ValueError(
            f"inputs and targets must have the same number of data points; received {len(inputs)} and {len(targets)}."
        )


def _trial_output(net: nn.Module, inputs: Tensor) -> Tensor:
    """The outputs for all inputs at the network's present weights, or at zeros if it holds none.

    Raises:
        ValueError: if the network can't be applied to the inputs, gives another output the second time, or changes
            its buffers (which are put back).
    """
    before = [(buffer, buffer.clone()) for buffer in net.buffers()]
    # Dropout that a module applies by a function is seen by its output only; its random numbers are not the caller's.
    with torch.no_grad(), torch.random.fork_rng(_cuda_devices(inputs)):
        output = _apply(net, inputs)
        again = _apply(net, inputs)
    changed = [(buffer, copy) for buffer, copy in before if not torch.equal(buffer, copy) and not copy.isnan().any()]
    if changed:
        with torch.no_grad():
            for buffer, copy in changed:
                buffer.copy_(copy)
        raise ValueError(
            "net must not change its buffers when it is evaluated; received one in training mode that does (spectral "
            "or batch normalisation). Call net.eval()."
        )
    if not isinstance(output, Tensor):
        raise TypeError(f"the network must return one tensor; received {describe(output)}.")
    if not torch.allclose(output, again, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise ValueError(
            "net must give the same outputs for the same inputs; received one that draws random numbers, as dropout "
            "in training mode does. Call net.eval()."
        )
    return output


def _apply(net: nn.Module, inputs: Tensor) -> Any:
    try:
        shapes: Any = getattr(net, "param_shapes", None)
        if shapes is not None and getattr(net, "weights", None) is None:
            dtype = weights_dtype(net, inputs) or torch.get_default_dtype()
            return net.forward(inputs, weights=[inputs.new_zeros(shape, dtype=dtype) for shape in shapes])
        return net(inputs)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise ValueError(
            f"the network can't be applied to inputs, {describe(inputs)}; check their shape, dtype and device. "
            f"It raised: {error}"
        ) from error


def weights_dtype(net: nn.Module, inputs: Tensor) -> torch.dtype | None:
    """The one dtype of a network's weights, or of its inputs if it holds no weights; None if there are several."""
    dtypes = {p.dtype for p in net.parameters() if p.is_floating_point()}
    if not dtypes and inputs.is_floating_point():
        dtypes = {inputs.dtype}
    return dtypes.pop() if len(dtypes) == 1 else None


def _cuda_devices(inputs: Tensor) -> list[int]:
    return [inputs.device.index or 0] if inputs.device.type == "cuda" else []


def _check_regression_targets(targets: Tensor, outputs: Tensor) -> None:
    if not targets.is_floating_point():
        raise TypeError(
            f"regression needs floating-point targets; received {describe(targets)}. "
            "Convert with .float(), or use nll_type='classification' for labels."
        )
    if targets.shape != outputs.shape:
        hint = "Reshape one of them: they would be broadcast against each other."
        if outputs.shape == (*targets.shape, 1):
            hint = "Use targets.unsqueeze(-1)."
        raise ValueError(
            f"targets must have the shape of the network's outputs, {tuple(outputs.shape)}; "
            f"received {tuple(targets.shape)}. {hint}"
        )
    if targets.device != outputs.device:
        raise ValueError(f"targets must be on {outputs.device}, as the outputs; received {targets.device}.")


def _check_labels(targets: Tensor, outputs: Tensor) -> None:
    if targets.is_floating_point() or targets.dtype == torch.bool or targets.is_complex():
        raise TypeError(f"classification needs integer labels; received {describe(targets)}. Convert with .long().")
    if outputs.ndim != 2:
        raise ValueError(f"classification needs logits of shape (N, classes); received {tuple(outputs.shape)}.")
    if targets.shape != outputs.shape[:1]:
        raise ValueError(
            f"labels must have shape ({len(outputs)},); received {tuple(targets.shape)}. "
            "One-hot targets become labels by .argmax(-1)."
        )
    classes = outputs.shape[1]
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1}, as the network has {classes} outputs; received labels from "
            f"{low} to {high}."
        )
