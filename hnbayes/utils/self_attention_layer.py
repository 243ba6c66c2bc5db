"""The documented module `self_attention_layer`: attention between the pixels of feature maps."""

from hnbayes.layers.self_attention import SelfAttnLayer, SelfAttnLayerV2

__all__ = ["SelfAttnLayer", "SelfAttnLayerV2"]
