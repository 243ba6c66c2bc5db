"""Regularisers that keep a hypernetwork's outputs for earlier tasks (von Oswald et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_count, describe
from hnbayes.hnets.hnet_interface import HyperNetInterface
from hnbayes.mnets.mnet_interface import MainNetInterface

Tensors = Sequence[Tensor]


def calc_fix_target_reg(
    hnet: HyperNetInterface,
    task_id: int,
    targets: Sequence[Any] | None = None,
    dTheta: Tensors | None = None,
    dTembs: Tensors | None = None,
    mnet: MainNetInterface | None = None,
    inds_of_out_heads: Sequence[Sequence[int]] | None = None,
    fisher_estimates: Sequence[Tensors] | None = None,
    prev_theta: Tensors | None = None,
    prev_task_embs: Tensors | None = None,
    batch_size: int | None = None,
    reg_scaling: Sequence[float] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""How far a hypernetwork has moved from its outputs for earlier tasks.

    von Oswald et al. (2020), "Continual learning with hypernetworks", eq. 2, for the T = `task_id` tasks before:

    \[\frac{1}{T} \sum_{j < T} s_j \sum_i F_{ji} \left(w^*_{ji} - h_i(c_j + \Delta c_j, \theta + \Delta\theta)
    \right)^2\]

    with targets \(w^*\), and \(s = F = 1\) where these aren't given. All tasks go through the hypernetwork at once.

    Args:
        hnet: h.
        task_id: T, the number of the present task.
        targets: T sets of weights, in a format of `hnet.forward`; not detached.
        dTheta: \(\Delta\theta\), one tensor for each of `hnet.unconditional_params`; not detached.
        dTembs: \(\Delta c\), one tensor for each of the first of `hnet.conditional_params`, at least T; not detached.
        mnet: the main network; needed with `inds_of_out_heads`.
        inds_of_out_heads: for each earlier task its output units; weights that lead to others don't count.
        fisher_estimates: F, for each earlier task one tensor a weight tensor.
        prev_theta: instead of `targets` the unconditional weights before the present task, from which targets are
            made in evaluation mode, without gradients.
        prev_task_embs: with `prev_theta`, the conditional weights before the present task.
        batch_size: take a random part of that many tasks; None, 0 or less, or T and more, takes all.
        reg_scaling: s, one factor a task.
        generator: the source of that choice; None takes torch's global one.

    Returns:
        A number, shape ().

    Raises:
        TypeError: if `task_id` is not an integer.
        ValueError: if there is no earlier task, targets are missing or given twice, or a list is too short or holds
            tensors of other shapes.

    Example:
        >>> hnet = hnbayes.hnets.HMLP([[4, 3], [4]], layers=(5,), num_cond_embs=2, verbose=False)
        >>> targets = hnbayes.hnets.get_current_targets(1, hnet)  # before the second task
        >>> hnbayes.hnets.calc_fix_target_reg(hnet, 1, targets=targets).item()
        0.0
        >>> with torch.no_grad():
        ...     hnet.unconditional_params[0] += 0.5
        >>> penalty = hnbayes.hnets.calc_fix_target_reg(hnet, 1, targets=targets)
        >>> bool(penalty > 0)  # to be added to the second task's loss
        True
    """
    if check_count("task_id", task_id, 0) == 0:
        raise ValueError("task_id must be at least 1: before the first task there is nothing to keep; received 0.")
    if hnet.num_known_conds < task_id:
        raise ValueError(f"hnet must know {task_id} conditions, one a task before; it knows {hnet.num_known_conds}.")
    tasks = _choose(task_id, batch_size, generator)
    wanted = _targets(hnet, task_id, tasks, targets, prev_theta, prev_task_embs)
    predicted = _predicted(hnet, task_id, tasks, dTheta, dTembs)
    weights: Tensor | None = None
    if fisher_estimates is not None:
        _check_length("fisher_estimates", fisher_estimates, task_id)
        weights = torch.stack([hnet._target.flatten(list(fisher_estimates[j])) for j in tasks])
    if inds_of_out_heads is not None:
        if mnet is None:
            raise ValueError("mnet must be given with inds_of_out_heads, to find the weights of heads; received None.")
        _check_length("inds_of_out_heads", inds_of_out_heads, task_id)
        kept = torch.stack([_kept(mnet, hnet.target_shapes, inds_of_out_heads[j], wanted.device) for j in tasks])
        weights = kept if weights is None else weights * kept
    if reg_scaling is not None:
        _check_length("reg_scaling", reg_scaling, task_id)
        scaling = torch.as_tensor([float(reg_scaling[j]) for j in tasks]).to(predicted).unsqueeze(1)
        weights = scaling if weights is None else weights * scaling
    if weights is None:
        # The common case in one fused pass: with many weights, each further array costs as much as the network itself.
        return nn.functional.mse_loss(predicted, wanted, reduction="sum") / len(tasks)
    return (weights * (predicted - wanted).square()).sum() / len(tasks)


def get_current_targets(task_id: int, hnet: HyperNetInterface) -> list[list[Tensor]]:
    """The hypernetwork's present outputs for all tasks before one.

    Args:
        task_id: the number of the present task, T.
        hnet: the hypernetwork, evaluated in evaluation mode and left in the mode it was in.

    Returns:
        T lists of tensors, without a graph; none for T = 0.

    Raises:
        TypeError: if `task_id` is not an integer.
        ValueError: if the hypernetwork knows fewer conditions.

    Example:
        >>> hnet = hnbayes.hnets.HMLP([[4, 3], [4]], layers=(5,), num_cond_embs=3, verbose=False)
        >>> targets = hnbayes.hnets.get_current_targets(2, hnet)
        >>> len(targets), targets[0][0].shape
        (2, torch.Size([4, 3]))
    """
    if check_count("task_id", task_id, 0) == 0:
        return []
    with torch.no_grad(), evaluating(hnet):
        made: Tensor = hnet.forward(cond_id=list(range(task_id)), ret_format="flattened")
    # Views of one array, which the regulariser takes as it is (`_array_of`).
    outputs: list[list[Tensor]] = hnet.convert_out_format(made.contiguous(), "flattened", "sequential")
    return outputs


def flatten_and_remove_out_heads(mnet: MainNetInterface, weights: Tensors, allowed_outputs: Sequence[int]) -> Tensor:
    """The weights of a main network as one vector, without those that lead to other output units.

    Args:
        mnet: the main network.
        weights: tensors of its `param_shapes` or `hyper_shapes_learned`.
        allowed_outputs: the output units whose weights stay.

    Returns:
        A vector of the weights that stay, in their order.

    Raises:
        ValueError: if shapes don't fit, or a unit doesn't exist.

    Example:
        >>> net = hnbayes.mnets.MLP(n_in=2, n_out=4, hidden_layers=(3,), verbose=False)
        >>> kept = hnbayes.hnets.flatten_and_remove_out_heads(net, list(net.weights), [0, 1])
        >>> net.num_params, len(kept)  # those of units 2 and 3 have gone, 3 + 1 each
        (25, 17)
    """
    kept = _kept(mnet, [list(w.shape) for w in weights], allowed_outputs, weights[0].device)
    flat: Tensor = MainNetInterface.flatten_params(weights)
    return flat[kept]


@contextmanager
def evaluating(net: Any) -> Iterator[None]:
    """Every module of a network in evaluation mode, and afterwards in its own again."""
    modules = list(net.modules()) if isinstance(net, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        if modules:
            modules[0].eval()
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _choose(task_id: int, batch_size: int | None, generator: torch.Generator | None) -> list[int]:
    """The tasks whose outputs are compared."""
    if batch_size is None or batch_size <= 0 or batch_size >= task_id:
        return list(range(task_id))
    device = "cpu" if generator is None else generator.device
    chosen = torch.randperm(task_id, generator=generator, device=device)[:batch_size]
    return sorted(chosen.tolist())


def _predicted(
    hnet: HyperNetInterface, task_id: int, tasks: Sequence[int], dTheta: Tensors | None, dTembs: Tensors | None
) -> Tensor:
    weights: dict[str, Any] = {}
    if dTheta is not None:
        weights["uncond_weights"] = hnet.add_to_uncond_params(dTheta)
    if dTembs is not None:
        embeddings: list[Tensor] = list(hnet.conditional_params or [])
        if not task_id <= len(dTembs) <= len(embeddings):
            raise ValueError(
                f"dTembs must be {task_id} to {len(embeddings)} tensors, one an embedding from the first on; "
                f"received {len(dTembs)}."
            )
        for i, change in enumerate(dTembs):
            if change.shape != embeddings[i].shape:
                raise ValueError(
                    f"dTembs must have the embeddings' shapes; received {tuple(change.shape)} for "
                    f"{tuple(embeddings[i].shape)}."
                )
            embeddings[i] = embeddings[i] + change
        weights["cond_weights"] = embeddings
    predicted: Tensor = hnet.forward(cond_id=list(tasks), weights=weights or None, ret_format="flattened")
    return predicted


def _targets(
    hnet: HyperNetInterface,
    task_id: int,
    tasks: Sequence[int],
    targets: Sequence[Any] | None,
    prev_theta: Tensors | None,
    prev_task_embs: Tensors | None,
) -> Tensor:
    """The weights to keep, (len(tasks), num_outputs)."""
    on_the_fly = prev_theta is not None and prev_task_embs is not None
    if (targets is None) != on_the_fly or (prev_theta is None) != (prev_task_embs is None):
        raise ValueError(
            "either targets, or prev_theta and prev_task_embs, must be given; received targets: "
            f"{targets is not None}, prev_theta: {prev_theta is not None}, embeddings: {prev_task_embs is not None}."
        )
    if targets is not None:
        _check_length("targets", targets, task_id)
        array = _array_of(hnet, targets)
        if array is not None:
            return array if len(tasks) == len(array) else array[list(tasks)]
        parts = [part for j in tasks for part in _flat_parts(hnet, targets[j])]
        return torch.cat(parts).reshape(len(tasks), -1)
    if prev_task_embs is None:
        raise ValueError("prev_task_embs must be given with prev_theta; received None.")
    previous = list(prev_task_embs)
    if len(previous) < task_id:
        raise ValueError(f"prev_task_embs must be at least {task_id} tensors; received {len(previous)}.")
    # Embeddings of later tasks play no part, but the network wants its whole list.
    previous += list(hnet.conditional_params or [])[len(previous) :]
    weights = {"uncond_weights": list(prev_theta or ()), "cond_weights": previous}
    with torch.no_grad(), evaluating(hnet):
        made: Tensor = hnet.forward(cond_id=list(tasks), weights=weights, ret_format="flattened")
    return made


def _array_of(hnet: HyperNetInterface, targets: Sequence[Any]) -> Tensor | None:
    """The array (len(targets), num_outputs) whose parts the targets are, one behind another; None if they aren't.

    Putting a hundred tensors together anew at each training step would cost a sixth of the regulariser of 20 tasks.
    """
    if any(isinstance(target, Tensor) for target in targets):
        return None
    tensors = [tensor for target in targets for tensor in target]
    whole = tensors[0]._base if tensors else None
    count = len(targets)
    shapes, sizes = hnet._target.shapes * count, hnet._target.sizes * count
    if whole is None or not whole.is_contiguous() or whole.numel() != sum(sizes) or len(tensors) != len(shapes):
        return None
    at = whole.storage_offset()
    for tensor, shape, size in zip(tensors, shapes, sizes, strict=True):
        is_next = tensor._base is whole and tensor.storage_offset() == at and tensor.shape == shape
        if not is_next or tensor.requires_grad or not tensor.is_contiguous():
            return None
        at += size
    return whole.reshape(count, -1)


def _flat_parts(hnet: HyperNetInterface, target: Any) -> list[Tensor]:
    """The tensors of a target, each flattened."""
    shapes = hnet.target_shapes
    if isinstance(target, Tensor):
        if target.numel() != hnet.num_outputs:
            raise ValueError(f"each target must hold {hnet.num_outputs} numbers; received {describe(target)}.")
        return [target.reshape(-1)]
    received = [list(tensor.shape) for tensor in target]
    if received != shapes:
        raise ValueError(f"each target must be tensors of shapes {shapes}; received {received}.")
    return [tensor.reshape(-1) for tensor in target]


def _kept(
    mnet: MainNetInterface, shapes: Sequence[Sequence[int]], outputs: Sequence[int], device: torch.device
) -> Tensor:
    """Which of the flattened weights stay when only these output units count, boolean (D,)."""
    masks = mnet.get_output_weight_mask(out_inds=outputs, device=device)
    learned = mnet.hyper_shapes_learned_ref or ()
    wanted = [list(shape) for shape in shapes]
    for indices in (range(len(masks)), learned):
        if [mnet.param_shapes[i] for i in indices] == wanted:
            chosen = [(masks[i], mnet.param_shapes[i]) for i in indices]
            break
    else:
        raise ValueError(
            f"weights must have the shapes of mnet.param_shapes or mnet.hyper_shapes_learned; received {wanted}."
        )
    whole = [torch.ones(shape, dtype=torch.bool, device=device) if m is None else m for m, shape in chosen]
    return torch.cat([mask.flatten() for mask in whole])


def _check_length(name: str, values: Sequence[Any], task_id: int) -> None:
    if len(values) < task_id:
        raise ValueError(f"{name} must have {task_id} entries, one a task before; received {len(values)}.")
