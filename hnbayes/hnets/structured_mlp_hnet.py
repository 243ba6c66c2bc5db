"""StructuredHMLP: several multilayer perceptrons that generate the parts of a network's weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hnbayes._checks import check_count
from hnbayes.hnets.hypernet import Chunks, HyperNet, Inputs
from hnbayes.hnets.mlp_hnet import HMLP, announce
from hnbayes.hnets.registry import perceptron, register
from hnbayes.mnets.registry import Config
from hnbayes.params import ParamSpec

Assembly = Callable[[list[list[Tensor]]], Sequence[Tensor]]
FIXED = ("uncond_in_size", "cond_in_size", "no_uncond_weights", "no_cond_weights", "num_cond_embs")


class StructuredHMLP(HyperNet):
    """A hypernetwork made of HMLPs, one for each kind of chunk, whose chunks are assembled to the target's tensors.

    Args:
        target_shapes: shapes of the tensors to generate.
        chunk_shapes: for each kind of chunk the shapes of its tensors.
        num_per_chunk: how many chunks of each kind there are.
        chunk_emb_sizes: sizes of the chunk embeddings of each kind, or one size for all; may be 0 where there is one
            chunk of a kind.
        hmlp_kwargs: keyword arguments of `HMLP` for each kind of chunk, or one dict for all.
        assembly_fct: takes the chunks of one sample, a list of lists of tensors (all chunks of the first kind, then of
            the second, ...), to a list of tensors of `target_shapes`.
        cond_chunk_embs: whether every condition has chunk embeddings of its own.
        uncond_in_size: see `HMLP`, as for the other arguments.
        cond_in_size: may be 0, as may `uncond_in_size`.
        verbose: print the number of weights.
        no_uncond_weights: whether unconditional weights come from outside.
        no_cond_weights: whether conditional ones do.
        num_cond_embs: how many conditions there are.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if lists differ in length, a number is out of range, or chunks don't make up the target.

    Example:
        >>> def together(chunks):
        ...     return [tensor for chunk in chunks for tensor in chunk]
        >>> layers = [[[4, 3], [4]], [[2, 4], [2]]]  # a chunk for each layer of a network
        >>> hnet = hnbayes.hnets.StructuredHMLP(
        ...     layers[0] + layers[1],
        ...     chunk_shapes=layers,
        ...     num_per_chunk=[1, 1],
        ...     chunk_emb_sizes=[2, 0],
        ...     hmlp_kwargs={"layers": (5,)},
        ...     assembly_fct=together,
        ...     verbose=False,
        ... )
        >>> [tuple(w.shape) for w in hnet(cond_id=0)]
        [(4, 3), (4,), (2, 4), (2,)]
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        chunk_shapes: Sequence[Sequence[Sequence[int]]],
        num_per_chunk: Sequence[int],
        chunk_emb_sizes: int | Sequence[int],
        hmlp_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        assembly_fct: Assembly,
        cond_chunk_embs: bool = False,
        uncond_in_size: int = 0,
        cond_in_size: int = 8,
        verbose: bool = True,
        no_uncond_weights: bool = False,
        no_cond_weights: bool = False,
        num_cond_embs: int = 1,
    ) -> None:
        inputs = Inputs(uncond_in_size, cond_in_size, no_uncond_weights, no_cond_weights, num_cond_embs)
        kinds = len(chunk_shapes)
        counts = _expanded("num_per_chunk", num_per_chunk, kinds)
        sizes = _expanded("chunk_emb_sizes", chunk_emb_sizes, kinds)
        options = _expanded("hmlp_kwargs", hmlp_kwargs, kinds)
        hnets, chunks = [], []
        for shapes, count, size, kwargs in zip(chunk_shapes, counts, sizes, options, strict=True):
            check_count("each entry of num_per_chunk", count)
            if check_count("each entry of chunk_emb_sizes", size, 0) == 0 and count > 1:
                raise ValueError(f"{count} chunks of one kind need embeddings; received a chunk_emb_size of 0.")
            chunks.append(Chunks(count, size, cond_chunk_embs) if size else None)
            hnets.append(_chunk_hnet(shapes, inputs, size, kwargs))
        super().__init__(target_shapes, inputs, [hnet._generators[0] for hnet in hnets], chunks)  # type: ignore[misc]
        # A list, not a module list: the generators inside are registered already.
        self._hnets = hnets
        self._counts = list(counts)
        self._assembly = assembly_fct
        self._specs = [ParamSpec(tuple(map(str, range(len(s)))), tuple(map(tuple, s))) for s in chunk_shapes]
        self._mask_fc_out = False
        self._check_assembly()
        announce(self, verbose)

    @property
    def num_chunks(self) -> int:
        """How many chunks there are, of all kinds."""
        return sum(self._counts)

    @property
    def chunk_emb_shapes(self) -> list[list[int]]:
        """Shapes of the chunk embeddings of the kinds that have any."""
        return [[chunks.count, chunks.size] for chunks in self._chunks if chunks is not None]

    @property
    def cond_chunk_embs(self) -> bool:
        """Whether every condition has chunk embeddings of its own."""
        return any(chunks is not None and chunks.conditional for chunks in self._chunks)

    @property
    def internal_hnets(self) -> list[HMLP]:
        """The hypernetworks that generate the chunks, one a kind."""
        return list(self._hnets)

    def get_chunk_embs(self, cond_id: int | None = None) -> list[Tensor]:
        """Chunk embeddings that the network has itself.

        Args:
            cond_id: the condition; needed if every condition has its own, else ignored.

        Returns:
            Tensors of `chunk_emb_shapes`, the parameters themselves.

        Raises:
            ValueError: if the condition is unknown, or embeddings come from outside.
        """
        kinds = len(self.chunk_emb_shapes)
        if not self.cond_chunk_embs:
            return [self._own_embedding(self._chunk_embs, i) for i in range(kinds)]
        known = self._known("cond_id", cond_id)
        return [self._own_embedding(self._cond_chunk_embs, known * kinds + i) for i in range(kinds)]

    def _assemble(self, generated: Sequence[Tensor]) -> Tensor:
        return torch.stack([self._assemble_one(sample) for sample in zip(*generated, strict=True)])

    def _assemble_one(self, parts: Sequence[Tensor]) -> Tensor:
        """The flat weights of one sample from what each generator made, (chunks, size)."""
        chunks = [
            list(spec.unflatten(row).values()) for spec, part in zip(self._specs, parts, strict=True) for row in part
        ]
        return self._target.flatten(list(self._assembly(chunks)))

    def _check_assembly(self) -> None:
        zeros = [torch.zeros(count, spec.size) for count, spec in zip(self._counts, self._specs, strict=True)]
        try:
            self._assemble_one(zeros)
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            raise ValueError(
                f"assembly_fct must make tensors of shapes {self.target_shapes} from the chunks; it failed: {error}"
            ) from error


def _chunk_hnet(shapes: Sequence[Sequence[int]], inputs: Inputs, size: int, kwargs: Mapping[str, Any]) -> HMLP:
    """The hypernetwork of one kind of chunk: its inputs, chunk embeddings among them, come from outside."""
    fixed = [name for name in FIXED if name in kwargs]
    if fixed:
        raise ValueError(f"hmlp_kwargs must not hold {', '.join(fixed)}: arguments of StructuredHMLP set them.")
    return HMLP(
        shapes,
        uncond_in_size=inputs.uncond + size,
        cond_in_size=inputs.cond,
        no_uncond_weights=inputs.no_uncond_weights,
        no_cond_weights=True,
        num_cond_embs=0,
        **{"verbose": False, **kwargs},
    )


def _expanded(name: str, value: Any, count: int) -> list[Any]:
    """A list of `count` entries, from such a list or one entry for all."""
    if isinstance(value, (int, Mapping)):
        return list(itertools.repeat(value, count))
    if len(value) != count:
        raise ValueError(f"{name} must have {count} entries, as chunk_shapes; received {len(value)}.")
    return list(value)


@register("structured_hmlp")
def _build(
    config: Config, target_shapes: Sequence[Sequence[int]], shared: dict[str, Any], chunks: tuple[Any, Any, Any]
) -> StructuredHMLP:
    shapes, counts, assembly = chunks
    if shapes is None or counts is None or assembly is None:
        raise ValueError(
            "a structured hypernetwork needs shmlp_chunk_shapes, shmlp_num_per_chunk and shmlp_assembly_fct; "
            "received None for at least one of them."
        )
    sizes = config.ints("chunk_emb_size", "8")
    return StructuredHMLP(
        target_shapes,
        shapes,
        counts,
        sizes[0] if len(sizes) == 1 else sizes,
        perceptron(config),
        assembly,
        cond_chunk_embs=config.get("use_cond_chunk_embs", False),
        **shared,
    )
