"""The documented module `sim_utils`: a run, its networks and how long it takes, from command-line options."""

from hnbayes.hnets import get_hypernet
from hnbayes.mnets import get_mnet_model
from hnbayes.training.environment import setup_environment
from hnbayes.training.iterations import calc_train_iter

__all__ = ["calc_train_iter", "get_hypernet", "get_mnet_model", "setup_environment"]
