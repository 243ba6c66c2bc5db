"""Groups of command-line options: tables of options, one builder that adds them to a parser, and what contradicts."""

from hnbayes.training.arguments.conflicts import check_invalid_argument_usage
from hnbayes.training.arguments.continual import cl_args
from hnbayes.training.arguments.data import data_args, eval_args
from hnbayes.training.arguments.gan import gan_args, generator_args
from hnbayes.training.arguments.hypernetworks import hnet_args
from hnbayes.training.arguments.initialisation import init_args
from hnbayes.training.arguments.miscellaneous import miscellaneous_args
from hnbayes.training.arguments.networks import main_net_args
from hnbayes.training.arguments.optimisation import train_args

__all__ = [
    "check_invalid_argument_usage",
    "cl_args",
    "data_args",
    "eval_args",
    "gan_args",
    "generator_args",
    "hnet_args",
    "init_args",
    "main_net_args",
    "miscellaneous_args",
    "train_args",
]
