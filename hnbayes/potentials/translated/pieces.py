"""Pieces: which C stands for an operation that isn't done number by number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hnbayes.potentials.translated import indexing, parts, products, reductions
from hnbayes.potentials.translated.operations import aten, prims
from hnbayes.potentials.translated.values import Access

# Each takes the translation and the node.
PIECES: dict[Any, Callable[[Any, Any], Access]] = {
    aten.sum.default: reductions.reduction("sum"),
    aten.sum.dim_IntList: reductions.reduction("sum"),
    prims.sum.default: reductions.reduction("sum"),
    prims.prod.default: reductions.reduction("prod"),
    aten.var.correction: reductions.variance,
    prims.var.default: reductions.variance,
    aten.std.correction: reductions.deviation,
    aten.embedding_dense_backward.default: indexing.embedding_backward,
    aten.amax.default: reductions.reduction("amax"),
    aten.amin.default: reductions.reduction("amin"),
    aten.prod.default: reductions.reduction("prod"),
    aten.prod.dim_int: reductions.reduction("prod"),
    aten.mm.default: products.mm,
    aten.bmm.default: products.mm,
    aten.mv.default: products.mv,
    aten.dot.default: products.dot,
    aten.vdot.default: products.dot,
    aten.cat.default: parts.cat,
    aten.slice_backward.default: parts.into("0", aten.slice.Tensor),
    aten.select_backward.default: parts.into("0", aten.select.int),
    aten.diagonal_backward.default: parts.into("0", aten.diagonal.default),
    aten.slice_scatter.default: parts.into(None, aten.slice.Tensor),
    aten.select_scatter.default: parts.into(None, aten.select.int),
    aten.diagonal_scatter.default: parts.into(None, aten.diagonal.default),
    aten.constant_pad_nd.default: parts.pad,
    aten.index.Tensor: indexing.index,
    aten.gather.default: indexing.gather,
    aten.index_put.default: indexing.index_put,
    aten._unsafe_index_put.default: indexing.index_put,
    aten._unsafe_index.Tensor: indexing.index,
    aten.scatter_add.default: indexing.scatter,
    aten.scatter.src: indexing.scatter,
    aten.scatter.value: indexing.scatter,
    aten.cumsum.default: reductions.cumsum,
    aten.flip.default: parts.flip,
}
