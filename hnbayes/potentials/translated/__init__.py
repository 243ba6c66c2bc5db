"""Captured graphs of small potentials as compiled C, where a compiler is found."""

from hnbayes.potentials.translated.function import WORTH_COMPILING, translated_function

__all__ = ["WORTH_COMPILING", "translated_function"]
