"""Layers whose weights may come from outside, and their initialisation."""

from hnbayes.layers.batchnorm import BatchNormLayer
from hnbayes.layers.context_mod import ContextModLayer
from hnbayes.layers.init import calc_fan_in_and_out, init_params, xavier_fan_in_
from hnbayes.layers.local_conv2d import LocalConv2dLayer
from hnbayes.layers.self_attention import SelfAttnLayer, SelfAttnLayerV2

__all__ = [
    "BatchNormLayer",
    "ContextModLayer",
    "LocalConv2dLayer",
    "SelfAttnLayer",
    "SelfAttnLayerV2",
    "calc_fan_in_and_out",
    "init_params",
    "xavier_fan_in_",
]
