"""HMLP: a multilayer perceptron that generates all weights at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from hnbayes.hnets.hyperfan import Targets, init_generator
from hnbayes.hnets.hypernet import HyperNet, Inputs, target_spec
from hnbayes.hnets.registry import perceptron, register
from hnbayes.mnets.mlp import MLP, Activation
from hnbayes.mnets.mnet_interface import MainNetInterface
from hnbayes.mnets.registry import Config

PerTensor = Sequence[float | None] | Mapping[str, float] | None


class HMLP(HyperNet):
    """A hypernetwork of fully connected layers, the last of which has an output for each generated weight.

    Args:
        target_shapes: shapes of the tensors to generate.
        uncond_in_size: size of unconditional inputs.
        cond_in_size: size of conditional inputs.
        layers: sizes of the hidden layers.
        verbose: print the number of weights.
        activation_fn: nonlinearity of hidden layers; None for none.
        use_bias: whether layers have biases.
        no_uncond_weights: whether the layers' weights come from outside.
        no_cond_weights: whether embeddings do.
        num_cond_embs: how many conditions there are, with an embedding each, drawn from N(0, 1).
        dropout_rate: rate after each hidden layer's activation, -1 for none.
        use_spectral_norm: divide each weight matrix by its largest singular value.
        use_batch_norm: normalise the hidden layers.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a number is out of range, or there are no inputs.

    Example:
        >>> net = hnbayes.mnets.MLP(n_in=1, n_out=1, hidden_layers=(10,), verbose=False)
        >>> hnet = hnbayes.hnets.HMLP(net.param_shapes, cond_in_size=4, layers=(20,), num_cond_embs=3, verbose=False)
        >>> weights = hnet(cond_id=2)  # those of the third task
        >>> net(torch.ones(5, 1), weights=weights).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
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
        inputs.check_any()
        body = MLP(
            inputs.size,
            target_spec(target_shapes).size,
            layers,
            activation_fn,
            use_bias,
            no_weights=no_uncond_weights,
            dropout_rate=dropout_rate,
            use_spectral_norm=use_spectral_norm,
            use_batch_norm=use_batch_norm,
            verbose=False,
        )
        super().__init__(target_shapes, inputs, [body], [None])
        self._has_bias = use_bias
        announce(self, verbose)

    def apply_hyperfan_init(
        self,
        method: str = "in",
        use_xavier: bool = False,
        uncond_var: float = 1.0,
        cond_var: float = 1.0,
        mnet: MainNetInterface | None = None,
        w_val: PerTensor = None,
        w_var: PerTensor = None,
        b_val: PerTensor = None,
        b_var: PerTensor = None,
    ) -> None:
        r"""Initialise so that generated weights have the variance that He's or Xavier's rule gives a main network.

        Chang, Flokas and Lipson (2020), "Principled weight initialization for hypernetworks", section 4: hidden layers
        keep the variance of their inputs, and the rows of the last layer that generate a tensor of fan-in d get
        \(\mathrm{Var}(H) = \frac{2}{d\, d_k E[h^2]}\) (He; 1 instead of 2 for Xavier), with \(d_k\) inputs h. Generated
        biases start at 0, as both rules want them, so weights get the whole variance. Embeddings of conditions are
        drawn from N(0, `cond_var`). The network's own inputs are to have mean 0.

        Args:
            method: "in" for fan-in, "out" for fan-out, "harmonic" for the harmonic mean of both variances.
            use_xavier: Xavier's rule (Glorot and Bengio 2010) instead of He's (He et al. 2015).
            uncond_var: variance of unconditional inputs.
            cond_var: variance of conditional inputs.
            mnet: the main network, which says what each generated tensor is. Without it tensors of one dimension are
                biases, the others weights.
            w_val: mean of the last layer's weights, for each generated tensor (None for the default) or by its kind;
                0 by default.
            w_var: their variance; by default as above for weights, and 0 for all others.
            b_val: mean of the last layer's biases; by default 1 for gains ("bn_scale", "cm_scale") and 0 for others.
            b_var: their variance; by default 1 for embeddings and 0 for others.

        Raises:
            ValueError: if the network's weights come from outside, a choice is unknown, a variance is negative, or the
                main network's tensors are others.
        """
        targets = Targets(self.target_shapes, mnet, method, use_xavier)
        body = cast(MLP, self._generators[0])
        variance = input_variance(self._inputs, uncond_var, cond_var)
        scale = init_generator(body, variance, keep_last=True)
        targets.init_heads(body, scale, w_val=w_val, w_var=w_var, b_val=b_val, b_var=b_var)
        init_embeddings(self.conditional_params, cond_var)

    def get_cond_in_emb(self, cond_id: int) -> nn.Parameter:
        """The embedding of a condition; see `HyperNet.get_cond_in_emb`."""
        return super().get_cond_in_emb(cond_id)


def input_variance(inputs: Inputs, uncond_var: float, cond_var: float) -> float:
    """The mean variance of a network's inputs."""
    for name, value in (("uncond_var", uncond_var), ("cond_var", cond_var)):
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0; received {value}.")
    return (inputs.uncond * uncond_var + inputs.cond * cond_var) / inputs.size


def init_embeddings(embeddings: Sequence[Tensor] | None, variance: float) -> None:
    """Draw embeddings from N(0, variance)."""
    for embedding in embeddings or ():
        nn.init.normal_(embedding, std=variance**0.5)


def announce(hnet: HyperNet, verbose: bool) -> None:
    """Print how many weights a hypernetwork has and makes, where that is wanted."""
    if verbose:
        ratio = hnet.num_params / hnet.num_outputs
        print(f"{type(hnet).__name__} with {hnet.num_params} weights for {hnet.num_outputs}, a ratio of {ratio:.3g}.")


@register("hmlp")
def _build(config: Config, target_shapes: Sequence[Sequence[int]], shared: dict[str, Any], _: Any) -> HMLP:
    return HMLP(target_shapes, **shared, **perceptron(config))
