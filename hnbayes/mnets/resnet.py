"""ResNet: the residual network of He et al. for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hnbayes._checks import check_count
from hnbayes.mnets.bookkeeping import Weights
from hnbayes.mnets.classifier_interface import Classifier, as_images, check_image_shape
from hnbayes.mnets.layered import INPUTS, LayerPlan, Pass
from hnbayes.mnets.mlp import announce
from hnbayes.mnets.options import BatchNormOptions, ContextModOptions
from hnbayes.mnets.registry import Config, Shape, flat_size, image_shape, register


class ResNet(Classifier):
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
        plans = [conv_plan("conv", C, channels[0], 3, use_bias, options, (H, W))]
        before = channels[0]
        self._strides: dict[str, int] = {}
        for group, after in enumerate(channels[1:]):
            for block in range(check_count("n", n)):
                name = f"group{group + 1}.{block}"
                stride = self._strides[name] = 2 if group > 0 and block == 0 else 1
                H, W = -(-H // stride), -(-W // stride)
                plans.append(conv_plan(f"{name}.conv1", before, after, 3, use_bias, options, (H, W)))
                plans.append(conv_plan(f"{name}.conv2", after, after, 3, use_bias, options, (H, W)))
                before = after
        plans.append(LayerPlan("out", (classes, before), (classes,) if use_bias else None, modulated=(classes,)))
        super().__init__(
            plans,
            inputs=map_shape(self._in_shape[2], self._in_shape[:2], options),
            no_weights=no_weights,
            init_weights=init_weights,
            norm=BatchNormOptions(use_batch_norm, bn_track_stats, distill_bn_stats),
            modulation=options,
        )
        self._num_classes = classes
        self._has_bias = use_bias
        announce(self, verbose)

    def forward(
        self,
        x: Tensor,
        weights: Weights = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: Any = None,
    ) -> Tensor:
        """Compute logits.

        Args:
            x: flattened images (N, H W C), or (N, H, W, C).
            weights: see `MainNetInterface.forward`.
            distilled_params: statistics for batch normalisation.
            condition: the statistics to use, or a dict with the keys `bn_stats_id` and `cmod_ckpt_id`.

        Returns:
            Logits (N, num_classes).

        Raises:
            TypeError: if x is no floating-point tensor.
            ValueError: if shapes don't fit, or weights are missing.
        """
        tensors = self._begin(weights, distilled_params, condition)
        h = self._modulate(INPUTS, as_images(x, self._in_shape), tensors)
        h = self._conv("conv", h, tensors)
        for name, stride in self._strides.items():
            shortcut = h
            h = self._conv(f"{name}.conv1", h, tensors, stride)
            h = self._conv(f"{name}.conv2", h, tensors, shortcut=shortcut)
        h = nn.functional.linear(h.mean((2, 3)), *tensors.layers["out"])
        return self._modulate("out", h, tensors)

    def _conv(self, name: str, h: Tensor, tensors: Pass, stride: int = 1, shortcut: Tensor | None = None) -> Tensor:
        """Convolution, modulation, normalisation, the shortcut where there is one, ReLU."""
        after = self._modulation.post_activation
        h = nn.functional.conv2d(h, *tensors.layers[name], stride=stride, padding=1)
        h = h if after else self._modulate(name, h, tensors)
        h = self._normalise(name, h, tensors)
        if shortcut is not None:
            h = h + identity_shortcut(shortcut, h)
        return self._modulate(name, h.relu(), tensors) if after else h.relu()


def identity_shortcut(x: Tensor, like: Tensor) -> Tensor:
    """Option A of He et al. (2016), section 3.3: subsampled pixels, channels padded with zeros (or dropped).

    Zeros come on both sides of the channels of x.
    """
    stride = -(-x.shape[2] // like.shape[2])
    x = x[:, :, ::stride, ::stride]
    missing = like.shape[1] - x.shape[1]
    return nn.functional.pad(x, (0, 0, 0, 0, missing // 2, missing - missing // 2))


def map_shape(channels: int, size: tuple[int, int], options: ContextModOptions) -> tuple[int, ...]:
    """The shape of gains and shifts of feature maps."""
    return (channels, *size) if options.pixel_wise else (channels, 1, 1)


def conv_plan(
    name: str, before: int, after: int, kernel: int, bias: bool, options: ContextModOptions, size: tuple[int, int]
) -> LayerPlan:
    """A normalised and modulated convolution whose output has this height and width."""
    shape = (after, before, kernel, kernel)
    return LayerPlan(name, shape, (after,) if bias else None, norm=after, modulated=map_shape(after, size, options))


def group_channels(num_feature_maps: Sequence[int], k: int, count: int) -> list[int]:
    """Channels of the first convolution and of the groups, these k times as many, checked."""
    if len(num_feature_maps) != count:
        raise ValueError(f"num_feature_maps must be {count} numbers; received {len(num_feature_maps)}.")
    first, *groups = (check_count("each entry of num_feature_maps", n) for n in num_feature_maps)
    return [first, *(k * n for n in groups)]


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
