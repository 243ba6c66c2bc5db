"""A network, a hypernetwork or a caller's function as a function of parameters and inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from hnbayes._checks import describe
from hnbayes.laplace.squares import Forward


@dataclass(frozen=True)
class Network:
    """What `compute_fisher` differentiates through.

    Attributes:
        mnet: the main network, or any module.
        hnet: a hypernetwork that gives its weights, or None.
        task_id: the condition of the hypernetwork.
        custom: a caller's forward function, or None.
        pass_ids: whether that function takes the data handler and identifiers too.
        data: the data handler.
        outputs: indices of the outputs that count, or None for all.
        dim: along which samples stand in an output, 0 or 1.
    """

    mnet: nn.Module
    hnet: nn.Module | None = None
    task_id: Any = None
    custom: Callable[..., Tensor] | None = None
    pass_ids: bool = False
    data: Any = None
    outputs: Sequence[int] | None = None
    dim: int = 0

    def forward(self, params: Sequence[Tensor]) -> Forward:
        """The function (parameters, inputs, identifiers) -> outputs, samples along the first dimension.

        Args:
            params: the parameters as the caller gave them, by which those of a plain module are recognised.
        """
        names = self._names(params) if self._is_plain() else []

        def run(params: Sequence[Tensor], x: Tensor, ids: Any) -> Tensor:
            output = self._output(list(params), names, x, ids)
            if not isinstance(output, Tensor):
                raise TypeError(
                    f"the network must return one tensor; received {describe(output)}. A custom_forward can choose one."
                )
            return self._select(output).movedim(self.dim, 0)

        return run

    def _is_plain(self) -> bool:
        return self.custom is None and self.hnet is None and not hasattr(self.mnet, "param_shapes")

    def _output(self, params: list[Tensor], names: list[str], x: Tensor, ids: Any) -> Any:
        if self.custom is not None:
            of_task = [] if self.hnet is None else [self.hnet, self.task_id]
            return self.custom(self.mnet, *of_task, params, x, *([self.data, ids] if self.pass_ids else []))
        if self.hnet is not None:
            weights = self.hnet.forward(cond_id=self.task_id, weights={"uncond_weights": params})
            return self.mnet.forward(x, weights=weights)
        if names:
            return functional_call(self.mnet, dict(zip(names, params, strict=True)), (x,))
        return self.mnet.forward(x, weights=params)

    def _select(self, output: Tensor) -> Tensor:
        if self.outputs is None:
            return output
        size = output.shape[-1]
        if max(self.outputs) >= size:
            raise ValueError(
                f"allowed_outputs must be indices of the {size} outputs; received {describe(list(self.outputs))}."
            )
        return output[..., list(self.outputs)]

    def _names(self, params: Sequence[Tensor]) -> list[str]:
        """Names of a module's parameters: by identity, else by their order.

        Raises:
            ValueError: if they are neither its own nor of its parameters' shapes.
        """
        own = list(self.mnet.named_parameters())
        by_identity = {id(p): name for name, p in own}
        if all(id(p) in by_identity for p in params):
            return [by_identity[id(p)] for p in params]
        for candidates in ([pair for pair in own if pair[1].requires_grad], own):
            if [p.shape for _, p in candidates] == [p.shape for p in params]:
                return [name for name, _ in candidates]
        raise ValueError(
            f"params must be parameters of {type(self.mnet).__name__}, or tensors of the shapes of all of them in "
            f"named_parameters order, {[tuple(p.shape) for _, p in own]}; received {[tuple(p.shape) for p in params]}."
        )


@contextlib.contextmanager
def evaluation_mode(*modules: nn.Module | None) -> Iterator[None]:
    """Evaluation mode for the while; afterwards each submodule has the mode it had."""
    modes = [(part, part.training) for module in modules if module is not None for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, training in modes:
            part.training = training
