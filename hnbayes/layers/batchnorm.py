"""BatchNormLayer: batch normalisation with statistics per task, or gains, offsets and statistics from outside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hnbayes._checks import check_count, check_floating, check_positive, describe
from hnbayes.layers.stored_sets import StoredSets

EPS = 1e-5


class BatchNormLayer(StoredSets):
    r"""Batch normalisation (Ioffe and Szegedy 2015), with its gains, offsets and statistics free to come from anywhere.

    \[y = \frac{x - m^{(t)}}{\sqrt{v^{(t)} + \epsilon}} \gamma^{(t)} + \beta^{(t)}, \qquad \epsilon = 10^{-5}\]

    Where m and v come from, in the first row that applies:

    | | training mode | evaluation mode |
    |---|---|---|
    | statistics given to `forward` | batch's; updates the given ones | the given ones |
    | `track_running_stats` | batch's; updates the set | the set |
    | `frozen_stats` | 0 and 1 | 0 and 1 |
    | `learnable_stats` | batch's; updates the set | the set, with gradients |
    | none of these | batch's | batch's |

    Given statistics that require gradients (outputs of a hypernetwork, say) are never updated; others are, in place,
    with momentum 0.1 where `momentum` is None. Several sets of statistics can be kept, one a task (`checkpoint_stats`);
    they are part of the state_dict, and loading one takes up as many sets as it holds. In evaluation mode the layer
    works under `torch.func.vmap` over any of its tensors.

    Args:
        num_features: channels C of inputs (N, C) or (N, C, ...).
        momentum: weight of the batch in the moving averages, in 0..1; None averages over all batches alike.
        affine: whether the layer has gains and offsets of its own.
        track_running_stats: whether it keeps moving averages.
        frozen_stats: whether its statistics stay at mean 0 and variance 1; needs `track_running_stats=False`.
        learnable_stats: whether its statistics are parameters; needs `track_running_stats=False`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if a number is out of range, or options exclude one another.

    Example:
        >>> layer = hnbayes.layers.BatchNormLayer(3)
        >>> y = layer(5 + 2 * torch.randn(100, 3))
        >>> bool(y.mean(0).abs().max() < 1e-4)
        True
        >>> layer.checkpoint_stats()  # a second set, for the next task
        >>> layer.num_stats
        2
    """

    set_names = ("mean", "var", "num_batches")

    def __init__(
        self,
        num_features: int,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        frozen_stats: bool = False,
        learnable_stats: bool = False,
    ) -> None:
        super().__init__()
        self.num_features = check_count("num_features", num_features)
        self.momentum = _check_momentum(momentum)
        for name, chosen in (("frozen_stats", frozen_stats), ("learnable_stats", learnable_stats)):
            if chosen and track_running_stats:
                raise ValueError(f"{name}=True needs track_running_stats=False; received track_running_stats=True.")
        if frozen_stats and learnable_stats:
            raise ValueError("statistics are frozen or learnable; received frozen_stats=True and learnable_stats=True.")
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.frozen_stats = frozen_stats
        self.learnable_stats = learnable_stats
        self.scale: Tensor | None
        self.bias: Tensor | None
        self.register_parameter("scale", nn.Parameter(torch.ones(num_features)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_features)) if affine else None)
        if track_running_stats or frozen_stats or learnable_stats:
            self._append_stats(torch.ones(num_features))

    def extra_repr(self) -> str:
        """What `repr` shows."""
        options = ("affine", "track_running_stats", "frozen_stats", "learnable_stats")
        shown = [name for name in options if getattr(self, name)]
        return ", ".join([str(self.num_features), f"momentum={self.momentum}", *shown])

    @property
    def weights(self) -> nn.ParameterList | None:
        """Gains and offsets, or None where the layer has none of its own."""
        return nn.ParameterList([self.scale, self.bias]) if self.affine else None

    @property
    def param_shapes(self) -> list[list[int]]:
        """Shapes of gains and offsets, and of means and variances of every set where these are learnable."""
        sets = self.num_stats if self.learnable_stats else 0
        return [[self.num_features] for _ in range(2 + 2 * sets)]

    @property
    def hyper_shapes(self) -> list[list[int]] | None:
        """Shapes of the gains and offsets that can come from outside; None where the layer has its own."""
        return None if self.affine else [[self.num_features], [self.num_features]]

    @property
    def num_stats(self) -> int:
        """How many sets of statistics the layer keeps."""
        return self._num_sets()

    def checkpoint_stats(self, device: torch.device | str | None = None) -> None:
        """Begin a new set of statistics at mean 0 and variance 1; those before it stay as they are.

        Args:
            device: where; None takes the device of the latest set, or that of the gains, or the CPU.

        Raises:
            ValueError: if the layer keeps no statistics that could change.
        """
        if not (self.track_running_stats or self.learnable_stats):
            raise ValueError(
                "checkpoint_stats needs a layer that estimates or learns its statistics; received one with "
                f"{'frozen' if self.frozen_stats else 'no'} statistics. Set track_running_stats or learnable_stats."
            )
        like = self._set(self.num_stats - 1)["mean"].detach()
        self._append_stats(torch.ones_like(like, device=device))

    def get_stats(self, stats_id: int | None = None) -> tuple[Tensor, Tensor]:
        """A set of statistics, the layer's own tensors.

        Args:
            stats_id: which, from 0; None takes the latest.

        Returns:
            Mean and variance, each (C,).

        Raises:
            TypeError: if `stats_id` is not an integer.
            ValueError: if there is no such set.
        """
        if self.num_stats == 0:
            raise ValueError("this layer keeps no statistics. Build it with track_running_stats=True.")
        at = self.num_stats - 1 if stats_id is None else self._check_set("stats_id", stats_id, self.num_stats)
        chosen = self._set(at)
        return chosen["mean"], chosen["var"]

    def forward(
        self,
        inputs: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        stats_id: int | None = None,
    ) -> Tensor:
        """Normalise activations; the class says with which statistics.

        Args:
            inputs: (N, C) or (N, C, ...).
            running_mean: means to use instead of the layer's own, (C,); comes with `running_var`.
            running_var: variances to use instead of the layer's own, (C,).
            weight: gains to use instead of the layer's own, (C,); without either, no gains are applied.
            bias: offsets to use instead of the layer's own, (C,); without either, no offsets are applied.
            stats_id: the set to use, from 0; needed where there are several and no statistics are given.

        Returns:
            The normalised activations, of the inputs' shape.

        Raises:
            TypeError: if `stats_id` is not an integer.
            ValueError: if shapes don't fit, one statistic is given without the other, a set is to be chosen, or in
                training mode there is only one value per channel.
        """
        self._check_inputs(inputs, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
        weight = self.scale if weight is None else weight
        bias = self.bias if bias is None else bias
        given = running_mean is not None
        momentum = self.momentum
        if not given and self.num_stats:
            at = self._choose(stats_id)
            running_mean, running_var = self.get_stats(at)
            if self.training and not self.frozen_stats:
                momentum = self._next_momentum(at)
        # Without statistics of any kind, the batch's are used in both modes.
        if running_mean is None or running_var is None:
            return nn.functional.batch_norm(inputs, None, None, weight, bias, training=True, eps=EPS)
        if not self.training or (self.frozen_stats and not given):
            return _normalise(inputs, running_mean, running_var, weight, bias)
        if given and (running_mean.requires_grad or running_var.requires_grad):
            return nn.functional.batch_norm(inputs, None, None, weight, bias, training=True, eps=EPS)
        # Detached tensors share memory, so that learnable statistics follow the average without a gradient.
        means, variances = running_mean.detach(), running_var.detach()
        # External statistics come without a count of batches, so an average over all of them can't be formed.
        momentum = 0.1 if momentum is None else momentum
        return nn.functional.batch_norm(
            inputs, means, variances, weight, bias, training=True, momentum=momentum, eps=EPS
        )

    def _append_stats(self, ones: Tensor) -> None:
        stats = {"mean": torch.zeros_like(ones), "var": ones}
        if self.momentum is None and not self.frozen_stats:
            stats["num_batches"] = torch.zeros((), dtype=torch.long, device=ones.device)
        self._append_set(stats, learnable=self.learnable_stats)

    def _choose(self, stats_id: int | None) -> int:
        if stats_id is None and self.num_stats > 1:
            raise ValueError(
                f"stats_id must say which statistics to use, 0..{self.num_stats - 1}, as there are {self.num_stats} "
                "sets; received None."
            )
        return 0 if stats_id is None else self._check_set("stats_id", stats_id, self.num_stats)

    def _next_momentum(self, at: int) -> float | None:
        """The weight of the coming batch in set `at`; counts it where all batches weigh alike."""
        if self.momentum is not None:
            return self.momentum
        counter = self._set(at)["num_batches"]
        counter.add_(1)
        return 1 / int(counter)

    def _check_inputs(self, inputs: Tensor, **vectors: Tensor | None) -> None:
        C = self.num_features
        check_floating("inputs", inputs)
        if inputs.ndim < 2 or inputs.shape[1] != C:
            raise ValueError(f"inputs must have shape (N, {C}) or (N, {C}, ...); received {describe(inputs)}.")
        if inputs.numel() == 0:
            raise ValueError(f"inputs must not be empty; received {describe(inputs)}.")
        for name, vector in vectors.items():
            if vector is not None and (not isinstance(vector, Tensor) or vector.shape != (C,)):
                raise ValueError(f"{name} must be a tensor of shape ({C},); received {describe(vector)}.")
        if (vectors["running_mean"] is None) != (vectors["running_var"] is None):
            received = "running_mean" if vectors["running_var"] is None else "running_var"
            raise ValueError(f"running_mean and running_var must be given together; received {received} alone.")


def _normalise(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The equation of the class, with gradients for every tensor in it (`F.batch_norm` has none for statistics)."""
    gain = torch.rsqrt(var + EPS)
    gain = gain if weight is None else gain * weight
    offset = -mean * gain if bias is None else bias - mean * gain
    shape = (-1, *[1] * (x.ndim - 2))
    return torch.addcmul(offset.view(shape), x, gain.view(shape))


def _check_momentum(momentum: float | None) -> float | None:
    if momentum is None:
        return None
    if momentum == 0:
        return 0.0
    if check_positive("momentum", momentum) > 1:
        raise ValueError(f"momentum must lie in 0..1; received {momentum}.")
    return float(momentum)
