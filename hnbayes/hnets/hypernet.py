"""HyperNet: what the hypernetworks share: inputs, embeddings, batches of conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from hnbayes._checks import check_choice, check_count, describe
from hnbayes.hnets.hnet_interface import FORMATS, HyperNetInterface
from hnbayes.mnets.bookkeeping import Entry, ParamBook, Weights
from hnbayes.mnets.layered import LayeredNet
from hnbayes.mnets.stored import take_up
from hnbayes.params import ParamSpec


@dataclass(frozen=True)
class Inputs:
    """Sizes of a hypernetwork's inputs, and where embeddings and weights come from.

    Attributes:
        uncond: size of unconditional inputs.
        cond: size of conditional inputs.
        no_uncond_weights: whether unconditional weights come from outside.
        no_cond_weights: whether conditional weights do.
        conditions: how many conditions there are.
    """

    uncond: int
    cond: int
    no_uncond_weights: bool
    no_cond_weights: bool
    conditions: int

    def __post_init__(self) -> None:
        check_count("uncond_in_size", self.uncond, 0)
        check_count("cond_in_size", self.cond, 0)
        check_count("num_cond_embs", self.conditions, 0)

    @property
    def size(self) -> int:
        """Size of both together."""
        return self.uncond + self.cond

    def check_any(self) -> None:
        """Raise ValueError if there are none."""
        if self.size == 0:
            raise ValueError("a hypernetwork needs inputs; received uncond_in_size=0 and cond_in_size=0.")


@dataclass(frozen=True)
class Chunks:
    """The chunk embeddings of one generator: how many, how long, and whether there is a set for each condition."""

    count: int
    size: int
    conditional: bool


class Embeddings(nn.Module):
    """A numbered list of embeddings, or the places where they would be if they come from outside."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], external: bool) -> None:
        super().__init__()
        for i, shape in enumerate(shapes):
            self.register_parameter(str(i), None if external else nn.Parameter(torch.randn(shape)))


class HyperNet(nn.Module, HyperNetInterface):
    """A hypernetwork that feeds generators with inputs and, where they make chunks, chunk embeddings.

    A generator sees unconditional inputs, a chunk embedding and conditional inputs, in this order, and is applied to
    all chunks of all samples at once. The parameters come in the order: generators, unconditional chunk embeddings;
    embeddings of conditions, conditional chunk embeddings.

    Args:
        target_shapes: shapes of the tensors to generate.
        inputs: sizes of inputs and sources of weights.
        generators: the generators.
        chunks: the chunk embeddings of each generator; None for one that has none and makes one chunk.
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        inputs: Inputs,
        generators: Sequence[LayeredNet],
        chunks: Sequence[Chunks | None],
    ) -> None:
        super().__init__()
        self._target = target_spec(target_shapes)
        self._inputs = inputs
        self._chunks = tuple(chunks)
        self._num_conds = inputs.conditions
        self._generators = nn.ModuleList(generators)
        shared = [(c.count, c.size) for c in chunks if c is not None and not c.conditional]
        conditional = [(c.count, c.size) for c in chunks if c is not None and c.conditional]
        known = inputs.conditions
        self._chunk_embs = Embeddings(shared, inputs.no_uncond_weights)
        self._cond_embs = Embeddings([(inputs.cond,)] * known if inputs.cond else [], inputs.no_cond_weights)
        self._cond_chunk_embs = Embeddings(conditional * known, inputs.no_cond_weights)
        self._book = self._make_book(shared, conditional)

    def distillation_targets(self) -> None:
        """None: a hypernetwork has nothing to distil."""
        return

    def forward(  # type: ignore[override]  # noqa: D102 - described by the interface
        self,
        uncond_input: Tensor | None = None,
        cond_input: Tensor | None = None,
        cond_id: int | Sequence[int] | None = None,
        weights: Weights = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: Any = None,
        ret_format: str = "squeezed",
    ) -> Any:
        check_choice("ret_format", ret_format, FORMATS)
        if distilled_params is not None:
            raise ValueError("a hypernetwork takes no distilled_params; received some.")
        chunk_embs = None
        if isinstance(weights, Mapping) and "chunk_embs" in weights:
            chunk_embs = weights["chunk_embs"]
            weights = {name: value for name, value in weights.items() if name != "chunk_embs"} or None
        tensors = self._book.partial(weights)
        absent = [self._book.shapes[i] for i in self._book.groups["uncond_weights"] if tensors[i] is None]
        if absent:
            raise ValueError(f"weights must hold the unconditional ones, {absent}; received {describe(weights)}.")
        conditional = [tensors[i] for i in self._book.groups["cond_weights"]]
        ids = self._ids(cond_id)
        if ids is not None and chunk_embs is not None:
            raise ValueError("chunk embeddings come by cond_id or by weights['chunk_embs']; received both.")
        features = self._features(uncond_input, cond_input, ids, conditional)
        sets = self._chunk_sets(tensors, conditional, ids, chunk_embs)
        batch = self._batch([*features, *(s for s in sets if s is not None and s.ndim == 3)], ids)
        flat = self._assemble(self._generate(tensors, features, sets, batch, condition))
        return self.convert_out_format(flat, "flattened", ret_format)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Existing code stores the embeddings of conditions first.
        own = [self._book.entries[i] for i in self._book.own]
        first = [entry for entry in own if entry.owner is self._cond_embs]
        take_up(self, [*first, *(entry for entry in own if entry.owner is not self._cond_embs)], state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def get_cond_in_emb(self, cond_id: int) -> nn.Parameter:
        """The embedding of a condition.

        Args:
            cond_id: the condition's number.

        Returns:
            The parameter itself, (cond_in_size,).

        Raises:
            ValueError: if the condition is unknown, or its embedding comes from outside.
        """
        return self._own_embedding(self._cond_embs, self._known("cond_id", cond_id))

    def _generate(
        self,
        tensors: Sequence[Tensor | None],
        features: Sequence[Tensor],
        sets: Sequence[Tensor | None],
        batch: int,
        condition: Any,
    ) -> list[Tensor]:
        """What each generator makes of all chunks of all samples, (B, chunks, size)."""
        generated = []
        at = 0
        # Unconditional inputs come before chunk embeddings, conditional ones behind.
        first = features[:1] if self._inputs.uncond else []
        second = features[1:] if self._inputs.uncond else features
        for module, embeddings in zip(self._generators, sets, strict=True):
            generator = cast(LayeredNet, module)
            count = len(generator.param_shapes)
            own = [tensor for tensor in tensors[at : at + count] if tensor is not None]
            at += count
            n = 1 if embeddings is None else embeddings.shape[-2]
            parts = [f.unsqueeze(1).expand(batch, n, -1) for f in first]
            parts += [] if embeddings is None else [embeddings.expand(batch, n, -1)]
            parts += [f.unsqueeze(1).expand(batch, n, -1) for f in second]
            output = generator.forward(torch.cat(parts, dim=-1).flatten(0, 1), weights=own, condition=condition)
            generated.append(output.reshape(batch, n, -1))
        return generated

    def _assemble(self, generated: Sequence[Tensor]) -> Tensor:
        """The target's weights (B, num_outputs) from what generators made: here all chunks in a row, a rest dropped."""
        rows = [part.flatten(1) for part in generated]
        whole = rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
        # Cut only where there is a rest: the gradient of a cut copies everything once more.
        return whole if whole.shape[1] == self.num_outputs else whole[:, : self.num_outputs]

    def _features(
        self,
        uncond_input: Tensor | None,
        cond_input: Tensor | None,
        ids: Sequence[int] | None,
        conditional: Sequence[Tensor | None],
    ) -> list[Tensor]:
        """Unconditional and conditional inputs, (B or 1, size) each, as far as the network has them."""
        sizes = self._inputs
        features = []
        if uncond_input is not None or sizes.uncond:
            features.append(_rows("uncond_input", uncond_input, sizes.uncond))
        if cond_input is not None and ids is not None:
            raise ValueError("conditional inputs come by cond_id or by cond_input; received both.")
        if ids is not None and sizes.cond:
            chosen = [conditional[i] for i in ids]
            present = [embedding for embedding in chosen if embedding is not None]
            if len(present) < len(chosen):
                raise ValueError(
                    f"the embeddings of conditions {list(ids)} come from outside: pass them as cond_input, or as "
                    "weights={'cond_weights': [...]}."
                )
            features.append(torch.stack(present))
        elif cond_input is not None or sizes.cond:
            features.append(_rows("cond_input (or cond_id)", cond_input, sizes.cond))
        return features

    def _chunk_sets(
        self,
        tensors: Sequence[Tensor | None],
        conditional: Sequence[Tensor | None],
        ids: Sequence[int] | None,
        given: Any,
    ) -> list[Tensor | None]:
        """For each generator its chunk embeddings, (chunks, size) or one set a sample (B, chunks, size)."""
        wanted = [c for c in self._chunks if c is not None and c.conditional]
        if given is not None:
            given = [given] if isinstance(given, Tensor) else list(given)
            if len(given) != len(wanted):
                raise ValueError(
                    f"weights['chunk_embs'] must be conditional chunk embeddings for {len(wanted)} generators; "
                    f"received {len(given)}."
                )
        shared = iter(tensors[len(self._book.entries) - len(conditional) - self._shared_count() :])
        sets: list[Tensor | None] = []
        seen = 0
        offset = len(self._cond_embs._parameters)
        for chunks in self._chunks:
            if chunks is None:
                sets.append(None)
            elif not chunks.conditional:
                sets.append(next(shared))
            elif given is not None:
                embeddings = given[seen]
                if not isinstance(embeddings, Tensor) or embeddings.shape[1:] != (chunks.count, chunks.size):
                    raise ValueError(
                        f"weights['chunk_embs'] must have shape (B, {chunks.count}, {chunks.size}); "
                        f"received {describe(embeddings)}."
                    )
                sets.append(embeddings)
                seen += 1
            else:
                chosen = [conditional[offset + i * len(wanted) + seen] for i in ids or ()]
                present = [embedding for embedding in chosen if embedding is not None]
                if not chosen or len(present) < len(chosen):
                    raise ValueError(
                        "conditional chunk embeddings need a cond_id whose embeddings the network has, "
                        "weights={'cond_weights': [...]}, or weights={'chunk_embs': ...}; received none of them."
                    )
                sets.append(torch.stack(present))
                seen += 1
        return sets

    def _shared_count(self) -> int:
        return len(self._chunk_embs._parameters)

    def _batch(self, tensors: Sequence[Tensor], ids: Sequence[int] | None) -> int:
        """The number of samples, on which all inputs must agree unless there is one for all."""
        counts = {len(tensor) for tensor in tensors} | ({len(ids)} if ids is not None else set())
        several = counts - {1}
        if len(several) > 1 or 0 in counts:
            raise ValueError(f"inputs must agree on the number of samples, at least 1; received {sorted(counts)}.")
        return several.pop() if several else 1

    def _ids(self, cond_id: int | Sequence[int] | None) -> list[int] | None:
        if cond_id is None:
            return None
        ids = list(cond_id) if isinstance(cond_id, (list, tuple, range)) else [cond_id]
        return [self._known("cond_id", i) for i in ids]

    def _known(self, name: str, cond_id: Any) -> int:
        if check_count(name, cond_id, 0) >= self._num_conds:
            raise ValueError(
                f"{name} must be below {self._num_conds}, the number of known conditions; received {cond_id}."
            )
        return int(cond_id)

    def _own_embedding(self, owner: Embeddings, at: int) -> nn.Parameter:
        embedding = owner._parameters.get(str(at))
        if embedding is None:
            raise ValueError("the network has no such embedding itself: it comes from outside, or has the size 0.")
        return embedding

    def _make_book(self, shared: Sequence[tuple[int, int]], conditional: Sequence[tuple[int, int]]) -> ParamBook:
        entries: list[Entry] = []
        for at, module in enumerate(self._generators):
            highest = max((entry.layer for entry in entries), default=0)
            for entry in cast(LayeredNet, module)._book.entries:
                info = {**entry.info, "hnet_ind": at} if len(self._generators) > 1 else entry.info
                layer = entry.layer if entry.layer < 0 else highest + 1 + entry.layer
                entries.append(Entry(entry.shape, entry.kind, layer, entry.owner, entry.attribute, info))
        about = {"info": "chunk embeddings"}
        for i, shape in enumerate(shared):
            entries.append(Entry(shape, "embedding", 0, self._chunk_embs, str(i), about))
        first = len(entries)
        for i in range(len(self._cond_embs._parameters)):
            info = {"cond_id": i}
            entries.append(Entry((self._inputs.cond,), "embedding", 0, self._cond_embs, str(i), info))
        for i in range(len(conditional) * self._num_conds):
            shape = conditional[i % len(conditional)]
            info = {**about, "cond_id": i // len(conditional)}
            entries.append(Entry(shape, "embedding", 0, self._cond_chunk_embs, str(i), info))
        groups = {"uncond_weights": range(first), "cond_weights": range(first, len(entries))}
        return ParamBook(entries, groups)


def target_spec(target_shapes: Sequence[Sequence[int]]) -> ParamSpec:
    """The target's tensors, numbered.

    Raises:
        ValueError: if there are none.
    """
    if len(target_shapes) == 0:
        raise ValueError("target_shapes must hold at least one shape; received none.")
    shapes = tuple(tuple(check_count("each size in target_shapes", n) for n in shape) for shape in target_shapes)
    return ParamSpec(tuple(map(str, range(len(shapes)))), shapes)


def _rows(name: str, value: Any, size: int) -> Tensor:
    """An input as (B, size)."""
    if size == 0:
        raise ValueError(f"the network was built without {name}; received {describe(value)}.")
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor (B, {size}); received {describe(value)}.")
    value = value.unsqueeze(0) if value.ndim == 1 else value
    if value.ndim != 2 or value.shape[1] != size:
        raise ValueError(f"{name} must have shape (B, {size}); received {describe(value)}.")
    return value
