"""ChunkedHyperNet: hypernetworks that generate weights chunk by chunk with one generator."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hnbayes._checks import check_count
from hnbayes.hnets.hypernet import Chunks, HyperNet, Inputs, target_spec
from hnbayes.mnets.layered import LayeredNet


class ChunkedHyperNet(HyperNet):
    """A hypernetwork with one generator for chunks of the flattened weights, each known by an embedding.

    The last chunk may reach beyond the weights; the rest of it is dropped.

    Args:
        target_shapes: shapes of the tensors to generate.
        inputs: sizes of inputs and sources of weights.
        generator: the generator, with chunk_size outputs.
        chunks: the chunk embeddings.
    """

    def __init__(
        self, target_shapes: Sequence[Sequence[int]], inputs: Inputs, generator: LayeredNet, chunks: Chunks
    ) -> None:
        super().__init__(target_shapes, inputs, [generator], [chunks])
        self._only = chunks
        self._mask_fc_out = False

    @property
    def num_chunks(self) -> int:
        """How many chunks there are."""
        return self._only.count

    @property
    def chunk_emb_size(self) -> int:
        """Size of a chunk's embedding."""
        return self._only.size

    @property
    def cond_chunk_embs(self) -> bool:
        """Whether every condition has chunk embeddings of its own."""
        return self._only.conditional

    def get_chunk_emb(self, chunk_id: int | None = None, cond_id: int | None = None) -> Tensor:
        """Chunk embeddings that the network has itself.

        Args:
            chunk_id: which; None for all.
            cond_id: the condition; needed if every condition has its own, else ignored.

        Returns:
            (chunk_emb_size,), or (num_chunks, chunk_emb_size) for all, the parameter itself.

        Raises:
            ValueError: if there is no such chunk or condition, or embeddings come from outside.
        """
        embeddings: nn.Parameter
        if self.cond_chunk_embs:
            embeddings = self._own_embedding(self._cond_chunk_embs, self._known("cond_id", cond_id))
        else:
            embeddings = self._own_embedding(self._chunk_embs, 0)
        if chunk_id is None:
            return embeddings
        if check_count("chunk_id", chunk_id, 0) >= self.num_chunks:
            raise ValueError(f"chunk_id must be below {self.num_chunks}, the number of chunks; received {chunk_id}.")
        return embeddings[chunk_id]


def plan_chunks(
    target_shapes: Sequence[Sequence[int]], chunk_size: int, chunk_emb_size: int, conditional: bool
) -> Chunks:
    """How many chunks of a size make up all weights, and their embeddings.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a size is below 1.
    """
    size = check_count("chunk_size", chunk_size)
    return Chunks(
        -(-target_spec(target_shapes).size // size), check_count("chunk_emb_size", chunk_emb_size), conditional
    )
