"""ContextModLayer: gains and shifts of activations that depend on a context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hnbayes._checks import check_count, check_positive, describe
from hnbayes.layers.stored_sets import StoredSets


class ContextModLayer(StoredSets):
    r"""Modulates activations: \(y = x \odot g + s\), with gains g and shifts s.

    Gains and shifts are the layer's own, one of its checkpoints, or given to `forward`, for all samples or one set a
    sample. They are broadcast over the activations, whose shape never changes. The layer works under
    `torch.func.vmap` over its weights.

    Args:
        num_features: shape of gains and shifts: a number of units, or a shape such as (C, 1, 1) or (1, C, 1, 1) for one
            gain and one shift a feature map.
        no_weights: whether all weights come from outside.
        no_gains: whether there are no gains.
        no_shifts: whether there are no shifts.
        apply_gain_offset: whether gains are 1 + g, so that a hypernetwork's outputs near 0 leave activations alone.
        apply_gain_softplus: whether gains are \(\frac{1}{s} \log(1 + e^{s g})\), positive. Raw gains still start at 1.
        softplus_scale: s > 0.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a size is below 1, or options exclude one another.

    Example:
        >>> layer = hnbayes.layers.ContextModLayer(3, no_weights=True)
        >>> gains, shifts = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, 5.0])
        >>> layer(torch.ones(1, 3), weights=[gains, shifts])
        tensor([[1., 2., 5.]])
    """

    set_names = ("gain_ckpt", "shift_ckpt")

    def __init__(
        self,
        num_features: int | Sequence[int],
        no_weights: bool = False,
        no_gains: bool = False,
        no_shifts: bool = False,
        apply_gain_offset: bool = False,
        apply_gain_softplus: bool = False,
        softplus_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if no_gains and no_shifts:
            raise ValueError("a layer needs gains or shifts; received no_gains=True and no_shifts=True.")
        if apply_gain_offset and apply_gain_softplus:
            raise ValueError(
                "gains are offset or sent through a softplus; received apply_gain_offset=True and "
                "apply_gain_softplus=True."
            )
        sizes = num_features if isinstance(num_features, (tuple, list, torch.Size)) else (num_features,)
        self.num_features = tuple(check_count("num_features", size) for size in sizes)
        if not self.num_features:
            raise ValueError("num_features must hold at least one size; received none.")
        self._has_gains, self._has_shifts = not no_gains, not no_shifts
        self._no_weights = no_weights
        self._offset, self._softplus = apply_gain_offset, apply_gain_softplus
        self.softplus_scale = check_positive("softplus_scale", softplus_scale)
        self.gain: Tensor | None
        self.shift: Tensor | None
        for name, needed in (("gain", self._has_gains), ("shift", self._has_shifts)):
            own = needed and not no_weights
            self.register_parameter(name, nn.Parameter(torch.empty(self.num_features)) if own else None)
        if not no_weights:
            self._reset()

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"{self.num_features}, {' and '.join(f'{kind}s' for kind in self.param_shapes_meta)}"

    @property
    def weights(self) -> nn.ParameterList | None:
        """Gains and shifts, as far as there are any; None where all come from outside."""
        return None if self._no_weights else nn.ParameterList([w for w in (self.gain, self.shift) if w is not None])

    @property
    def param_shapes(self) -> list[list[int]]:
        """Shapes of gains and shifts, as far as there are any, wherever they come from."""
        return [list(self.num_features) for _ in self.param_shapes_meta]

    @property
    def param_shapes_meta(self) -> list[str]:
        """What each entry of `param_shapes` is: "gain" or "shift"."""
        return ["gain"] * self._has_gains + ["shift"] * self._has_shifts

    @property
    def has_gains(self) -> bool:
        """Whether there are gains."""
        return self._has_gains

    @property
    def has_shifts(self) -> bool:
        """Whether there are shifts."""
        return self._has_shifts

    @property
    def gain_offset_applied(self) -> bool:
        """Whether gains are 1 + g."""
        return self._offset

    @property
    def gain_softplus_applied(self) -> bool:
        """Whether gains go through a softplus."""
        return self._softplus

    @property
    def num_ckpts(self) -> int:
        """How many checkpoints of the weights there are."""
        return self._num_sets()

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor] | nn.ParameterList | None = None,
        ckpt_id: int | None = None,
        bs_dim: int = 0,
    ) -> Tensor:
        """Modulate activations.

        Args:
            x: activations; gains and shifts are broadcast over their last dimensions.
            weights: gains and shifts to use instead of the layer's own, as `param_shapes` says; for one set a sample,
                with N as a further first dimension, or in place of a 1 at dimension `bs_dim` of a shape that has as
                many dimensions as x.
            ckpt_id: the checkpoint to use, from 0; `num_ckpts` is the layer's own weights. Ignored where weights are
                given.
            bs_dim: the dimension of x that counts samples, N.

        Returns:
            The modulated activations, of x's shape.

        Raises:
            TypeError: if x is no tensor.
            ValueError: if weights are missing, or shapes don't fit.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor; received {describe(x)}.")
        if not -x.ndim <= bs_dim < x.ndim:
            raise ValueError(f"bs_dim must be a dimension of x, {describe(x)}; received {bs_dim}.")
        if weights is None:
            gain, shift = self.get_weights(ckpt_id)
        else:
            gain, shift = self._given(weights)
        if gain is not None:
            x = x * self._aligned("gain", self.preprocess_gain(gain), x, bs_dim % x.ndim)
        if shift is not None:
            x = x + self._aligned("shift", shift, x, bs_dim % x.ndim)
        return x

    def preprocess_gain(self, gain: Tensor) -> Tensor:
        """The gains that are applied, from raw ones: offset by 1, or through the softplus, where that was chosen.

        Args:
            gain: raw gains, any shape.

        Returns:
            Gains of the same shape.
        """
        if self._offset:
            return 1 + gain
        return nn.functional.softplus(gain, beta=self.softplus_scale) if self._softplus else gain

    def get_weights(self, ckpt_id: int | None = None) -> tuple[Tensor | None, Tensor | None]:
        """The layer's own weights, or a checkpoint of them.

        Args:
            ckpt_id: which checkpoint, from 0; None or `num_ckpts` gives the present weights.

        Returns:
            Gains and shifts; None where there are none.

        Raises:
            TypeError: if `ckpt_id` is not an integer.
            ValueError: if there is no such checkpoint, or the layer has no weights.
        """
        self._check_own_weights("weights must be given to a layer built with no_weights=True; received none.")
        if ckpt_id is None or self._check_set("ckpt_id", ckpt_id, self.num_ckpts + 1) == self.num_ckpts:
            return self.gain, self.shift
        stored = self._set(ckpt_id)
        return stored.get("gain_ckpt"), stored.get("shift_ckpt")

    @torch.no_grad()
    def checkpoint_weights(self, device: torch.device | str | None = None, no_reinit: bool = False) -> None:
        """Store a copy of the present weights as buffers, then reset them to an effective gain of 1 and shifts of 0.

        With `apply_gain_offset` that is a raw gain of 0; with `apply_gain_softplus` the raw gain becomes 1, as in a new
        layer.

        Args:
            device: where the copy goes; None takes the weights' own.
            no_reinit: leave the present weights as they are.

        Raises:
            ValueError: if the layer has no weights.
        """
        self._check_own_weights("a layer built with no_weights=True has nothing to checkpoint.")
        present = {"gain_ckpt": self.gain, "shift_ckpt": self.shift}
        self._append_set({name: w.detach().clone().to(device) for name, w in present.items() if w is not None})
        if not no_reinit:
            self._reset()

    def uniform_init(self, width: float = 1.0) -> None:
        """Draw weights from U(mean - width, mean + width), mean 1 for (raw, un-offset) gains and 0 for shifts.

        Args:
            width: at least 0.

        Raises:
            ValueError: if it is negative or not finite, or the layer has no weights.
        """
        width = _check_spread("width", width)
        with self._reinitialised() as own:
            for weight in own:
                weight.add_(torch.empty_like(weight).uniform_(-width, width))

    def normal_init(self, std: float = 1.0) -> None:
        """Draw weights from N(mean, std^2), mean 1 for (raw, un-offset) gains and 0 for shifts.

        Args:
            std: standard deviation, at least 0.

        Raises:
            ValueError: if it is negative or not finite, or the layer has no weights.
        """
        std = _check_spread("std", std)
        with self._reinitialised() as own:
            for weight in own:
                weight.add_(torch.randn_like(weight), alpha=std)

    def sparse_init(self, sparsity: float = 0.8) -> None:
        """Set a random part of the gains to 0, the others to 1, shifts to 0 (raw gains -1 and 0 where they are offset).

        Args:
            sparsity: the part of gains that become 0, in 0..1; their number is rounded.

        Raises:
            ValueError: if it is out of range, or the layer has no weights.
        """
        sparsity = _check_spread("sparsity", sparsity)
        if sparsity > 1:
            raise ValueError(f"sparsity must lie in 0..1; received {sparsity}.")
        with self._reinitialised():
            if self.gain is not None:
                closed = torch.randperm(self.gain.numel(), device=self.gain.device)
                self.gain.view(-1)[closed[: round(sparsity * self.gain.numel())]] -= 1

    def _reset(self) -> None:
        if self.gain is not None:
            nn.init.constant_(self.gain, 0.0 if self._offset else 1.0)
        if self.shift is not None:
            nn.init.zeros_(self.shift)

    @contextmanager
    def _reinitialised(self) -> Iterator[list[Tensor]]:
        """The layer's own weights, after a reset, to be changed in place."""
        self._check_own_weights("a layer built with no_weights=True has nothing to initialise.")
        self._reset()
        with torch.no_grad():
            yield [w for w in (self.gain, self.shift) if w is not None]

    def _check_own_weights(self, message: str) -> None:
        if self._no_weights:
            raise ValueError(message)

    def _given(self, weights: Sequence[Tensor] | nn.ParameterList) -> tuple[Tensor | None, Tensor | None]:
        meta = self.param_shapes_meta
        if not isinstance(weights, (list, tuple, nn.ParameterList)) or len(weights) != len(meta):
            raise ValueError(f"weights must be a list of {' and '.join(meta)}; received {describe(weights)}.")
        named = dict(zip(meta, weights, strict=True))
        for name, value in named.items():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise ValueError(f"the {name} in weights must be a floating-point tensor; received {describe(value)}.")
        return named.get("gain"), named.get("shift")

    def _aligned(self, name: str, weight: Tensor, x: Tensor, bs_dim: int) -> Tensor:
        """Weights shaped so that they broadcast over x, which keeps its shape."""
        features = self.num_features
        shape = tuple(weight.shape)
        if len(features) == x.ndim and features[bs_dim] == 1:
            per_sample = (*features[:bs_dim], x.shape[bs_dim], *features[bs_dim + 1 :])
        else:
            per_sample = (x.shape[bs_dim], *features)
        if shape not in (features, per_sample):
            raise ValueError(
                f"the {name} must have shape {features}, or {per_sample} for one set a sample of x, {describe(x)}, "
                f"with bs_dim={bs_dim}; received {shape}."
            )
        if shape == per_sample and len(shape) > len(features):
            # The samples' dimension goes to where x has it, ones between it and the features.
            between = x.ndim - bs_dim - 1 - len(features)
            if between < 0:
                raise ValueError(
                    f"x must have the features {features} in dimensions after its samples' (bs_dim={bs_dim}); "
                    f"received {describe(x)}."
                )
            weight = weight.reshape(shape[0], *[1] * between, *features)
        reached = (1,) * (x.ndim - weight.ndim) + tuple(weight.shape)
        if weight.ndim > x.ndim or any(w not in (1, n) for w, n in zip(reached, x.shape, strict=True)):
            raise ValueError(
                f"a {name} of shape {shape} must broadcast over x without changing its shape; received {describe(x)}."
            )
        return weight


def _check_spread(name: str, value: float) -> float:
    return 0.0 if isinstance(value, (int, float)) and value == 0 else check_positive(name, value)
