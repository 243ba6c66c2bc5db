"""HyperNetInterface: networks whose outputs are the weights of another network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_choice, check_count, describe
from hnbayes.mnets.bookkeeping import Weights
from hnbayes.mnets.mnet_interface import MainNetInterface
from hnbayes.params import ParamSpec

FORMATS = ("flattened", "sequential", "squeezed")


class HyperNetInterface(MainNetInterface):
    """What every hypernetwork offers: it maps inputs, or the number of a condition, to tensors of `target_shapes`.

    Its own parameters are *conditional* (the embedding of a task, say) or not; `param_shapes` lists those that are not
    first. Its inputs may be conditional (an embedding) or not (noise), or both.

    Example:
        >>> hnet = hnbayes.hnets.HMLP([[4, 3], [4]], cond_in_size=2, layers=(5,), num_cond_embs=3, verbose=False)
        >>> isinstance(hnet, hnbayes.hnets.HyperNetInterface)
        True
        >>> [tuple(p.shape) for p in hnet.conditional_params]  # an embedding for each task
        [(2,), (2,), (2,)]
        >>> hnet(cond_id=[0, 1, 2], ret_format="flattened").shape
        torch.Size([3, 16])
    """

    _target: ParamSpec
    _num_conds: int = 0

    @abstractmethod
    def forward(  # type: ignore[override]  # a hypernetwork's inputs are not a main network's
        self,
        uncond_input: Tensor | None = None,
        cond_input: Tensor | None = None,
        cond_id: int | Sequence[int] | None = None,
        weights: Weights = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: Any = None,
        ret_format: str = "squeezed",
    ) -> Any:
        """Generate tensors of `target_shapes`, one set a sample of the inputs; all samples at once.

        Args:
            uncond_input: unconditional inputs (B, size).
            cond_input: conditional inputs (B, size).
            cond_id: instead of `cond_input` the number of a condition, or a list of B numbers.
            weights: tensors to use instead of the network's own: all of `param_shapes`, those of
                `hyper_shapes_learned`, or a dict with the keys `uncond_weights` and `cond_weights`, either or both.
            distilled_params: must be None.
            condition: which stored statistics batch normalisation uses.
            ret_format: "flattened": a tensor (B, num_outputs); "sequential": a list of B lists of tensors;
                "squeezed": as "sequential", but the inner list alone if B is 1.

        Returns:
            As `ret_format` says.

        Raises:
            ValueError: if inputs or weights are missing, their number or shapes don't fit, or a condition is unknown.
        """

    @property
    def unconditional_params(self) -> list[nn.Parameter] | None:
        """The network's own parameters that don't belong to a condition; None where there are none."""
        return self._own_params("uncond_weights")

    @property
    def unconditional_params_ref(self) -> list[int] | None:
        """The index into `internal_params` of each of `unconditional_params`; None where there are none."""
        own = self._book.own
        return [own.index(i) for i in self._book.groups["uncond_weights"] if i in own] or None

    @property
    def unconditional_param_shapes(self) -> list[list[int]]:
        """Shapes of all unconditional parameters, wherever they come from."""
        return [self._book.shapes[i] for i in self._book.groups["uncond_weights"]]

    @property
    def unconditional_param_shapes_ref(self) -> list[int]:
        """The index into `param_shapes` of each of `unconditional_param_shapes`."""
        return list(self._book.groups["uncond_weights"])

    @property
    def conditional_params(self) -> list[nn.Parameter] | None:
        """The network's own parameters that belong to conditions; None where there are none."""
        return self._own_params("cond_weights")

    @property
    def conditional_param_shapes(self) -> list[list[int]]:
        """Shapes of all conditional parameters, wherever they come from."""
        return [self._book.shapes[i] for i in self._book.groups["cond_weights"]]

    @property
    def conditional_param_shapes_ref(self) -> list[int]:
        """The index into `param_shapes` of each of `conditional_param_shapes`."""
        return list(self._book.groups["cond_weights"])

    @property
    def num_outputs(self) -> int:
        """How many numbers are generated for one set of weights."""
        return self._target.size

    @property
    def target_shapes(self) -> list[list[int]]:
        """Shapes of the generated tensors."""
        return [list(shape) for shape in self._target.shapes]

    @property
    def num_known_conds(self) -> int:
        """How many conditions the network knows by their number."""
        return self._num_conds

    def get_task_embs(self) -> list[nn.Parameter] | None:
        """`conditional_params`, by its older name."""
        return self.conditional_params

    def get_task_emb(self, task_id: int) -> nn.Parameter:
        """One of `conditional_params`.

        Args:
            task_id: which, from 0.

        Returns:
            The parameter itself.

        Raises:
            ValueError: if there is no such parameter.
        """
        params = self.conditional_params or []
        if check_count("task_id", task_id, 0) >= len(params):
            raise ValueError(f"task_id must be below {len(params)}, the number of embeddings; received {task_id}.")
        return params[task_id]

    def add_to_uncond_params(self, dparams: Sequence[Tensor], params: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Unconditional parameters plus a change of them; nothing is modified.

        Args:
            dparams: the change, one tensor a parameter.
            params: what to add it to; None takes `unconditional_params`.

        Returns:
            The sums.

        Raises:
            ValueError: if number or shapes don't fit.
        """
        base = self.unconditional_params if params is None else list(params)
        if base is None:
            raise ValueError("params must be given to a network without unconditional parameters; received None.")
        if len(base) != len(dparams):
            raise ValueError(f"dparams must be {len(base)} tensors, one a parameter; received {len(dparams)}.")
        for p, d in zip(base, dparams, strict=True):
            if p.shape != d.shape:
                raise ValueError(f"dparams must have the parameters' shapes; received {describe(d)} for {describe(p)}.")
        return [p + d for p, d in zip(base, dparams, strict=True)]

    def convert_out_format(self, hnet_out: Any, src_format: str, trgt_format: str) -> Any:
        """Take generated weights from one of the formats of `forward` to another.

        Args:
            hnet_out: what `forward` returned.
            src_format: its format.
            trgt_format: the format wanted.

        Returns:
            The weights in that format.

        Raises:
            ValueError: if a format is unknown, or shapes don't fit.
        """
        check_choice("src_format", src_format, FORMATS)
        check_choice("trgt_format", trgt_format, FORMATS)
        if src_format == "flattened":
            if not isinstance(hnet_out, Tensor) or hnet_out.ndim != 2:
                raise ValueError(f"flattened weights must be (B, {self.num_outputs}); received {describe(hnet_out)}.")
            flat = hnet_out
        else:
            alone = src_format == "squeezed" and isinstance(hnet_out[0], Tensor)
            flat = torch.stack([self._target.flatten(list(one)) for one in ([hnet_out] if alone else hnet_out)])
        if trgt_format == "flattened":
            return flat
        batch = [list(self._target.unflatten(row).values()) for row in flat]
        return batch[0] if trgt_format == "squeezed" and len(batch) == 1 else batch

    def _own_params(self, group: str) -> list[nn.Parameter] | None:
        own = [self._book.entries[i].own for i in self._book.groups[group]]
        return [p for p in own if isinstance(p, nn.Parameter)] or None
