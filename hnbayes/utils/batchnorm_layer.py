"""The documented module `batchnorm_layer`: batch normalisation with free statistics."""

from hnbayes.layers.batchnorm import BatchNormLayer

__all__ = ["BatchNormLayer"]
