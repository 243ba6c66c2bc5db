"""Ways to evaluate U and its gradient over a batch of chains: sequential, vmap, captured, compiled."""

from __future__ import annotations

import copy
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from hnbayes._checks import describe
from hnbayes.potentials.graph import simplify
from hnbayes.potentials.host import Arrays, HostFunction, as_host_function

Function = Callable[[Tensor], Tensor]
BatchFunction = Callable[[Tensor], Any]
Mode = Literal["sequential", "vmap", "captured", "compiled"]

# Constants of the estimate that decides on compiling. They are fixed numbers, not timings, because compiled and
# captured graphs round differently: the same seed must choose the same way on every run.
SECONDS_PER_NODE = 4e-6
FLOPS_PER_SECOND = 5e9
COMPILE_PAYS_SECONDS = 60.0


@dataclass(frozen=True)
class Evaluator:
    """A chosen way to evaluate batches of one shape, dtype and device.

    Attributes:
        mode: the way.
        batch: for gradients, (C, D) -> (gradients (C, D), values (C,)); for values, (C, D) -> (C,).
        cause: why the function couldn't be vectorised, if it couldn't.
    """

    mode: Mode
    batch: BatchFunction
    cause: str | None = None

    @property
    def arrays(self) -> Arrays | None:
        """The same on NumPy arrays, where that is how it is evaluated."""
        return self.batch.arrays if isinstance(self.batch, HostFunction) else None

    def value_and_grad(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Values (C,) and gradients (C, D), without a graph."""
        with torch.no_grad():
            gradients, values = self.batch(positions)
        return values.detach(), gradients.detach()

    def value(self, positions: Tensor) -> Tensor:
        """Values (C,), without a graph."""
        with torch.no_grad():
            values: Tensor = self.batch(positions)
        return values.detach()


def build(
    function: Function,
    positions: Tensor,
    compile: Literal["auto"] | bool,
    evaluations: int | None,
    known_cause: str | None = None,
    fold_data: bool = False,
) -> Evaluator:
    """Find the fastest way to evaluate `function` with its gradient that gives the right numbers.

    Each way is compared with the plain gradient by autograd (for vmap) or with vmap (for the captured graph) at
    two batches before it is trusted.

    Args:
        function: U.
        positions: a batch (C, D).
        compile: see `Potential`.
        evaluations: expected number of evaluations, if known.
        known_cause: why the function is known not to be vectorisable, to skip the attempt.
        fold_data: whether the captured graph may hold what it needs of the data, not the data themselves.

    Raises:
        TypeError, ValueError: if U doesn't return a differentiable scalar.
    """
    positions = positions.detach()
    sequential_value_and_grad(function, positions[:1], check=True)

    def one_by_one(batch: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = sequential_value_and_grad(function, batch)
        return gradients, values

    if known_cause is not None:
        return Evaluator("sequential", one_by_one, known_cause)
    vectorised = vmap(grad_and_value(function))
    cause = _why_not(vectorised, function, positions)
    if cause is not None:
        return Evaluator("sequential", one_by_one, cause)
    if compile is False:
        return Evaluator("vmap", vectorised)
    captured = _capture(vectorised, positions)
    if captured is None:
        return Evaluator("vmap", vectorised)
    wanted = compile is True or (
        evaluations is not None and evaluations * _seconds_per_call(captured, positions) > COMPILE_PAYS_SECONDS
    )
    if wanted:
        compiled = _compile(captured, positions, insist=compile is True)
        if compiled is not None:
            return Evaluator("compiled", compiled)
    return Evaluator("captured", _simplified(captured, vectorised, positions, fold_data))


def build_value(function: Function, positions: Tensor) -> Evaluator:
    """The same for values alone; U needs not be differentiable."""
    positions = positions.detach()
    reference, _ = sequential_value(function, positions[:1], check=True)

    def one_by_one(batch: Tensor) -> Tensor:
        return sequential_value(function, batch)[0]

    vectorised = vmap(function)
    try:
        with torch.no_grad():
            agree = _close(vectorised(positions)[:1], reference)
    except Exception as error:  # whatever stops vmap, the sequential way above has worked
        return Evaluator("sequential", one_by_one, _brief(error))
    if not agree:
        return Evaluator("sequential", one_by_one, "vmap gives another value than the function alone")
    captured = _capture(vectorised, positions)
    return Evaluator("vmap", vectorised) if captured is None else Evaluator("captured", captured)


def sequential_value_and_grad(function: Function, positions: Tensor, check: bool = False) -> tuple[Tensor, Tensor]:
    """U and its gradient by plain autograd, one row after another.

    Args:
        function: U.
        positions: shape (C, D).
        check: say clearly what is wrong if U is not a differentiable scalar.

    Returns:
        Values (C,) and gradients (C, D).
    """
    values, gradients = [], []
    with torch.enable_grad():
        for position in positions:
            q = position.detach().clone().requires_grad_()
            value = function(q)
            if check:
                check_scalar(value)
                if not value.requires_grad:
                    raise ValueError(
                        "the potential must depend on the position through differentiable torch operations; "
                        "received a value without a gradient. Avoid .item(), .detach(), NumPy and no_grad inside it."
                    )
            (gradient,) = torch.autograd.grad(value, q, allow_unused=True)
            gradients.append(torch.zeros_like(q) if gradient is None else gradient)
            values.append(value.detach())
    return torch.stack(values), torch.stack(gradients)


def sequential_value(function: Function, positions: Tensor, check: bool = False) -> tuple[Tensor, Tensor]:
    """U one row after another; the second result is the positions, in a gradient's place."""
    with torch.no_grad():
        values = [function(position.detach()) for position in positions]
    if check:
        check_scalar(values[0])
    return torch.stack(values), positions


def check_scalar(value: Any) -> Tensor:
    """A potential's value, if it is a floating-point tensor without dimensions.

    Raises:
        TypeError, ValueError: if it is not.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"the potential must return a 0-dimensional tensor; received {describe(value)}.")
    if value.ndim != 0:
        raise ValueError(
            f"the potential must return a scalar (a 0-dimensional tensor); received {describe(value)}. "
            "Sum the terms, or take log_prob(...).sum()."
        )
    if not value.is_floating_point():
        raise TypeError(f"the potential must return a floating-point value; received {describe(value)}.")
    return value


def _why_not(vectorised: BatchFunction, function: Function, positions: Tensor) -> str | None:
    """Why a vectorised gradient can't be used, or None if it agrees with the sequential one at two points."""
    for batch, row in ((positions, 0), (_nudged(positions), len(positions) - 1)):
        try:
            gradients, values = vectorised(batch)
            value, gradient = sequential_value_and_grad(function, batch[row : row + 1])
        except Exception as error:  # functorch raises many kinds; the sequential way above has worked
            return _brief(error)
        if not (_close(values[row : row + 1], value) and _close(gradients[row : row + 1], gradient)):
            return (
                "vmap gives another value than the function alone (does it draw random numbers or change its own "
                "state?)"
            )
    return None


def _capture(vectorised: BatchFunction, positions: Tensor) -> torch.fx.GraphModule | None:
    """The operations of one evaluation as a graph, if they give the same numbers at another batch too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = make_fx(vectorised)(positions)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph if _agree(graph, vectorised, positions) else None
    except Exception:  # what can't be captured still runs under vmap
        return None


def _simplified(
    graph: torch.fx.GraphModule, vectorised: BatchFunction, positions: Tensor, fold_data: bool
) -> BatchFunction:
    """The graph with fewer operations, on a CPU as NumPy code, each if it gives the same numbers."""
    best: BatchFunction = graph
    try:
        # A copy of the operations alone: the data stay shared, so that changes in place are seen.
        simpler = simplify(torch.fx.GraphModule(graph, copy.deepcopy(graph.graph)), fold_data)
        if _agree(simpler, vectorised, positions):
            best = simpler
            host = as_host_function(simpler) if positions.device.type == "cpu" else None
            if host is not None and _agree(host, vectorised, positions):
                best = host
    except Exception:  # a graph of a kind that was not foreseen is right as it is
        pass
    return best


def _agree(graph: BatchFunction, vectorised: BatchFunction, positions: Tensor) -> bool:
    """Whether a graph gives the same numbers as the function it came from, at two batches."""
    for batch in (positions, _nudged(positions)):
        with torch.no_grad():
            expected, received = vectorised(batch), graph(batch)
        if not _all_close(received, expected):
            return False
    return True


def _nudged(positions: Tensor) -> Tensor:
    """A batch near another."""
    nudge = 0.01 * torch.sin(torch.arange(positions.numel(), device=positions.device, dtype=positions.dtype))
    return positions + nudge.view_as(positions)


def _compile(graph: torch.fx.GraphModule, positions: Tensor, insist: bool) -> BatchFunction | None:
    """The captured graph through torch.compile; None (with a warning if the user insisted) where it fails."""
    if positions.device.type == "cpu" and not has_compiler():
        if insist:
            warnings.warn("compile=True needs a C++ compiler (g++ or clang++); none was found.", stacklevel=6)
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled: BatchFunction = torch.compile(graph, dynamic=False)
            with torch.no_grad():
                received, expected = compiled(positions), graph(positions)
    except Exception as error:  # a compiler can fail in any way; the captured graph is as right
        if insist:
            warnings.warn(f"torch.compile failed, so the captured graph is used: {_brief(error)}", stacklevel=6)
        return None
    return compiled if _all_close(received, expected) else None


def has_compiler() -> bool:
    """Whether torch.compile can make CPU kernels here."""
    return sys.platform != "win32" and any(map(shutil.which, ("g++", "clang++")))


def _seconds_per_call(graph: torch.fx.GraphModule, positions: Tensor) -> float:
    """A rough, repeatable estimate of the time of one call, from its operations."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        graph(positions)
    nodes = sum(node.op == "call_function" for node in graph.graph.nodes)
    return nodes * SECONDS_PER_NODE + float(counter.get_total_flops()) / FLOPS_PER_SECOND


def _close(received: Tensor, expected: Tensor) -> bool:
    """Equal up to rounding: 1e-3 of the largest entry in float32, 1e-8 in float64; NaN matches NaN."""
    tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-3
    finite = expected[torch.isfinite(expected)]
    scale = float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(received, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _all_close(received: Any, expected: Any) -> bool:
    """`_close` for values alone or for (gradients, values)."""
    if isinstance(expected, Tensor):
        return _close(received, expected)
    return all(_close(a, b) for a, b in zip(received, expected, strict=True))


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
