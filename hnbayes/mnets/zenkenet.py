"""ZenkeNet: the convolutional network of Zenke, Poole and Ganguli for split CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hnbayes._checks import check_choice, check_count
from hnbayes.mnets.classifier_interface import Classifier, check_image_shape
from hnbayes.mnets.layered import LayerPlan, Pass
from hnbayes.mnets.mlp import announce
from hnbayes.mnets.options import check_dropout
from hnbayes.mnets.registry import Config, Shape, flat_size, image_shape, register


class ZenkeNet(Classifier):
    """Zenke et al. (2017), "Continual learning through synaptic intelligence", appendix.

    Two convolutions and pooling, twice, then two fully connected layers. Convolutions are 3x3 with 32, 32, 64 and 64
    channels, the first of each pair padded by 1, all followed by a ReLU; the hidden layer has 512 units.

    Args:
        in_shape: height, width and channels of inputs.
        num_classes: number of logits.
        verbose: print the number of weights.
        arch: "cifar".
        no_weights: whether all weights come from outside.
        init_weights: values for the network's own parameters, copied.
        dropout_rate: rate after each pooled pair of convolutions, and twice that after the hidden layer; -1 for none.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a size or a choice is out of range.

    Example:
        >>> net = hnbayes.mnets.ZenkeNet((10, 10, 1), 3, verbose=False).eval()
        >>> net(torch.randn(2, 100)).shape
        torch.Size([2, 3])
    """

    _CONVS = ("conv1", "conv2", "conv3", "conv4")

    def __init__(
        self,
        in_shape: Sequence[int] = (32, 32, 3),
        num_classes: int = 10,
        verbose: bool = True,
        arch: str = "cifar",
        no_weights: bool = False,
        init_weights: Sequence[Tensor] | None = None,
        dropout_rate: float = 0.25,
    ) -> None:
        check_choice("arch", arch, ("cifar",))
        rate = check_dropout(dropout_rate)
        if 2 * rate >= 1:
            raise ValueError(f"dropout_rate must be below 0.5, as the hidden layer's is twice it; received {rate}.")
        H, W, C = self._in_shape = check_image_shape(in_shape)
        for _ in range(2):
            H, W = (H - 2) // 2, (W - 2) // 2
        if min(H, W) < 1:
            raise ValueError(f"in_shape must be at least 10 pixels high and wide; received {tuple(in_shape)}.")
        channels = (C, 32, 32, 64, 64)
        classes = check_count("num_classes", num_classes)
        convs = [
            LayerPlan(name, (after, before, 3, 3), (after,))
            for name, before, after in zip(self._CONVS, channels, channels[1:], strict=False)
        ]
        dense = [LayerPlan("hidden", (512, 64 * H * W), (512,)), LayerPlan("out", (classes, 512), (classes,))]
        super().__init__([*convs, *dense], no_weights=no_weights, init_weights=init_weights)
        self._num_classes = classes
        self._dropout = nn.Dropout(rate)
        self._hidden_dropout = nn.Dropout(2 * rate)
        announce(self, verbose)

    def _logits(self, h: Tensor, tensors: Pass) -> Tensor:
        for i, name in enumerate(self._CONVS):
            h = nn.functional.conv2d(h, *tensors.layers[name], padding=(i + 1) % 2).relu()
            if i % 2:
                h = nn.functional.max_pool2d(self._dropout(h), 2)
        h = nn.functional.linear(h.flatten(1), *tensors.layers["hidden"]).relu()
        return nn.functional.linear(self._hidden_dropout(h), *tensors.layers["out"])


@register("zenke")
def _build(config: Config, in_shape: Shape, out_shape: Shape, **kwargs: Any) -> ZenkeNet:
    read: dict[str, Any] = {
        "in_shape": image_shape(in_shape),
        "num_classes": flat_size("out_shape", out_shape),
        "dropout_rate": config.get("dropout_rate", 0.25),
    }
    return ZenkeNet(**{**read, **kwargs})
