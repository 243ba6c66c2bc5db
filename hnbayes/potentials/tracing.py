"""What a function does to tensors, as a graph: by our recorder, or by torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch._decomp import get_decompositions
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from hnbayes.potentials.recorder import UnrecordableError, recorded


def traced(function: Callable[..., Any], *arguments: Tensor, decomposed: Sequence[Any] = ()) -> GraphModule:
    """What a function does to tensors like these, as a graph of plain operations without those that lead nowhere.

    Args:
        function: of tensors.
        *arguments: the tensors.
        decomposed: operations for which the graph is to hold what torch describes them by.
    """
    try:
        return traced_by_recorder(function, *arguments, decomposed=decomposed)
    except UnrecordableError:
        return traced_by_torch(function, *arguments, decomposed=decomposed)


def traced_by_recorder(function: Callable[..., Any], *arguments: Tensor, decomposed: Sequence[Any] = ()) -> GraphModule:
    """As `traced`, by our recorder alone.

    Raises:
        UnrecordableError: if it can't record the function.
    """
    return _tidied(recorded(function, arguments, _table(decomposed)))


def traced_by_torch(function: Callable[..., Any], *arguments: Tensor, decomposed: Sequence[Any] = ()) -> GraphModule:
    """As `traced`, by torch's `make_fx`, which knows more kinds of tensors, and imports a compiler for seconds."""
    # Of a function of its own, as a function's default arguments would be counted too.
    return _tidied(make_fx(lambda *tensors: function(*tensors), decomposition_table=_table(decomposed))(*arguments))


def _table(decomposed: Sequence[Any]) -> Any:
    return get_decompositions(decomposed) if decomposed else {}


def _tidied(graph: GraphModule) -> GraphModule:
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
