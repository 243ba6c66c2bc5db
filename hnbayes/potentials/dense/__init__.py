"""The gradient of dense networks' posteriors in compiled C, where a compiler is found."""

from hnbayes.potentials.dense.function import dense_function
from hnbayes.potentials.dense.parts import Loss, Normal, Parts

__all__ = ["Loss", "Normal", "Parts", "dense_function"]
