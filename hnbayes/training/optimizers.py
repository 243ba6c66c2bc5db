"""get_optimizer: one of torch's optimisers, with options per group of parameters; a schedule of its learning rate."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import SGD, Adadelta, Adagrad, Adam, Optimizer, RMSprop

from hnbayes._checks import check_count, describe

Setting = float | Sequence[float]


def get_optimizer(
    params: Iterable[Tensor],
    lr: Setting,
    momentum: Setting = 0,
    weight_decay: Setting = 0,
    use_adam: bool = False,
    adam_beta1: Setting = 0.9,
    use_rmsprop: bool = False,
    use_adadelta: bool = False,
    use_adagrad: bool = False,
    pgroup_ids: Sequence[int] | None = None,
) -> Optimizer:
    """A torch optimiser: SGD unless another is chosen.

    Args:
        params: the parameters.
        lr: learning rate.
        momentum: of SGD and RMSprop; the others don't take it.
        weight_decay: L2 penalty.
        use_adam: choose Adam.
        adam_beta1: first decay rate of Adam; the second is 0.999.
        use_rmsprop: choose RMSprop.
        use_adadelta: choose Adadelta.
        use_adagrad: choose Adagrad.
        pgroup_ids: the group of each parameter, from 0. `lr`, `momentum`, `weight_decay` and `adam_beta1` may then be
            lists with an entry a group.

    Returns:
        The optimiser, with one parameter group, or as many as `pgroup_ids` names, in their order.

    Raises:
        TypeError: if a group's number is not an integer, or a setting not a number.
        ValueError: if several optimisers are chosen, there are no parameters, or lists don't fit.

    Example:
        >>> from hnbayes.utils.torch_utils import get_optimizer
        >>> net = torch.nn.Linear(2, 1)
        >>> optimizer = get_optimizer(net.parameters(), lr=[0.1, 0.01], use_adam=True, pgroup_ids=[0, 1])
        >>> type(optimizer).__name__, [group["lr"] for group in optimizer.param_groups]
        ('Adam', [0.1, 0.01])
    """
    chosen = {Adam: use_adam, RMSprop: use_rmsprop, Adadelta: use_adadelta, Adagrad: use_adagrad}
    classes: list[Callable[..., Optimizer]] = [cls for cls, wanted in chosen.items() if wanted]
    if len(classes) > 1:
        names = " and ".join(cls.__name__ for cls, wanted in chosen.items() if wanted)
        raise ValueError(f"at most one optimiser can be chosen; received {names}.")
    make: Callable[..., Optimizer] = classes[0] if classes else SGD
    params = list(params)
    if not params:
        raise ValueError("params must hold at least one parameter; received none.")
    groups = _groups(params, pgroup_ids)
    settings = {"lr": lr, "weight_decay": weight_decay}
    if make in (SGD, RMSprop):
        settings["momentum"] = momentum
    if make is Adam:
        settings["betas"] = adam_beta1
    per_group = {
        name: _per_group("adam_beta1" if name == "betas" else name, value, len(groups), pgroup_ids is not None)
        for name, value in settings.items()
    }
    options: list[dict[str, Any]] = [
        {name: values[at] for name, values in per_group.items()} for at in range(len(groups))
    ]
    for option in options:
        if "betas" in option:
            option["betas"] = (option["betas"], 0.999)
    return make([{"params": group, **option} for group, option in zip(groups, options, strict=True)], **options[0])


def lambda_lr_schedule(epoch: int) -> float:
    """The factor of a learning rate that falls in steps, for `torch.optim.lr_scheduler.LambdaLR`.

    The steps are those of the Keras ResNet example for CIFAR-10: 1, then 1e-1, 1e-2, 1e-3 and 0.5e-3 after epochs 80,
    120, 160 and 180.

    Args:
        epoch: epochs so far, at least 0.

    Returns:
        The factor.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is negative.

    Example:
        >>> from hnbayes.utils.torch_utils import lambda_lr_schedule
        >>> [lambda_lr_schedule(epoch) for epoch in (0, 100, 200)]
        [1.0, 0.1, 0.0005]
    """
    epoch = check_count("epoch", epoch, 0)
    for last, factor in ((180, 0.5e-3), (160, 1e-3), (120, 1e-2), (80, 1e-1)):
        if epoch > last:
            return factor
    return 1.0


def _groups(params: list[Tensor], ids: Sequence[int] | None) -> list[list[Tensor]]:
    if ids is None:
        return [params]
    if len(ids) != len(params):
        raise ValueError(f"pgroup_ids must have an entry a parameter, {len(params)}; received {len(ids)}.")
    numbered = [check_count("each entry of pgroup_ids", i, 0) for i in ids]
    count = max(numbered) + 1
    if set(numbered) != set(range(count)):
        missing = sorted(set(range(count)) - set(numbered))
        raise ValueError(f"pgroup_ids must use every group from 0 to {count - 1}; received none in {missing}.")
    return [[p for p, i in zip(params, numbered, strict=True) if i == group] for group in range(count)]


def _per_group(name: str, value: Any, count: int, grouped: bool) -> list[float]:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * count
    if isinstance(value, (list, tuple)) and not grouped:
        raise ValueError(f"{name} may be a list only where pgroup_ids are given; received {describe(value)}.")
    if len(values) != count:
        raise ValueError(f"{name} must be a number or have an entry a group, {count}; received {describe(value)}.")
    for entry in values:
        if isinstance(entry, bool) or not isinstance(entry, (numbers.Real, Tensor)):
            raise TypeError(f"{name} must be a number, or a list of them; received {describe(value)}.")
        if not isinstance(entry, Tensor) and not math.isfinite(entry):
            raise ValueError(f"{name} must be finite; received {describe(value)}.")
    return values
