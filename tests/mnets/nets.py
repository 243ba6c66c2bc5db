"""Small configurations of the main networks, each with an input."""

from __future__ import annotations

import torch
from torch import nn

from hnbayes.mnets import MLP, WRN, BioConvNet, ChunkSqueezer, LeNet, ResNet, ResNetIN, SimpleRNN, ZenkeNet

BUILD = {
    "mlp": lambda **k: MLP(4, 3, (5, 6), nn.Tanh(), verbose=False, **k),
    "lenet": lambda **k: LeNet((16, 16, 1), 3, arch="mnist_small", verbose=False, **k),
    "resnet": lambda **k: ResNet((8, 8, 3), 3, num_feature_maps=(2, 2, 3, 4), n=1, verbose=False, **k),
    "wrn": lambda **k: WRN((8, 8, 3), 3, n=1, k=2, num_feature_maps=(2, 2, 3, 4), verbose=False, **k),
    "iresnet": lambda **k: ResNetIN(
        (16, 16, 3), 3, num_feature_maps=(2, 2, 3, 4, 4), blocks_per_group=(1, 1, 1, 1), verbose=False, **k
    ),
    "zenke": lambda **k: ZenkeNet((10, 10, 1), 3, verbose=False, **k),
    "bio_conv_net": lambda **k: BioConvNet((13, 13, 1), 3, **k),
    "chunked_mlp": lambda **k: ChunkSqueezer(7, 3, 3, 2, 2, 0.5, (4,), (5,), nn.Tanh(), verbose=False, **k),
    "simple_rnn": lambda **k: SimpleRNN(4, (3,), (5,), (3,), use_lstm=True, verbose=False, **k),
    "elman": lambda **k: SimpleRNN(4, (3, 2), (), (3,), verbose=False, **k),
}
SHAPES = {
    "mlp": (6, 4),
    "lenet": (2, 256),
    "resnet": (2, 192),
    "wrn": (2, 192),
    "iresnet": (2, 768),
    "zenke": (2, 100),
    "bio_conv_net": (2, 169),
    "chunked_mlp": (6, 7),
    "simple_rnn": (3, 2, 4),
    "elman": (3, 2, 4),
}


def build(name: str, *, seed: int = 0, **kwargs):
    """A network in evaluation mode, float64."""
    torch.manual_seed(seed)
    return BUILD[name](**kwargs).double().eval()


def inputs(name: str) -> torch.Tensor:
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def random_weights(net, seed: int = 2, scale: float = 0.3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in net.param_shapes]
