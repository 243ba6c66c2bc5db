"""LeNet: two convolutional and two fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_choice, check_count
from hnbayes.mnets.classifier_interface import Classifier, check_image_shape
from hnbayes.mnets.layered import LayerPlan, Pass
from hnbayes.mnets.mlp import announce
from hnbayes.mnets.options import ContextModOptions, check_dropout
from hnbayes.mnets.registry import Config, Shape, flat_size, image_shape, register

# Channels of the two convolutions, units of the hidden fully connected layer.
ARCHITECTURES = {"mnist_small": (10, 20, 50), "mnist_large": (20, 50, 500), "cifar": (192, 192, 1000)}
KERNEL = 5


class LeNet(Classifier):
    """A modern LeNet (after LeCun et al. 1998): conv 5x5, pool 2, ReLU, twice; a hidden layer, ReLU; logits.

    Modulation comes after pooling, and after the linear computation of the last two layers.

    Args:
        in_shape: height, width and channels of inputs.
        num_classes: number of logits.
        verbose: print the number of weights.
        arch: "mnist_small" (21,840 weights on MNIST), "mnist_large" (431,080) or "cifar" (5,747,394 on CIFAR-10).
        no_weights: whether all weights but gains and shifts come from outside.
        init_weights: values for the network's own parameters, copied.
        dropout_rate: rate after convolutions (before pooling) and after the hidden layer's activation, -1 for none.
        **kwargs: context modulation, as for `MLP`, and `context_mod_apply_pixel_wise`.

    Raises:
        TypeError: if a size is not an integer, or there is another keyword argument.
        ValueError: if a size or a choice is out of range.

    Example:
        >>> net = hnbayes.mnets.LeNet((28, 28, 1), num_classes=10, arch="mnist_small", verbose=False)
        >>> net.num_params
        21840
        >>> net(torch.randn(2, 28 * 28)).shape
        torch.Size([2, 10])
    """

    _plain_condition = "cmod_ckpt_id"

    def __init__(
        self,
        in_shape: Sequence[int] = (28, 28, 1),
        num_classes: int = 10,
        verbose: bool = True,
        arch: str = "mnist_large",
        no_weights: bool = False,
        init_weights: Sequence[Tensor] | None = None,
        dropout_rate: float = -1,
        **kwargs: Any,
    ) -> None:
        check_choice("arch", arch, tuple(ARCHITECTURES))
        first, second, hidden = ARCHITECTURES[arch]
        H, W, C = self._in_shape = check_image_shape(in_shape)
        options = ContextModOptions.from_kwargs("LeNet", kwargs)
        rate = check_dropout(dropout_rate)
        maps: list[tuple[int, int]] = []
        for _ in range(2):
            H, W = (H - KERNEL + 1) // 2, (W - KERNEL + 1) // 2
            maps.append((H, W))
        if min(H, W) < 1:
            raise ValueError(f"in_shape must be at least 16 pixels high and wide; received {tuple(in_shape)}.")
        classes = check_count("num_classes", num_classes)
        super().__init__(
            [
                LayerPlan("conv1", (first, C, KERNEL, KERNEL), (first,), modulated=options.map_shape(first, maps[0])),
                LayerPlan(
                    "conv2", (second, first, KERNEL, KERNEL), (second,), modulated=options.map_shape(second, maps[1])
                ),
                LayerPlan("hidden", (hidden, second * H * W), (hidden,), modulated=(hidden,)),
                LayerPlan("out", (classes, hidden), (classes,), modulated=(classes,)),
            ],
            inputs=options.map_shape(C, self._in_shape[:2]),
            no_weights=no_weights,
            init_weights=init_weights,
            modulation=options,
        )
        self._num_classes = classes
        self._dropout = nn.Dropout(rate)
        announce(self, verbose)

    def _logits(self, h: Tensor, tensors: Pass) -> Tensor:
        for name in ("conv1", "conv2"):
            h = nn.functional.conv2d(h, *tensors.layers[name])
            h = self._activated(name, nn.functional.max_pool2d(self._dropout(h), 2), tensors, torch.relu)
        h = nn.functional.linear(h.flatten(1), *tensors.layers["hidden"])
        h = self._activated("hidden", h, tensors, torch.relu)
        h = nn.functional.linear(self._dropout(h), *tensors.layers["out"])
        return self._modulate("out", h, tensors)


@register("lenet")
def _build(config: Config, in_shape: Shape, out_shape: Shape, **kwargs: Any) -> LeNet:
    read: dict[str, Any] = {
        "in_shape": image_shape(in_shape),
        "num_classes": flat_size("out_shape", out_shape),
        "arch": config.get("lenet_type", "mnist_small"),
        "dropout_rate": config.get("dropout_rate", -1),
    }
    return LeNet(**{**read, **kwargs})
