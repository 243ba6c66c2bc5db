"""Residual networks: what those for CIFAR, the wide ones and those for ImageNet share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from hnbayes._checks import check_count
from hnbayes.mnets.classifier_interface import Classifier
from hnbayes.mnets.layered import LayerPlan, Pass
from hnbayes.mnets.options import ContextModOptions

Size = tuple[int, int]


@dataclass(frozen=True)
class Block:
    """One residual block.

    Attributes:
        name: what the names of its layers begin with.
        before: channels of its input.
        after: channels of its convolutions.
        out: channels of its output.
        stride: 2 where it halves height and width, else 1.
        size_before: height and width of its input.
        size: height and width of its output.
    """

    name: str
    before: int
    after: int
    out: int
    stride: int
    size_before: Size
    size: Size

    @property
    def changes_shape(self) -> bool:
        """Whether its output has another shape than its input, so that a shortcut can't be the input itself."""
        return self.stride != 1 or self.before != self.out


class ResidualNet(Classifier):
    """A classifier of residual blocks, in each of which a shortcut is added before the last activation."""

    def _conv(self, name: str, h: Tensor, tensors: Pass, stride: int = 1, shortcut: Tensor | None = None) -> Tensor:
        """Convolution, modulation, normalisation, the shortcut where there is one, ReLU."""
        weight, bias = tensors.layers[name]
        h = nn.functional.conv2d(h, weight, bias, stride=stride, padding=weight.shape[-1] // 2)

        def end(h: Tensor) -> Tensor:
            return h.relu() if shortcut is None else (h + identity_shortcut(shortcut, h)).relu()

        return self._activated(name, h, tensors, end)


def residual_blocks(channels: Sequence[int], counts: Sequence[int], size: Size, expansion: int = 1) -> list[Block]:
    """Groups of blocks, all but the first group of which begin with stride 2.

    Args:
        channels: of the first convolution, and of each group's convolutions.
        counts: blocks of each group.
        size: height and width of what enters the first block.
        expansion: how many times a block's output has the channels of its group.
    """
    blocks: list[Block] = []
    before = channels[0]
    for group, (after, count) in enumerate(zip(channels[1:], counts, strict=True)):
        for number in range(count):
            stride = 2 if group > 0 and number == 0 else 1
            smaller = size_after(size, stride)
            out = expansion * after
            blocks.append(Block(f"group{group + 1}.{number}", before, after, out, stride, size, smaller))
            before, size = out, smaller
    return blocks


def basic_plans(block: Block, use_bias: bool, options: ContextModOptions) -> list[LayerPlan]:
    """The two 3x3 convolutions of a block without a bottleneck."""
    return [
        conv_plan(f"{block.name}.conv1", block.before, block.after, 3, use_bias, options, block.size),
        conv_plan(f"{block.name}.conv2", block.after, block.after, 3, use_bias, options, block.size),
    ]


def conv_plan(
    name: str, before: int, after: int, kernel: int, bias: bool, options: ContextModOptions, size: Size
) -> LayerPlan:
    """A normalised and modulated convolution whose output has this height and width."""
    shape = (after, before, kernel, kernel)
    return LayerPlan(name, shape, (after,) if bias else None, norm=after, modulated=options.map_shape(after, size))


def out_plan(classes: int, before: int, bias: bool) -> LayerPlan:
    """The fully connected layer behind the global average."""
    return LayerPlan("out", (classes, before), (classes,) if bias else None, modulated=(classes,))


def group_channels(num_feature_maps: Sequence[int], k: int, count: int) -> list[int]:
    """Channels of the first convolution and of the groups, these k times as many, checked."""
    if len(num_feature_maps) != count:
        raise ValueError(f"num_feature_maps must be {count} numbers; received {len(num_feature_maps)}.")
    first, *groups = (check_count("each entry of num_feature_maps", n) for n in num_feature_maps)
    return [first, *(k * n for n in groups)]


def size_after(size: Size, stride: int) -> Size:
    """Height and width behind a padded convolution with this stride."""
    return -(-size[0] // stride), -(-size[1] // stride)


def identity_shortcut(x: Tensor, like: Tensor) -> Tensor:
    """Option A of He et al. (2016), section 3.3: subsampled pixels, channels padded with zeros (or dropped).

    Zeros come on both sides of the channels of x, which is returned as it is where its shape fits.
    """
    if x.shape == like.shape:
        return x
    stride = -(-x.shape[2] // like.shape[2])
    x = x[:, :, ::stride, ::stride]
    missing = like.shape[1] - x.shape[1]
    return nn.functional.pad(x, (0, 0, 0, 0, missing // 2, missing - missing // 2))
