"""MainNetInterface: networks whose weights are their own, come from outside, or both."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_count, check_positive, describe
from hnbayes.layers import BatchNormLayer, ContextModLayer
from hnbayes.mnets.bookkeeping import ParamBook, Weights
from hnbayes.params import ParamSpec

Shapes = Sequence[Sequence[int]]


class MainNetInterface(ABC):
    """What every network offers that can take its weights from outside: from a sampler, a hypernetwork, a file.

    `param_shapes` lists every tensor the network works with, whether it is the network's own or not, so that the list
    (or one flat vector, `flatten_params`) describes the network completely.

    Example:
        >>> net = hnbayes.mnets.MLP(n_in=2, n_out=1, hidden_layers=(3,), verbose=False)
        >>> isinstance(net, hnbayes.mnets.MainNetInterface), net.num_params
        (True, 13)
        >>> flat = net.flatten_params(list(net.weights))
        >>> weights = net.flatten_params(flat, param_shapes=net.param_shapes, unflatten=True)
        >>> all(torch.equal(a, b) for a, b in zip(weights, net.weights))
        True
    """

    # What a network sets in its constructor: its bookkeeping, and what its output layer is like.
    _book: ParamBook
    _has_bias: bool = True
    _has_fc_out: bool = True
    _mask_fc_out: bool = True
    _has_linear_out: bool = True

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        weights: Weights = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: Any = None,
    ) -> Any:
        """Compute the network's output.

        Args:
            x: inputs.
            weights: tensors to use instead of the network's own: all of `param_shapes`, those of
                `hyper_shapes_learned`, gains and shifts alone, or a dict with the keys `internal_weights` (all but
                gains and shifts) and `mod_weights` (gains and shifts), either or both.
            distilled_params: what `hyper_shapes_distilled` lists, used instead of the network's own.
            condition: which stored statistics or modulation to use.

        Returns:
            The output.

        Raises:
            ValueError: if weights are missing, or their number or shapes don't fit.
        """

    @abstractmethod
    def distillation_targets(self) -> list[Tensor] | None:
        """The network's present tensors for `hyper_shapes_distilled`; None where there are none."""

    @property
    def internal_params(self) -> nn.ParameterList | None:
        """The network's own parameters, in the order of `param_shapes`; None where there are none."""
        own = [self._book.entries[i].own for i in self._book.own]
        return nn.ParameterList(own) if own else None

    @property
    def weights(self) -> nn.ParameterList | None:
        """`internal_params`, by its older name."""
        return self.internal_params

    @property
    def internal_params_ref(self) -> list[int] | None:
        """The index into `param_shapes` of each of `internal_params`; None where there are none."""
        return self._book.own or None

    @property
    def param_shapes(self) -> list[list[int]]:
        """Shapes of all tensors the network works with, wherever they come from."""
        return self._book.shapes

    @property
    def param_shapes_meta(self) -> list[dict[str, Any]]:
        """For each of `param_shapes` its `name` (its kind), `layer` and `index` in `internal_params` (-1: outside)."""
        own = self._book.own
        return [
            {"name": entry.kind, "index": own.index(i) if i in own else -1, "layer": entry.layer, **entry.info}
            for i, entry in enumerate(self._book.entries)
        ]

    @property
    def hyper_shapes_learned(self) -> list[list[int]] | None:
        """Shapes of the tensors that must be given to `forward`; None where there are none."""
        return [self._book.shapes[i] for i in self._book.needed] or None

    @property
    def hyper_shapes_learned_ref(self) -> list[int] | None:
        """The index into `param_shapes` of each of `hyper_shapes_learned`; None where there are none."""
        return self._book.needed or None

    @property
    def hyper_shapes_distilled(self) -> list[list[int]] | None:
        """Shapes of what `distillation_targets` returns; None where there is nothing to distil."""
        targets = self.distillation_targets()
        return None if targets is None else [list(target.shape) for target in targets]

    @property
    def has_bias(self) -> bool:
        """Whether layers have biases."""
        return self._has_bias

    @property
    def has_fc_out(self) -> bool:
        """Whether the output layer is fully connected."""
        return self._has_fc_out

    @property
    def mask_fc_out(self) -> bool:
        """Whether weights and biases of a fully connected output layer are the last of those to be given."""
        return self._mask_fc_out

    @property
    def has_linear_out(self) -> bool:
        """Whether the output layer is linear."""
        return self._has_linear_out

    @property
    def num_params(self) -> int:
        """How many numbers `param_shapes` describes."""
        return self._book.spec.size

    @property
    def num_internal_params(self) -> int:
        """How many numbers `internal_params` holds."""
        return sum(math.prod(self._book.entries[i].shape) for i in self._book.own)

    @property
    def layer_weight_tensors(self) -> nn.ParameterList:
        """The network's own weight matrices and kernels."""
        return self._own_of_kind("weight")

    @property
    def layer_bias_vectors(self) -> nn.ParameterList:
        """The network's own biases."""
        return self._own_of_kind("bias")

    @property
    def batchnorm_layers(self) -> nn.ModuleList | None:
        """The batch-norm layers; None where there are none."""
        return self._modules_of(BatchNormLayer)

    @property
    def context_mod_layers(self) -> nn.ModuleList | None:
        """The context-mod layers; None where there are none."""
        return self._modules_of(ContextModLayer)

    @staticmethod
    def shapes_to_num_weights(dims: Shapes) -> int:
        """How many numbers tensors of these shapes hold.

        Args:
            dims: the shapes.

        Returns:
            Their number.
        """
        return sum(math.prod(int(n) for n in shape) for shape in dims)

    @torch.no_grad()
    def custom_init(self, normal_init: bool = False, normal_std: float = 0.02, zero_bias: bool = True) -> None:
        """Initialise the network's own weights by Xavier's rule (Glorot and Bengio 2010, eq. 16), biases with 0.

        Args:
            normal_init: draw weights from N(0, normal_std^2) instead.
            normal_std: its standard deviation.
            zero_bias: whether biases become 0; otherwise they stay as they are.

        Raises:
            ValueError: if `normal_std` is not positive.
        """
        normal_std = check_positive("normal_std", normal_std)
        for weight in self.layer_weight_tensors:
            if normal_init:
                nn.init.normal_(weight, std=normal_std)
            else:
                nn.init.xavier_uniform_(weight)
        for bias in self.layer_bias_vectors if zero_bias else ():
            nn.init.zeros_(bias)

    def get_output_weight_mask(
        self, out_inds: Sequence[int] | None = None, device: torch.device | str | None = None
    ) -> list[Tensor | None]:
        """Masks for the weights that lead to output units.

        Args:
            out_inds: the output units; None means all.
            device: where the masks are to be.

        Returns:
            One entry for each of `param_shapes`: None for a tensor that doesn't lead to outputs directly, else a
            boolean mask of its shape, True in the rows of the units chosen.

        Raises:
            ValueError: if the output layer is not fully connected, or a unit doesn't exist.
        """
        if not (self.has_fc_out and self.mask_fc_out):
            raise ValueError("masks for outputs need a fully connected layer of its own for each, which isn't there.")
        return self._row_masks(self._output_entries(), out_inds, device)

    @torch.no_grad()
    def overwrite_internal_params(self, new_params: Sequence[Tensor]) -> None:
        """Copy values into the network's own parameters.

        Args:
            new_params: one tensor for each of `internal_params`; copied.

        Raises:
            ValueError: if number or shapes don't fit.
        """
        given = self._book.check("new_params", list(new_params), self._book.own)
        for i, tensor in given.items():
            own = self._book.entries[i].own
            if own is not None:
                if own.shape != tensor.shape:
                    raise ValueError(
                        f"tensor {i} in new_params must have shape {tuple(own.shape)}; received {tuple(tensor.shape)}."
                    )
                own.copy_(tensor)

    @staticmethod
    def flatten_params(params: Any, param_shapes: Shapes | None = None, unflatten: bool = False) -> Any:
        """Lay tensors out as one vector, or take a vector apart.

        Args:
            params: a list of tensors; with `unflatten`, a tensor (D,) or (..., D).
            param_shapes: the tensors' shapes; needed to unflatten, and to flatten tensors with batch dimensions.
            unflatten: whether a vector is to be taken apart.

        Returns:
            A tensor (D,), or (..., D) where tensors have leading dimensions besides `param_shapes`; with `unflatten` a
            list of tensors, views of the vector.

        Raises:
            ValueError: if shapes don't fit, or are needed and missing.
        """
        if unflatten and param_shapes is None:
            raise ValueError("param_shapes must be given to unflatten a vector; received None.")
        if unflatten and not isinstance(params, Tensor):
            raise ValueError(f"params must be one tensor to be unflattened; received {describe(params)}.")
        if not unflatten:
            params = list(params)
        shapes = [p.shape for p in params] if param_shapes is None else param_shapes
        spec = ParamSpec(tuple(map(str, range(len(shapes)))), tuple(tuple(shape) for shape in shapes))
        return list(spec.unflatten(params).values()) if unflatten else spec.flatten(params)

    def _own_of_kind(self, kind: str) -> nn.ParameterList:
        entries = [entry for entry in self._book.entries if entry.kind == kind]
        return nn.ParameterList([entry.own for entry in entries if entry.own is not None])

    def _modules_of(self, kind: type[nn.Module]) -> nn.ModuleList | None:
        owners = dict.fromkeys(entry.owner for entry in self._book.entries if isinstance(entry.owner, kind))
        return nn.ModuleList(owners) if owners else None

    def _output_entries(self) -> list[int]:
        """Indices of the output layer's weights and, where it has any, biases."""
        entries = self._book.entries
        at = max(i for i, entry in enumerate(entries) if entry.kind == "weight")
        has_bias = at + 1 < len(entries) and entries[at + 1].kind == "bias"
        return [at, at + 1] if has_bias else [at]

    def _row_masks(
        self, indices: Sequence[int], out_inds: Sequence[int] | None, device: torch.device | str | None
    ) -> list[Tensor | None]:
        masks: list[Tensor | None] = [None] * len(self._book.entries)
        for i in indices:
            shape = self._book.entries[i].shape
            if out_inds is None:
                masks[i] = torch.ones(shape, dtype=torch.bool, device=device)
                continue
            mask = torch.zeros(shape, dtype=torch.bool, device=device)
            for unit in out_inds:
                if check_count("each entry of out_inds", unit, 0) >= shape[0]:
                    raise ValueError(f"out_inds must lie in 0..{shape[0] - 1}, the output units; received {unit}.")
                mask[unit] = True
            masks[i] = mask
        return masks
