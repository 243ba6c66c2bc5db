"""ResNetIN: the residual networks of He et al. for ImageNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hnbayes._checks import check_count
from hnbayes.mnets.classifier_interface import check_image_shape
from hnbayes.mnets.layered import LayerPlan, Pass
from hnbayes.mnets.mlp import announce
from hnbayes.mnets.options import BatchNormOptions, ContextModOptions
from hnbayes.mnets.registry import Config, Shape, flat_size, image_shape, register
from hnbayes.mnets.residual import (
    Block,
    ResidualNet,
    conv_plan,
    group_channels,
    out_plan,
    residual_blocks,
    size_after,
)

EXPANSION = 4


class ResNetIN(ResidualNet):
    """Residual networks of He et al. (2016), "Deep residual learning", table 1.

    A 7x7 convolution with stride 2, 3x3 maximum pooling with stride 2, four groups of blocks (all but the first group
    begin with stride 2), global average pooling, a fully connected layer. A block has two 3x3 convolutions, or with
    `bottleneck_blocks` a 1x1, a 3x3 (which has the stride, as in torchvision) and a 1x1 one with 4 times the channels.
    After each convolution: modulation, normalisation, ReLU.

    ResNet-18 is `use_bias=False, use_fc_bias=True, projection_shortcut=True`; with `blocks_per_group` (3, 4, 6, 3)
    ResNet-34, and with `bottleneck_blocks` too ResNet-50; (3, 4, 23, 3) and (3, 8, 36, 3) give ResNet-101 and -152.

    Args:
        in_shape: height, width and channels of inputs.
        num_classes: number of logits.
        use_bias: whether convolutions have biases.
        use_fc_bias: whether the last layer has; None takes `use_bias`.
        num_feature_maps: channels of the first convolution and of the four groups.
        blocks_per_group: blocks of each of the four groups.
        projection_shortcut: shortcuts between different sizes are 1x1 convolutions with normalisation; otherwise they
            take every second pixel and pad channels with zeros.
        bottleneck_blocks: which blocks.
        cutout_mod: for small images: the first convolution is 3x3 with stride 1, and there is no pooling.
        no_weights: whether all weights but gains and shifts come from outside.
        use_batch_norm: normalise after each convolution.
        bn_track_stats: track statistics; otherwise the batch's are used in evaluation mode too.
        distill_bn_stats: offer these statistics as `distillation_targets`.
        chw_input_format: whether inputs are (N, C, H, W).
        verbose: print the number of weights.
        **kwargs: context modulation, as for `MLP`, `context_mod_apply_pixel_wise`, `init_weights`, and
            `stride_first`: give the stride of a bottleneck block to its first convolution, as the paper does.

    Raises:
        TypeError: if a size is not an integer, or there is another keyword argument.
        ValueError: if a size is out of range, or options exclude one another.

    Example:
        >>> net = hnbayes.mnets.ResNetIN(
        ...     (16, 16, 3), 4, num_feature_maps=(2, 2, 3, 4, 4), blocks_per_group=(1, 1, 1, 1), verbose=False
        ... ).eval()
        >>> net(torch.randn(2, 16 * 16 * 3)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        in_shape: Sequence[int] = (224, 224, 3),
        num_classes: int = 1000,
        use_bias: bool = True,
        use_fc_bias: bool | None = None,
        num_feature_maps: Sequence[int] = (64, 64, 128, 256, 512),
        blocks_per_group: Sequence[int] = (2, 2, 2, 2),
        projection_shortcut: bool = False,
        bottleneck_blocks: bool = False,
        cutout_mod: bool = False,
        no_weights: bool = False,
        use_batch_norm: bool = True,
        bn_track_stats: bool = True,
        distill_bn_stats: bool = False,
        chw_input_format: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> None:
        init_weights = kwargs.pop("init_weights", None)
        self._stride_at = 0 if kwargs.pop("stride_first", not bottleneck_blocks) else 1
        options = ContextModOptions.from_kwargs("ResNetIN", kwargs)
        self._in_shape = check_image_shape(in_shape)
        self._channels_first = chw_input_format
        self._bottleneck = bottleneck_blocks
        self._small = cutout_mod
        channels = group_channels(num_feature_maps, 1, 5)
        if len(blocks_per_group) != 4:
            raise ValueError(f"blocks_per_group must be 4 numbers; received {len(blocks_per_group)}.")
        classes = check_count("num_classes", num_classes)
        C = self._in_shape[2]
        size = size_after(self._in_shape[:2], 1 if cutout_mod else 2)
        plans = [conv_plan("conv", C, channels[0], 3 if cutout_mod else 7, use_bias, options, size)]
        counts = [check_count("each entry of blocks_per_group", count) for count in blocks_per_group]
        pooled = size if cutout_mod else size_after(size, 2)
        blocks = residual_blocks(channels, counts, pooled, EXPANSION if bottleneck_blocks else 1)
        for block in blocks:
            for i, (n_in, n_out, kernel) in enumerate(self._convs(block)):
                inner = block.size if i >= self._stride_at else block.size_before
                plans.append(conv_plan(f"{block.name}.conv{i + 1}", n_in, n_out, kernel, use_bias, options, inner))
        plans.append(out_plan(classes, blocks[-1].out, use_bias if use_fc_bias is None else use_fc_bias))
        super().__init__(
            plans,
            projections=[
                LayerPlan(f"{block.name}.shortcut", (block.out, block.before, 1, 1), norm=block.out)
                for block in blocks
                if projection_shortcut and block.changes_shape
            ],
            inputs=options.map_shape(C, self._in_shape[:2]),
            no_weights=no_weights,
            init_weights=init_weights,
            norm=BatchNormOptions(use_batch_norm, bn_track_stats, distill_bn_stats),
            modulation=options,
        )
        self._blocks = blocks
        self._num_classes = classes
        announce(self, verbose)

    def _logits(self, h: Tensor, tensors: Pass) -> Tensor:
        h = self._conv("conv", h, tensors, 1 if self._small else 2)
        if not self._small:
            h = nn.functional.max_pool2d(h, 3, stride=2, padding=1)
        for block in self._blocks:
            name, stride = block.name, block.stride
            count = 3 if self._bottleneck else 2
            shortcut, inner = h, h
            for i in range(1, count):
                inner = self._conv(f"{name}.conv{i}", inner, tensors, stride if i - 1 == self._stride_at else 1)
            projection = tensors.layers.get(f"{name}.shortcut")
            if projection is not None:
                shortcut = nn.functional.conv2d(h, *projection, stride=stride)
                shortcut = self._normalise(f"{name}.shortcut", shortcut, tensors)
            h = self._conv(f"{name}.conv{count}", inner, tensors, shortcut=shortcut)
        h = nn.functional.linear(h.mean((2, 3)), *tensors.layers["out"])
        return self._modulate("out", h, tensors)

    def _convs(self, block: Block) -> list[tuple[int, int, int]]:
        """Channels before and after, and the kernel size, of a block's convolutions."""
        if self._bottleneck:
            return [(block.before, block.after, 1), (block.after, block.after, 3), (block.after, block.out, 1)]
        return [(block.before, block.after, 3), (block.after, block.after, 3)]


@register("iresnet")
def _build(config: Config, in_shape: Shape, out_shape: Shape, **kwargs: Any) -> ResNetIN:
    read: dict[str, Any] = {
        "in_shape": image_shape(in_shape),
        "num_classes": flat_size("out_shape", out_shape),
        "num_feature_maps": config.ints("iresnet_channel_sizes", "64,64,128,256,512"),
        "blocks_per_group": config.ints("iresnet_blocks_per_group", "2,2,2,2"),
        "projection_shortcut": config.get("iresnet_projection_shortcut", False),
        "bottleneck_blocks": config.get("iresnet_bottleneck_blocks", False),
        "use_bias": not config.get("no_bias", False),
        "use_fc_bias": config.get("iresnet_use_fc_bias", False),
        **config.batch_norm(),
    }
    return ResNetIN(**{**read, **kwargs})
