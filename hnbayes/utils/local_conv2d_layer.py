"""The documented module `local_conv2d_layer`: a convolution without shared weights."""

from hnbayes.layers.local_conv2d import LocalConv2dLayer

__all__ = ["LocalConv2dLayer"]
