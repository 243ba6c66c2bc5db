"""ChunkedHMLP: a multilayer perceptron that generates weights chunk by chunk."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from hnbayes._checks import check_positive
from hnbayes.hnets.chunked import ChunkedHyperNet, plan_chunks
from hnbayes.hnets.hyperfan import Targets, init_generator
from hnbayes.hnets.hypernet import Inputs
from hnbayes.hnets.mlp_hnet import PerTensor, announce, init_embeddings
from hnbayes.hnets.registry import chunked, perceptron, register
from hnbayes.mnets.mlp import MLP, Activation
from hnbayes.mnets.mnet_interface import MainNetInterface
from hnbayes.mnets.registry import Config


class ChunkedHMLP(ChunkedHyperNet):
    """A hypernetwork of fully connected layers that generates `chunk_size` weights at a time.

    Args:
        target_shapes: shapes of the tensors to generate.
        chunk_size: weights a chunk; those of the last beyond the target's are dropped.
        chunk_emb_size: size of a chunk's embedding, drawn from N(0, 1).
        cond_chunk_embs: whether every condition has chunk embeddings of its own.
        uncond_in_size: see `HMLP`, as for the other arguments.
        cond_in_size: may be 0, as may `uncond_in_size`.
        layers: sizes of the hidden layers.
        verbose: print the number of weights.
        activation_fn: nonlinearity of hidden layers.
        use_bias: whether layers have biases.
        no_uncond_weights: whether unconditional weights come from outside.
        no_cond_weights: whether conditional ones do.
        num_cond_embs: how many conditions there are.
        dropout_rate: rate after each hidden layer's activation, -1 for none.
        use_spectral_norm: divide each weight matrix by its largest singular value.
        use_batch_norm: normalise the hidden layers, over samples and chunks.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a number is out of range.

    Example:
        >>> target = [[100, 50], [100]]
        >>> hnet = hnbayes.hnets.ChunkedHMLP(target, chunk_size=500, layers=(10,), num_cond_embs=2, verbose=False)
        >>> hnet.num_chunks
        11
        >>> [tuple(w.shape) for w in hnet(cond_id=0)]
        [(100, 50), (100,)]
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        chunk_size: int,
        chunk_emb_size: int = 8,
        cond_chunk_embs: bool = False,
        uncond_in_size: int = 0,
        cond_in_size: int = 8,
        layers: Sequence[int] = (100, 100),
        verbose: bool = True,
        activation_fn: Activation = nn.ReLU(),  # noqa: B008 - stateless
        use_bias: bool = True,
        no_uncond_weights: bool = False,
        no_cond_weights: bool = False,
        num_cond_embs: int = 1,
        dropout_rate: float = -1,
        use_spectral_norm: bool = False,
        use_batch_norm: bool = False,
    ) -> None:
        inputs = Inputs(uncond_in_size, cond_in_size, no_uncond_weights, no_cond_weights, num_cond_embs)
        chunks = plan_chunks(target_shapes, chunk_size, chunk_emb_size, cond_chunk_embs)
        body = MLP(
            inputs.size + chunk_emb_size,
            chunk_size,
            layers,
            activation_fn,
            use_bias,
            no_weights=no_uncond_weights,
            dropout_rate=dropout_rate,
            use_spectral_norm=use_spectral_norm,
            use_batch_norm=use_batch_norm,
            verbose=False,
        )
        super().__init__(target_shapes, inputs, body, chunks)
        self._chunk_size = chunk_size
        self._has_bias = use_bias
        announce(self, verbose)

    @torch.no_grad()
    def apply_chunked_hyperfan_init(
        self,
        method: str = "in",
        use_xavier: bool = False,
        uncond_var: float = 1.0,
        cond_var: float = 1.0,
        eps: float = 1e-5,
        cemb_normal_init: bool = False,
        mnet: MainNetInterface | None = None,
        target_vars: PerTensor = None,
    ) -> None:
        r"""Initialise chunk embeddings so that generated weights have the variance of He's or Xavier's rule.

        All layers keep the variance of their inputs, so that weights have that of the inputs: with \(n_e\) inputs of
        variance Var(e) besides \(n_c\) of chunk embeddings,
        \(\mathrm{Var}(c) = \max(\epsilon, \frac{1}{n_c}[(n_e + n_c) \mathrm{Var}(v) - n_e \mathrm{Var}(e)])\), as in
        Chang et al. (2020) for whole weights. Var(v), a chunk's, is the mean over its weights. Inputs of a larger
        variance than \(\frac{n_e + n_c}{n_e} \mathrm{Var}(v)\) can't be made up for; a warning then says what they may
        have: choose `uncond_var` and `cond_var` so. Embeddings of conditions are drawn from N(0, `cond_var`).

        Args:
            method: "in" for fan-in, "out" for fan-out, "harmonic" for the harmonic mean of both variances.
            use_xavier: Xavier's rule instead of He's.
            uncond_var: variance of unconditional inputs.
            cond_var: variance of conditional inputs.
            eps: smallest variance of chunk embeddings.
            cemb_normal_init: draw chunk embeddings from a normal distribution instead of a uniform one.
            mnet: the main network, which says what each generated tensor is; see `HMLP.apply_hyperfan_init`.
            target_vars: variances of generated tensors, for each (None for the default) or by its kind. Biases have
                1 / (3 fan-in) by default, as torch.nn.Linear's; tensors that are neither weights nor biases have 1.

        Raises:
            ValueError: if weights come from outside, a choice is unknown, a variance is negative, or the main network's
                tensors are others.
        """
        eps = check_positive("eps", eps)
        targets = Targets(self.target_shapes, mnet, method, use_xavier)
        wanted = self._chunk_variances(targets, target_vars)
        inputs = self._inputs
        if not (uncond_var >= 0 and cond_var >= 0):
            raise ValueError(f"variances must be at least 0; received {uncond_var} and {cond_var}.")
        body = cast(MLP, self._generators[0])
        # Layers are linear in their inputs' scale: any variance taken for it gives the same weights.
        init_generator(body, 1.0, keep_last=False)
        n_c = self.chunk_emb_size
        others = inputs.uncond * uncond_var + inputs.cond * cond_var
        needed = ((inputs.size + n_c) * wanted - others) / n_c
        if bool((needed < eps).any()):
            most = float((inputs.size + n_c) * wanted.min() / max(inputs.size, 1))
            warnings.warn(
                f"{int((needed < eps).sum())} of {self.num_chunks} chunks get the least variance eps={eps}, as that of "
                f"the other inputs is too large: choose uncond_var and cond_var of at most {most:.3g}.",
                stacklevel=2,
            )
        std = needed.clamp_min(eps).sqrt()
        owner = self._cond_chunk_embs if self.cond_chunk_embs else self._chunk_embs
        for embeddings in owner.parameters():
            noise = torch.randn_like(embeddings)
            if not cemb_normal_init:
                noise = (2 * torch.rand_like(embeddings) - 1) * 3**0.5
            embeddings.copy_(noise * std.to(embeddings).unsqueeze(1))
        init_embeddings(list(self._cond_embs.parameters()), cond_var)

    def _chunk_variances(self, targets: Targets, target_vars: PerTensor) -> torch.Tensor:
        """The variance that each chunk's weights should have, (num_chunks,)."""
        per_weight = []
        for at, shape in enumerate(self.target_shapes):
            kind = targets.kinds[at]
            default = 1.0
            if kind == "weight":
                default = targets.weight_variance(at)
            elif kind == "bias":
                default = targets.bias_variance(at)
            variance = targets.choose("target_vars", target_vars, at, default)
            per_weight.append(torch.full((self.shapes_to_num_weights([shape]),), variance, dtype=torch.float64))
        return torch.stack([chunk.mean() for chunk in torch.split(torch.cat(per_weight), self._chunk_size)])


@register("chunked_hmlp")
def _build(config: Config, target_shapes: Sequence[Sequence[int]], shared: dict[str, Any], _: Any) -> ChunkedHMLP:
    size = config.get("chmlp_chunk_size", 1000)
    return ChunkedHMLP(target_shapes, size, **shared, **chunked(config), **perceptron(config))
