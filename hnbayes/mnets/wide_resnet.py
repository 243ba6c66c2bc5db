"""WRN: the wide residual network of Zagoruyko and Komodakis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_count
from hnbayes.mnets.classifier_interface import Classifier, check_image_shape
from hnbayes.mnets.layered import LayerPlan, Pass
from hnbayes.mnets.mlp import announce
from hnbayes.mnets.options import BatchNormOptions, ContextModOptions, check_dropout
from hnbayes.mnets.registry import Config, Shape, flat_size, image_shape, register
from hnbayes.mnets.residual import basic_plans, conv_plan, group_channels, out_plan, residual_blocks


class WRN(Classifier):
    """WRN-(6n+4)-k of Zagoruyko and Komodakis (2016), "Wide residual networks", with blocks B(3,3).

    A 3x3 convolution, three groups of n blocks (the second and third begin with stride 2), normalisation, ReLU, global
    average pooling, a fully connected layer. In a block normalisation and ReLU come before each convolution, dropout
    between the two. A shortcut is the block's input, through a 1x1 convolution without a bias where sizes differ.

    Args:
        in_shape: height, width and channels of inputs.
        num_classes: number of logits.
        n: blocks a group.
        k: widening factor of the three groups.
        num_feature_maps: channels of the first convolution and, before widening, of the three groups.
        use_bias: whether convolutions have biases.
        use_fc_bias: whether the last layer has; None takes `use_bias`.
        no_weights: whether all weights but gains and shifts come from outside.
        use_batch_norm: normalise before each activation.
        bn_track_stats: track statistics; otherwise the batch's are used in evaluation mode too.
        distill_bn_stats: offer these statistics as `distillation_targets`.
        dropout_rate: rate between the two convolutions of a block, -1 for none.
        chw_input_format: whether inputs are (N, C, H, W).
        verbose: print the number of weights.
        **kwargs: context modulation, as for `MLP`, `context_mod_apply_pixel_wise`, and `init_weights`.

    Raises:
        TypeError: if a size is not an integer, or there is another keyword argument.
        ValueError: if a size is out of range, or options exclude one another.

    Example:
        >>> net = hnbayes.mnets.WRN((8, 8, 3), 4, n=1, k=2, num_feature_maps=(2, 2, 3, 4), verbose=False).eval()
        >>> net(torch.randn(2, 8 * 8 * 3)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        in_shape: Sequence[int] = (32, 32, 3),
        num_classes: int = 10,
        n: int = 4,
        k: int = 10,
        num_feature_maps: Sequence[int] = (16, 16, 32, 64),
        use_bias: bool = True,
        use_fc_bias: bool | None = None,
        no_weights: bool = False,
        use_batch_norm: bool = True,
        bn_track_stats: bool = True,
        distill_bn_stats: bool = False,
        dropout_rate: float = -1,
        chw_input_format: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> None:
        init_weights = kwargs.pop("init_weights", None)
        options = ContextModOptions.from_kwargs("WRN", kwargs)
        rate = check_dropout(dropout_rate)
        self._in_shape = check_image_shape(in_shape)
        self._channels_first = chw_input_format
        channels = group_channels(num_feature_maps, check_count("k", k), 4)
        classes = check_count("num_classes", num_classes)
        H, W, C = self._in_shape
        blocks = residual_blocks(channels, [check_count("n", n)] * 3, (H, W))
        super().__init__(
            [
                conv_plan("conv", C, channels[0], 3, use_bias, options, (H, W)),
                *(plan for block in blocks for plan in basic_plans(block, use_bias, options)),
                out_plan(classes, channels[-1], use_bias if use_fc_bias is None else use_fc_bias),
            ],
            projections=[
                LayerPlan(f"{block.name}.shortcut", (block.out, block.before, 1, 1))
                for block in blocks
                if block.changes_shape
            ],
            inputs=options.map_shape(C, (H, W)),
            no_weights=no_weights,
            init_weights=init_weights,
            norm=BatchNormOptions(use_batch_norm, bn_track_stats, distill_bn_stats),
            modulation=options,
        )
        self._blocks = blocks
        self._num_classes = classes
        self._dropout = nn.Dropout(rate)
        announce(self, verbose)

    def _logits(self, h: Tensor, tensors: Pass) -> Tensor:
        h = nn.functional.conv2d(h, *tensors.layers["conv"], padding=1)
        last = "conv"
        for block in self._blocks:
            name, stride = block.name, block.stride
            active = self._activated(last, h, tensors, torch.relu)
            projection = tensors.layers.get(f"{name}.shortcut")
            shortcut = h if projection is None else nn.functional.conv2d(h, *projection, stride=stride)
            h = nn.functional.conv2d(active, *tensors.layers[f"{name}.conv1"], stride=stride, padding=1)
            h = self._activated(f"{name}.conv1", self._dropout(h), tensors, torch.relu)
            h = nn.functional.conv2d(h, *tensors.layers[f"{name}.conv2"], padding=1) + shortcut
            last = f"{name}.conv2"
        h = self._activated(last, h, tensors, torch.relu).mean((2, 3))
        return self._modulate("out", nn.functional.linear(h, *tensors.layers["out"]), tensors)


@register("wrn")
def _build(config: Config, in_shape: Shape, out_shape: Shape, **kwargs: Any) -> WRN:
    read: dict[str, Any] = {
        "in_shape": image_shape(in_shape),
        "num_classes": flat_size("out_shape", out_shape),
        "n": config.get("wrn_block_depth", 4),
        "k": config.get("wrn_widening_factor", 10),
        "use_bias": not config.get("no_bias", False),
        "use_fc_bias": config.get("wrn_use_fc_bias", False),
        "dropout_rate": config.get("dropout_rate", -1),
        **config.batch_norm(),
    }
    return WRN(**{**read, **kwargs})
