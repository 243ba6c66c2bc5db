"""Captured graphs of small potentials as compiled C, where a compiler is found."""

from hnbayes.potentials.translated.function import translated_function

__all__ = ["translated_function"]
