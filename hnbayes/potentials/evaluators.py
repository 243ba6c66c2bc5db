"""Ways to evaluate U and its gradient over a batch of chains: sequential, vmap, captured, compiled, native."""

from __future__ import annotations

import copy
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from hnbayes._checks import brief, validation
from hnbayes.potentials.agreement import (
    BatchFunction,
    agree,
    all_close,
    nudged,
    quietly,
    why_no_gradients,
    why_no_values,
)
from hnbayes.potentials.gradients import with_gradient
from hnbayes.potentials.graph import simplify
from hnbayes.potentials.host import Arrays, HostFunction, as_host_function
from hnbayes.potentials.sequential import (
    POSITION_ERRORS,
    Function,
    out_of_memory,
    sequential_value,
    sequential_value_and_grad,
    usable_rows,
)
from hnbayes.potentials.tracing import traced_by_recorder, traced_by_torch

Mode = Literal["sequential", "vmap", "captured", "compiled", "native"]

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
    natives: Sequence[Callable[[Tensor], BatchFunction | None]] = (),
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
        natives: each makes a function in C, or None, from a batch; with `compile="auto"`, the first that gives the
            right numbers is used.

    Raises:
        TypeError, ValueError: if U doesn't return a differentiable scalar.
    """
    positions = _with_usable_first_row(function, positions.detach(), differentiable=True)

    def one_by_one(batch: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = sequential_value_and_grad(function, batch)
        return gradients, values

    if known_cause is not None:
        return Evaluator("sequential", one_by_one, known_cause)
    vectorised, cause = _vectorised(function, positions)
    if cause is not None and len(positions) > 1:
        # It may be the error of one row, which says nothing about the function.
        usable = usable_rows(function, positions, differentiable=True)
        if usable is not positions:
            positions = usable
            vectorised, cause = _vectorised(function, positions)
    if cause is not None:
        return Evaluator("sequential", one_by_one, cause)
    if compile is False:
        return Evaluator("vmap", vectorised)
    if compile == "auto":
        written = next(filter(None, (_checked(native, vectorised, positions) for native in natives)), None)
        if written is not None:
            return Evaluator("native", written)
    captured = _capture(vectorised, positions)
    if captured is None:
        return Evaluator("vmap", vectorised)
    if compile is True:
        compiled = _compile(captured, positions, insist=True)
        if compiled is not None:
            return Evaluator("compiled", compiled)
    simplified = _simplified(captured, vectorised, positions, fold_data)
    # What NumPy evaluates is bound by dispatch, of which a compiled graph has no less.
    may_pay = compile == "auto" and not isinstance(simplified, HostFunction)
    if (
        may_pay
        and evaluations is not None
        and evaluations * _seconds_per_call(captured, positions) > COMPILE_PAYS_SECONDS
    ):
        compiled = _compile(captured, positions, insist=False)
        if compiled is not None:
            return Evaluator("compiled", compiled)
    return Evaluator("captured", simplified)


def _vectorised(function: Function, positions: Tensor) -> tuple[BatchFunction, str | None]:
    """The gradient for all chains at once, and why it can't be used, if it can't.

    It comes from plain autograd, or where the function wants to be under a gradient itself, as some of Pyro's handlers
    do, from functorch's.
    """
    plain = with_gradient(vmap(function))
    if why_no_gradients(plain, function, positions) is None:
        return plain, None
    under_gradient = vmap(grad_and_value(function))
    return under_gradient, why_no_gradients(under_gradient, function, positions)


def build_value(function: Function, positions: Tensor, capture: bool = True, fold_data: bool = False) -> Evaluator:
    """The same for values alone; U needs not be differentiable.

    Args:
        function: U.
        positions: a batch (C, D).
        capture: whether the function may be captured as a graph.
        fold_data: whether the captured graph may hold what it needs of the data, not the data themselves.
    """
    positions = _with_usable_first_row(function, positions.detach(), differentiable=False)

    def one_by_one(batch: Tensor) -> Tensor:
        return sequential_value(function, batch)[0]

    each = vmap(function)

    def vectorised(batch: Tensor) -> Tensor:
        # A function that changes its argument in place must not change the caller's memory.
        value: Tensor = each(batch.clone())
        return value

    cause = why_no_values(vectorised, function, positions)
    if cause is not None and len(positions) > 1:
        usable = usable_rows(function, positions, differentiable=False)
        if usable is not positions:
            positions = usable
            cause = why_no_values(vectorised, function, positions)
    if cause is not None:
        # Tensors under a gradient have attributes that those under vmap alone lack (`.data`, which Pyro's handlers ask
        # for). Captured, the gradient itself is dead code.
        with_gradient = vmap(grad_and_value(function))

        def vectorised(batch: Tensor) -> Tensor:
            value: Tensor = with_gradient(batch.clone())[1]
            return value

        if why_no_values(vectorised, function, positions) is not None:
            return Evaluator("sequential", one_by_one, cause)
    captured = _capture(vectorised, positions) if capture else None
    if captured is None:
        return Evaluator("vmap", vectorised)
    return Evaluator("captured", _simplified(captured, vectorised, positions, fold_data))


def _with_usable_first_row(function: Function, positions: Tensor, differentiable: bool) -> Tensor:
    """The batch, or if U fails for its first row, one of the rows for which it doesn't."""
    evaluate = sequential_value_and_grad if differentiable else sequential_value
    try:
        evaluate(function, positions[:1], check=True)
    except POSITION_ERRORS as error:
        if out_of_memory(error):
            raise
        return usable_rows(function, positions, differentiable)
    return positions


def _checked(
    native: Callable[[Tensor], BatchFunction | None], vectorised: BatchFunction, positions: Tensor
) -> BatchFunction | None:
    """A native function, if there is one and it gives the numbers of autograd.

    Far from the batch, where gradients are not small differences of large sums, they must agree to 1e-5 (float64:
    1e-10) of the largest; at the batch itself to what is asked of any way.
    """
    try:
        written = native(positions)
        if written is None or not agree(written, vectorised, positions):
            return None
        away = positions + 30 * (nudged(positions) - positions)
        tolerance = 1e-10 if positions.dtype == torch.float64 else 1e-5
        with torch.no_grad(), quietly():
            expected, received = vectorised(away), written(away)
        return written if all_close(received, expected, tolerance) else None
    except Exception:  # whatever it fails by, the general way is as right
        return None


def _capture(vectorised: BatchFunction, positions: Tensor) -> torch.fx.GraphModule | None:
    """The operations of one evaluation as a graph, if they give the same numbers at another batch too."""
    for trace in (traced_by_recorder, traced_by_torch):
        try:
            with quietly():
                graph = trace(vectorised, positions)
            if agree(graph, vectorised, positions):
                return graph
        except Exception:  # what can't be captured still runs under vmap
            continue
    return None


def _simplified(
    graph: torch.fx.GraphModule, vectorised: BatchFunction, positions: Tensor, fold_data: bool
) -> BatchFunction:
    """The graph with fewer operations, on a CPU as NumPy code, each if it gives the same numbers."""
    best: BatchFunction = graph
    try:
        # A copy of the operations alone: the data stay shared, so that changes in place are seen.
        simpler = simplify(torch.fx.GraphModule(graph, copy.deepcopy(graph.graph)), fold_data)
        if agree(simpler, vectorised, positions):
            best = simpler
            host = as_host_function(simpler) if positions.device.type == "cpu" else None
            if host is not None and agree(host, vectorised, positions):
                best = host
    except Exception:  # a graph of a kind that was not foreseen is right as it is
        pass
    return best


def _compile(graph: torch.fx.GraphModule, positions: Tensor, insist: bool) -> BatchFunction | None:
    """The captured graph through torch.compile; None (with a warning if the user insisted) where it fails."""
    if positions.device.type == "cpu" and not has_compiler():
        if insist:
            warnings.warn("compile=True needs a C++ compiler (g++ or clang++); none was found.", stacklevel=6)
        return None
    try:
        # torch's compiler switches off the argument checks of all distributions for good.
        with quietly(), validation(None):
            compiled: BatchFunction = torch.compile(graph, dynamic=False)
            with torch.no_grad():
                received, expected = compiled(positions), graph(positions)
    except Exception as error:  # a compiler can fail in any way; the captured graph is as right
        if insist:
            warnings.warn(f"torch.compile failed, so the captured graph is used: {brief(error)}", stacklevel=6)
        return None
    return compiled if all_close(received, expected) else None


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
