"""from_module: any torch.nn.Module as a main network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from hnbayes._checks import describe
from hnbayes.mnets.bookkeeping import Entry, ParamBook, Weights
from hnbayes.mnets.mnet_interface import MainNetInterface

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


class ModuleNet(nn.Module, MainNetInterface):
    """A module whose trainable parameters can also come from outside; see `from_module`.

    Args:
        module: the module, kept as it is, not copied.
        no_weights: whether all weights must be given to `forward`; the module's own are then never used.

    Example:
        >>> net = hnbayes.mnets.ModuleNet(torch.nn.Linear(2, 1), no_weights=True)
        >>> net(torch.ones(3, 2), weights=[torch.ones(1, 2), torch.zeros(1)]).flatten()
        tensor([2., 2., 2.])
    """

    def __init__(self, module: nn.Module, no_weights: bool = False) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module; received {describe(module)}.")
        owners = dict(module.named_modules())
        found = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not found:
            raise ValueError(f"{type(module).__name__} must have at least one parameter with requires_grad=True.")
        self._names = [name for name, _ in found]
        # With no_weights the module is no submodule, so that its parameters are neither trained nor stored.
        self._module = [module] if no_weights else module
        entries = []
        layers: dict[str, int] = {}
        for name, p in found:
            where, _, attribute = name.rpartition(".")
            owner: nn.Module = _Outside(attribute) if no_weights else owners[where]
            number = layers.setdefault(where, len(layers))
            entries.append(Entry(tuple(p.shape), _kind(owners[where], attribute, p), number, owner, attribute))
        self._book = ParamBook(entries, {"internal_weights": range(len(entries)), "mod_weights": ()})
        last = owners[self._names[-1].rpartition(".")[0]]
        self._has_bias = any(entry.kind == "bias" for entry in entries)
        self._has_fc_out = self._mask_fc_out = isinstance(last, nn.Linear)
        self._has_linear_out = isinstance(last, nn.Linear) and list(module.modules())[-1] is last

    def distillation_targets(self) -> None:
        """None: there is nothing to distil."""
        return

    def forward(
        self,
        x: Tensor,
        weights: Weights = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: Any = None,
    ) -> Any:
        """Apply the module.

        Args:
            x: its input.
            weights: see `MainNetInterface.forward`.
            distilled_params: must be None.
            condition: must be None.

        Returns:
            What the module returns.

        Raises:
            ValueError: if weights are missing, shapes don't fit, or there is a condition.
        """
        if distilled_params is not None or condition is not None:
            raise ValueError("a plain module takes neither distilled_params nor a condition; received one.")
        module = self._module[0] if isinstance(self._module, list) else self._module
        tensors = self._book.tensors(weights)
        return functional_call(module, dict(zip(self._names, tensors, strict=True)), (x,))


class _Outside(nn.Module):
    """The place of a tensor that comes from outside."""

    def __init__(self, attribute: str) -> None:
        super().__init__()
        self.register_parameter(attribute, None)


def from_module(module: nn.Module, no_weights: bool = False) -> ModuleNet:
    """Make a main network of any module: its trainable parameters, in `named_parameters` order, may come from outside.

    Args:
        module: the module; it is kept, not copied, and never changed by a forward pass with given weights.
        no_weights: whether all weights must be given to `forward`.

    Returns:
        The network.

    Raises:
        TypeError: if it is no module.
        ValueError: if it has no trainable parameter.

    Example:
        >>> module = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        >>> net = hnbayes.mnets.from_module(module)
        >>> hnet = hnbayes.hnets.HMLP(net.param_shapes, layers=(5,), num_cond_embs=2, verbose=False)
        >>> net(torch.ones(3, 2), weights=hnet(cond_id=0)).shape
        torch.Size([3, 1])
    """
    return ModuleNet(module, no_weights)


def _kind(owner: nn.Module, attribute: str, p: Tensor) -> str | None:
    if isinstance(owner, NORMS):
        return {"weight": "bn_scale", "bias": "bn_shift"}.get(attribute)
    if isinstance(owner, nn.Embedding):
        return "embedding"
    return "weight" if p.ndim > 1 else "bias" if "bias" in attribute else None
