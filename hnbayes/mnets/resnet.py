"""ResNet: the residual network of He et al. for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hnbayes._checks import check_count
from hnbayes.mnets.classifier_interface import check_image_shape
from hnbayes.mnets.layered import Pass
from hnbayes.mnets.mlp import announce
from hnbayes.mnets.options import BatchNormOptions, ContextModOptions
from hnbayes.mnets.registry import Config, Shape, flat_size, image_shape, register
from hnbayes.mnets.residual import ResidualNet, basic_plans, conv_plan, group_channels, out_plan, residual_blocks


class ResNet(ResidualNet):
    """The 6n + 2 layer residual network of He et al. (2016), "Deep residual learning", section 4.2.

    A 3x3 convolution, three groups of n blocks of two 3x3 convolutions (the second and third begin with stride 2),
    global average pooling, a fully connected layer. Shortcuts have no parameters: they take every second pixel and pad
    channels with zeros (option A). After each convolution: modulation, batch normalisation, ReLU.

    Args:
        in_shape: height, width and channels of inputs.
        num_classes: number of logits.
        use_bias: whether layers have biases, the last included.
        num_feature_maps: channels of the first convolution and of the three groups.
        verbose: print the number of weights.
        n: blocks a group.
        k: widening factor of the three groups.
        no_weights: whether all weights but gains and shifts come from outside.
        init_weights: values for the network's own parameters, copied.
        use_batch_norm: normalise after each convolution.
        bn_track_stats: track statistics; otherwise the batch's are used in evaluation mode too.
        distill_bn_stats: offer these statistics as `distillation_targets`.
        context_mod_apply_pixel_wise: one gain and shift a pixel instead of a feature map.
        **kwargs: context modulation, as for `MLP`.

    Raises:
        TypeError: if a size is not an integer, or there is another keyword argument.
        ValueError: if a size is out of range, or options exclude one another.

    Example:
        >>> net = hnbayes.mnets.ResNet((8, 8, 3), 4, num_feature_maps=(2, 2, 3, 4), n=1, verbose=False).eval()
        >>> net(torch.randn(2, 8 * 8 * 3)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        in_shape: Sequence[int] = (32, 32, 3),
        num_classes: int = 10,
        use_bias: bool = True,
        num_feature_maps: Sequence[int] = (16, 16, 32, 64),
        verbose: bool = True,
        n: int = 5,
        k: int = 1,
        no_weights: bool = False,
        init_weights: Sequence[Tensor] | None = None,
        use_batch_norm: bool = True,
        bn_track_stats: bool = True,
        distill_bn_stats: bool = False,
        context_mod_apply_pixel_wise: bool = False,
        **kwargs: Any,
    ) -> None:
        options = ContextModOptions.from_kwargs(
            "ResNet", {**kwargs, "context_mod_apply_pixel_wise": context_mod_apply_pixel_wise}
        )
        self._in_shape = check_image_shape(in_shape)
        channels = group_channels(num_feature_maps, check_count("k", k), 4)
        classes = check_count("num_classes", num_classes)
        H, W, C = self._in_shape
        blocks = residual_blocks(channels, [check_count("n", n)] * 3, (H, W))
        super().__init__(
            [
                conv_plan("conv", C, channels[0], 3, use_bias, options, (H, W)),
                *(plan for block in blocks for plan in basic_plans(block, use_bias, options)),
                out_plan(classes, channels[-1], use_bias),
            ],
            inputs=options.map_shape(C, (H, W)),
            no_weights=no_weights,
            init_weights=init_weights,
            norm=BatchNormOptions(use_batch_norm, bn_track_stats, distill_bn_stats),
            modulation=options,
        )
        self._blocks = blocks
        self._num_classes = classes
        self._has_bias = use_bias
        announce(self, verbose)

    def _logits(self, h: Tensor, tensors: Pass) -> Tensor:
        h = self._conv("conv", h, tensors)
        for block in self._blocks:
            shortcut = h
            h = self._conv(f"{block.name}.conv1", h, tensors, block.stride)
            h = self._conv(f"{block.name}.conv2", h, tensors, shortcut=shortcut)
        h = nn.functional.linear(h.mean((2, 3)), *tensors.layers["out"])
        return self._modulate("out", h, tensors)


@register("resnet")
def _build(config: Config, in_shape: Shape, out_shape: Shape, **kwargs: Any) -> ResNet:
    read: dict[str, Any] = {
        "in_shape": image_shape(in_shape),
        "num_classes": flat_size("out_shape", out_shape),
        "n": config.get("resnet_block_depth", 5),
        "num_feature_maps": config.ints("resnet_channel_sizes", "16,16,32,64"),
        "use_bias": not config.get("no_bias", False),
        **config.batch_norm(),
    }
    return ResNet(**{**read, **kwargs})
