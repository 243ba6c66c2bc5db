"""BioConvNet: three locally connected and two fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hnbayes._checks import check_count
from hnbayes.layers import LocalConv2dLayer
from hnbayes.mnets.bookkeeping import Weights
from hnbayes.mnets.classifier_interface import Classifier, check_image_shape
from hnbayes.mnets.layered import LayerPlan, Pass
from hnbayes.mnets.options import ContextModOptions
from hnbayes.mnets.registry import Config, Shape, flat_size, image_shape, register

# Kernel size, channels, stride and padding of the locally connected layers (Bartunov et al. 2018, table 2).
CONVS = ((5, 64, 2, 0), (5, 128, 2, 0), (3, 256, 1, 1))
HIDDEN = 1024


class BioConvNet(Classifier):
    """The locally connected network of Bartunov et al. (2018) for CIFAR; tanh units, linear outputs.

    From "Assessing the scalability of biologically-motivated deep learning algorithms and architectures", table 2.

    Args:
        in_shape: height, width and channels of inputs.
        num_classes: number of logits.
        no_weights: whether all weights but gains and shifts come from outside.
        init_weights: values for the network's own parameters, copied.
        use_context_mod: modulate every layer.
        context_mod_inputs: modulate the inputs too.
        no_last_layer_context_mod: don't modulate the output layer.
        context_mod_no_weights: gains and shifts come from outside, whatever `no_weights` says.
        context_mod_post_activation: modulate hidden layers after their activation.
        context_mod_gain_offset: gains are 1 + g.
        context_mod_gain_softplus: gains go through a softplus.
        context_mod_apply_pixel_wise: one gain and shift a pixel instead of a feature map.

    Raises:
        TypeError: if a size is not an integer.
        ValueError: if a size is out of range.

    Example:
        >>> net = hnbayes.mnets.BioConvNet((13, 13, 1), 3)
        >>> net(torch.randn(2, 13 * 13)).shape
        torch.Size([2, 3])
    """

    _plain_condition = "cmod_ckpt_id"

    def __init__(
        self,
        in_shape: Sequence[int] = (32, 32, 3),
        num_classes: int = 10,
        no_weights: bool = False,
        init_weights: Sequence[Tensor] | None = None,
        use_context_mod: bool = False,
        context_mod_inputs: bool = False,
        no_last_layer_context_mod: bool = False,
        context_mod_no_weights: bool = False,
        context_mod_post_activation: bool = False,
        context_mod_gain_offset: bool = False,
        context_mod_gain_softplus: bool = False,
        context_mod_apply_pixel_wise: bool = False,
    ) -> None:
        self._in_shape = check_image_shape(in_shape)
        H, W, C = self._in_shape
        classes = check_count("num_classes", num_classes)
        # The layers know how to apply weights; the network holds these, beside those of the other layers.
        local = []
        for kernel, channels, stride, padding in CONVS:
            local.append(LocalConv2dLayer(C, channels, H, W, kernel, stride, padding, no_weights=True))
            H, W, C = local[-1].out_height, local[-1].out_width, channels
        options = ContextModOptions(
            use_context_mod,
            context_mod_inputs,
            no_last_layer_context_mod,
            context_mod_no_weights,
            context_mod_post_activation,
            context_mod_gain_offset,
            context_mod_gain_softplus,
            context_mod_apply_pixel_wise,
        )
        plans = [
            LayerPlan(
                f"conv{i}",
                tuple(layer.param_shapes[0]),
                tuple(layer.param_shapes[1]),
                modulated=options.map_shape(layer.out_channels, (layer.out_height, layer.out_width)),
            )
            for i, layer in enumerate(local)
        ]
        super().__init__(
            [
                *plans,
                LayerPlan("hidden", (HIDDEN, C * H * W), (HIDDEN,), modulated=(HIDDEN,)),
                LayerPlan("out", (classes, HIDDEN), (classes,), modulated=(classes,)),
            ],
            inputs=options.map_shape(self._in_shape[2], self._in_shape[:2]),
            no_weights=no_weights,
            modulation=options,
        )
        self._num_classes = classes
        self._local = nn.ModuleList(local)
        self._init_local()
        if init_weights is not None:
            self.overwrite_internal_params(init_weights)

    @torch.no_grad()
    def _init_local(self) -> None:
        """Each filter has fan-in C K K, its second dimension, and is drawn as a convolution's would be."""
        for i in range(len(CONVS)):
            holder = self._holder(f"conv{i}")
            for tensor in (holder.weight, holder.bias):
                if tensor is not None and holder.weight is not None:
                    bound = holder.weight.shape[1] ** -0.5
                    tensor.uniform_(-bound, bound)

    def forward(
        self,
        x: Tensor,
        weights: Weights = None,
        distilled_params: Sequence[Tensor] | None = None,
        condition: Any = None,
        collect_activations: bool = False,
    ) -> Any:
        """Compute logits.

        Args:
            x: flattened images (N, H W C), or (N, H, W, C).
            weights: see `MainNetInterface.forward`.
            distilled_params: must be None.
            condition: the stored modulation to use.
            collect_activations: also return the activations of all layers.

        Returns:
            Logits (N, num_classes); where asked for, also the list of the layers' activations, the logits the last.

        Raises:
            TypeError: if x is no floating-point tensor.
            ValueError: if shapes don't fit, or weights are missing.
        """
        h, tensors = self._entered(x, weights, distilled_params, condition)
        out, hidden = self._outputs(h, tensors)
        return (out, [*hidden, out]) if collect_activations else out

    def _logits(self, h: Tensor, tensors: Pass) -> Tensor:
        return self._outputs(h, tensors)[0]

    def _outputs(self, h: Tensor, tensors: Pass) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the activations of the hidden layers."""
        collected = []
        for i, local in enumerate(self._local):
            h = local(h, weights=list(tensors.layers[f"conv{i}"]))
            h = self._activated(f"conv{i}", h, tensors, torch.tanh)
            collected.append(h)
        h = nn.functional.linear(h.flatten(1), *tensors.layers["hidden"])
        h = self._activated("hidden", h, tensors, torch.tanh)
        return self._modulate("out", nn.functional.linear(h, *tensors.layers["out"]), tensors), [*collected, h]


@register("bio_conv_net")
def _build(config: Config, in_shape: Shape, out_shape: Shape, **kwargs: Any) -> BioConvNet:
    read: dict[str, Any] = {
        "in_shape": image_shape(in_shape),
        "num_classes": flat_size("out_shape", out_shape),
    }
    return BioConvNet(**{**read, **kwargs})
