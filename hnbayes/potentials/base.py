"""Potential: any U(q), evaluated with its gradient for all chains at once."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from hnbayes._checks import check_choice, check_finite, describe
from hnbayes.params import ParamSpec
from hnbayes.potentials import evaluators
from hnbayes.potentials.dense import Parts, dense_function
from hnbayes.potentials.evaluators import Evaluator
from hnbayes.potentials.host import Arrays
from hnbayes.potentials.native import Point
from hnbayes.potentials.sequential import (
    POSITION_ERRORS,
    out_of_memory,
    sequential_value,
    sequential_value_and_grad,
)
from hnbayes.potentials.translated import WORTH_COMPILING, translated_function

CompileMode = Literal["auto"] | bool
OnError = Literal["diverge", "raise"]


class Potential:
    """A potential energy U(q) = -log p(q) + constant, batched over chains.

    Calling it gives U of one position, as the wrapped function does. Kernels call `value_and_grad`, which evaluates
    all chains in one call. The way is found at the first call for a number of chains, a dtype and a device:
    the gradient of `torch.func.vmap` of the function, captured once as a graph of plain tensor operations
    (which removes the cost of the transforms), compiled with `torch.compile` if asked;
    for posteriors of dense networks, C that was written for them, where a C compiler is found; for other small graphs C
    too, where `prepare` is told of a run that repays the compiler's time;
    one chain at a time, with one warning, if the function can't be vectorised.

    A captured function is not called again: later changes of Python values that it reads (not of tensors changed
    in place) are seen after `reset()` only. `compile=False` calls it at every evaluation.

    Args:
        function: U, from a position of shape (D,) to a 0-dimensional tensor, made of differentiable torch operations.
        spec: names and shapes of what the position is made of, if known.
        dtype: the dtype that positions must have, if the function takes one only.
        compile: True compiles; False neither captures nor compiles; "auto" captures, and compiles where
            `prepare` is told of a run that is long enough to repay it.
        on_error: "diverge" gives NaN (so a rejected, divergent transition) to a position for which the function
            raises; "raise" lets the error out; None diverges, except in the documented chains (`HMC`, `MultiChainHMC`
            and the like), which raise.
        parts: what U consists of, if it is the posterior of a network; where that is a stack of dense layers, compiled
            C evaluates it with `compile="auto"`.

    Raises:
        TypeError: if `function` can't be called.
        ValueError: if `compile` or `on_error` is none of the values above.

    Example:
        >>> U = hnbayes.Potential(lambda q: 0.5 * (q**2).sum())
        >>> U(torch.tensor([1.0, 2.0]))  # one position, as the function
        tensor(2.5000)
        >>> values, gradients = U.value_and_grad(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))  # two chains
        >>> values, gradients
        (tensor([2.5000, 4.5000]), tensor([[1., 2.],
                [0., 3.]]))
    """

    # Whether the captured graph may hold what it needs of the data, not the data; changes in place are then not seen.
    fold_data: ClassVar[bool] = False

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        *,
        spec: ParamSpec | None = None,
        dtype: torch.dtype | None = None,
        compile: CompileMode = "auto",
        on_error: OnError | None = None,
        parts: Parts | None = None,
    ) -> None:
        if not callable(function):
            raise TypeError(
                f"a potential must be a function from a position (D,) to a scalar; received {describe(function)}."
            )
        self.function = function
        self.spec = spec
        self.dtype = dtype
        self.compile: CompileMode = check_choice("compile", compile, ("auto", True, False))
        if on_error is not None:
            check_choice("on_error", on_error, ("diverge", "raise"))
        self.on_error: OnError | None = on_error
        self.parts = parts
        self.failures = 0
        self._evaluators: dict[tuple[object, ...], Evaluator] = {}
        self._array_functions: dict[tuple[tuple[int, ...], str, bool], Arrays] = {}
        # Whether the run that was announced last repays a compiler. One that wasn't announced goes on as it does.
        self._long_run = False
        self._sequential_cause: str | None = None
        self._fallback_told = False

    def __call__(self, position: Tensor) -> Tensor:
        """U at one position.

        Args:
            position: shape (D,).

        Returns:
            0-dimensional tensor.
        """
        return self.function(position)

    def __repr__(self) -> str:
        name = getattr(self.function, "__qualname__", type(self.function).__name__)
        size = "" if self.spec is None else f", {self.spec.size} parameters"
        return f"Potential({name}{size})"

    def without_graphs(self) -> Potential:
        """A copy for another process, which captures graphs of its own."""
        other = copy.copy(self)
        other._evaluators, other._array_functions = {}, {}
        return other

    def reset(self) -> None:
        """Forget captured and compiled graphs, so that the function is read again."""
        self._evaluators.clear()
        self._array_functions.clear()
        self._sequential_cause = None

    def prepare(self, positions: Tensor, evaluations: int | None = None) -> str:
        """Choose the way of evaluating a batch, before a run.

        Args:
            positions: a batch (C, D) like those to come.
            evaluations: about how many evaluations the run will take; lets `compile="auto"` decide. None is a part of
                the run that was prepared before.

        Returns:
            "sequential", "vmap", "captured", "compiled" or "native".

        Raises:
            TypeError, ValueError: if U doesn't give a differentiable scalar at these positions, or is not finite there.
        """
        check_positions(positions, self.spec, self.dtype)
        if evaluations is not None:
            self._long_run = evaluations >= WORTH_COMPILING
        with torch.inference_mode(False):
            return self._evaluator(_plain(positions), evaluations).mode

    def value_and_grad(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """U and its gradient for every chain.

        Args:
            positions: shape (C, D).

        Returns:
            Values (C,) and gradients (C, D), without a graph; NaN for rows where the function failed.
        """
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self.value_and_grad(positions)
        positions = _plain(positions)
        try:
            return self._evaluator(positions, None).value_and_grad(positions)
        except POSITION_ERRORS as error:
            self._refuse(error)
            return self._row_by_row(positions, sequential_value_and_grad)

    def value_and_grad_arrays(self, positions: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """`value_and_grad` of CPU memory as NumPy arrays, without a detour where NumPy evaluates the graph.

        Args:
            positions: shape (C, D).

        Returns:
            Values (C,) and gradients (C, D).
        """
        function = self._array_functions.get((positions.shape, positions.dtype.char, self._long_run))
        if function is not None:
            try:
                gradients, values = function(positions)
                return values, gradients
            except POSITION_ERRORS:
                pass  # the way below knows what to do
        values, gradients = self.value_and_grad(torch.from_numpy(positions))
        return values.numpy(), gradients.numpy()

    def evaluates_arrays(self, positions: Tensor) -> bool:
        """Whether NumPy evaluates batches like this one (C, D), which is so where dispatch costs most."""
        if positions.device.type != "cpu":
            return False
        char = positions[:0].detach().numpy().dtype.char
        return (tuple(positions.shape), char, self._long_run) in self._array_functions

    def point(self, positions: NDArray[Any]) -> Point | None:
        """The compiled function that evaluates batches like this one (C, D) chain by chain, if that is how."""
        return getattr(
            self._array_functions.get((positions.shape, positions.dtype.char, self._long_run)), "point", None
        )

    def value(self, positions: Tensor) -> Tensor:
        """U for every chain, without gradient (U needs not be differentiable).

        Args:
            positions: shape (C, D).

        Returns:
            Values (C,).
        """
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self.value(positions)
        positions = _plain(positions)
        key = ("value", tuple(positions.shape), positions.dtype, positions.device)
        try:
            if key not in self._evaluators:
                capture = self.compile is not False
                self._evaluators[key] = evaluators.build_value(self.function, positions, capture, self.fold_data)
                self._tell_of_fallback(self._evaluators[key].cause, len(positions))
            return self._evaluators[key].value(positions)
        except POSITION_ERRORS as error:
            self._refuse(error)
            return self._row_by_row(positions, sequential_value)[0]

    def with_default(self, on_error: OnError) -> Potential:
        """The same potential with `on_error` where none was chosen, which shares captured graphs with this one."""
        if self.on_error is not None:
            return self
        other = copy.copy(self)
        other.on_error = on_error
        return other

    def _evaluator(self, positions: Tensor, evaluations: int | None) -> Evaluator:
        # What is evaluated row by row is so in runs of any length.
        long_run = self._long_run and self._sequential_cause is None
        key = ("grad", tuple(positions.shape), positions.dtype, positions.device, long_run)
        if key not in self._evaluators:
            natives = [] if self.parts is None else [partial(dense_function, self.parts)]
            if self._long_run:
                natives.append(partial(translated_function, self.function, self.fold_data))
            evaluator = evaluators.build(
                self.function, positions, self.compile, evaluations, self._sequential_cause, self.fold_data, natives
            )
            if evaluator.cause is not None and self._sequential_cause is None:
                self._sequential_cause = evaluator.cause
            self._tell_of_fallback(evaluator.cause, len(positions))
            self._evaluators[key] = evaluator
            # A subclass with a `value_and_grad` of its own wants to be asked each time.
            if evaluator.arrays is not None and type(self).value_and_grad is Potential.value_and_grad:
                char = positions[:0].detach().numpy().dtype.char
                self._array_functions[tuple(positions.shape), char, self._long_run] = evaluator.arrays
        return self._evaluators[key]

    def _tell_of_fallback(self, cause: str | None, chains: int) -> None:
        """Warn, once, of chains that are evaluated one after another."""
        if cause is None or chains == 1 or self._fallback_told:
            return
        self._fallback_told = True
        warnings.warn(
            "the potential can't be evaluated for all chains at once, so chains are evaluated one after "
            f"another, which is slower. Cause: {cause}",
            UserWarning,
            stacklevel=5,
        )

    def _refuse(self, error: Exception) -> None:
        # With nothing evaluated before, it is no fault of a proposed position.
        if self.on_error == "raise" or out_of_memory(error) or not self._evaluators:
            raise error
        if self.failures == 0:
            warnings.warn(
                "the potential raised an error at a proposed position; such positions count as divergent and are "
                f"never accepted. First error: {type(error).__name__}: {error}",
                UserWarning,
                stacklevel=5,
            )
        self.failures += 1

    def _row_by_row(
        self, positions: Tensor, evaluate: Callable[[Callable[[Tensor], Tensor], Tensor], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Evaluate each row alone after a batch has failed, so that one row's error stays its own."""
        values = torch.full(positions.shape[:1], torch.nan, dtype=positions.dtype, device=positions.device)
        gradients = torch.full_like(positions, torch.nan)
        for row, position in enumerate(positions):
            try:
                value, gradient = evaluate(self.function, position[None])
            except POSITION_ERRORS as error:
                if out_of_memory(error):
                    raise
                continue
            values[row], gradients[row] = value[0], gradient[0]
        return values, gradients


def as_potential(
    function: Callable[[Tensor], Tensor], *, compile: CompileMode = "auto", on_error: OnError | None = None
) -> Potential:
    """A `Potential` as it is, anything else that can be called wrapped as one; `on_error` where none was chosen.

    Example:
        >>> U = hnbayes.potentials.as_potential(lambda q: q.square().sum())
        >>> hnbayes.potentials.as_potential(U) is U
        True
    """
    if isinstance(function, Potential):
        return function if on_error is None else function.with_default(on_error)
    return Potential(function, compile=compile, on_error=on_error)


def _plain(positions: Tensor) -> Tensor:
    """Positions without a graph, laid out as graphs are captured for: contiguous, at the beginning of their memory."""
    positions = positions.detach()
    if positions.is_inference() or positions.storage_offset() or not positions.is_contiguous():
        return positions.clone(memory_format=torch.contiguous_format)
    return positions


def check_positions(positions: Tensor, spec: ParamSpec | None, dtype: torch.dtype | None = None) -> None:
    """Raise unless positions are a finite floating-point batch (C, D) that fits the spec.

    Raises:
        TypeError: if they are not a floating-point tensor.
        ValueError: if their shape doesn't fit, or they hold NaN or infinity.
    """
    if not isinstance(positions, Tensor):
        raise TypeError(f"positions must be a tensor of shape (C, D); received {describe(positions)}.")
    if positions.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"positions must be float32 or float64; received {describe(positions)}. Convert with .float().")
    if dtype is not None and positions.dtype != dtype:
        raise TypeError(
            f"positions must be {dtype}, as the network's weights; received {positions.dtype}. Convert them."
        )
    if positions.ndim != 2 or 0 in positions.shape:
        raise ValueError(
            "positions must have shape (C, D) with at least one chain and one dimension; "
            f"received {tuple(positions.shape)}. A single position q goes in as q[None]."
        )
    if spec is not None and positions.shape[1] != spec.size:
        raise ValueError(
            f"positions must have D = {spec.size}, the number of the network's parameters; "
            f"received shape {tuple(positions.shape)}."
        )
    check_finite("positions", positions)
