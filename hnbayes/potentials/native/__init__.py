"""Compiled C: how it is made, and what is written in it."""

from hnbayes.potentials.native.compiler import compiled, library
from hnbayes.potentials.native.point import Point, PointArrays

__all__ = ["Point", "PointArrays", "compiled", "library"]
