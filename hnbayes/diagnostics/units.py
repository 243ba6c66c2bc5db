"""Dead ReLU units: hidden units that are 0 for every input, so that the likelihood no longer moves their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from hnbayes.diagnostics.samples import Array


def dead_units(net: nn.Module, params: Mapping[str, Tensor], X: Tensor, *, max_draws: int = 50) -> dict[str, Array]:
    """Which units of the network's `nn.ReLU` (and `nn.ReLU6`) modules are 0 for every row of X, in which draws.

    A unit that is dead in every draw of a chain has followed its prior there, not the data. `functional.relu` can't be
    seen from outside and is not counted.

    Args:
        net: the module; neither its parameters nor its mode are changed.
        params: draws by parameter name, each (C, S, *shape), as of `Draws.params()`. Those that are no parameters of
            the network are left alone.
        X: inputs (N, ...), the data best.
        max_draws: how many draws of each chain are looked at, evenly spaced: one forward pass each.

    Returns:
        Name of the ReLU -> (C, at most max_draws, units), true where the unit is dead. The units of a convolution (N,
        channels, height, width) are its channels, those of other outputs their last dimension. Empty where the
        network has no such module.

    Raises:
        ValueError: if no parameter of the network is among `params`.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> bias = torch.tensor([0.0, -100.0]).expand(1, 3, 2)  # 1 chain, 3 draws: the second unit is off
        >>> params = {"0.weight": torch.ones(1, 3, 2, 1), "0.bias": bias}
        >>> dead = hnbayes.diagnostics.dead_units(net, params, torch.linspace(-1, 1, 5)[:, None])
        >>> dead["1"].mean((0, 1))
        array([0., 1.])
    """
    import torch
    from torch import nn

    names = [name for name, _ in net.named_parameters() if name in params]
    if not names:
        raise ValueError(
            f"params must hold parameters of the network: {', '.join(dict(net.named_parameters()))}; received "
            f"{', '.join(params) or 'none'}. Use the draws of this network."
        )
    relus = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.ReLU | nn.ReLU6)]
    if not relus:
        return {}
    chains, draws = params[names[0]].shape[:2]
    kept = np.unique(np.linspace(0, draws - 1, min(max_draws, draws)).round().astype(int))
    dead: dict[str, list[Tensor]] = {}
    seen: dict[str, int] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[name] = seen.get(name, 0) + 1  # one module may serve several layers
            units = output.movedim(1, -1) if output.ndim == 4 else output
            call = name if seen[name] == 1 else f"{name} (use {seen[name]})"
            dead.setdefault(call, []).append((units.reshape(-1, units.shape[-1]) <= 0).all(0).cpu())

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in relus]
    try:
        with torch.no_grad():
            for chain in range(chains):
                for draw in kept.tolist():
                    seen.clear()
                    torch.func.functional_call(net, {name: params[name][chain, draw] for name in names}, (X,))
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.stack(found).numpy().reshape(chains, len(kept), -1) for name, found in dead.items()}
