"""The documented module `context_mod_layer`: gains and shifts that depend on a context."""

from hnbayes.layers.context_mod import ContextModLayer

__all__ = ["ContextModLayer"]
