"""Networks whose weights may come from outside."""

from hnbayes.mnets.bio_conv_net import BioConvNet
from hnbayes.mnets.chunk_squeezer import ChunkSqueezer
from hnbayes.mnets.from_module import ModuleNet, from_module
from hnbayes.mnets.lenet import LeNet
from hnbayes.mnets.mlp import MLP
from hnbayes.mnets.mnet_interface import MainNetInterface
from hnbayes.mnets.registry import get_mnet_model
from hnbayes.mnets.resnet import ResNet
from hnbayes.mnets.resnet_imgnet import ResNetIN
from hnbayes.mnets.simple_rnn import SimpleRNN
from hnbayes.mnets.wide_resnet import WRN
from hnbayes.mnets.zenkenet import ZenkeNet

__all__ = [
    "MLP",
    "WRN",
    "BioConvNet",
    "ChunkSqueezer",
    "LeNet",
    "MainNetInterface",
    "ModuleNet",
    "ResNet",
    "ResNetIN",
    "SimpleRNN",
    "ZenkeNet",
    "from_module",
    "get_mnet_model",
]
