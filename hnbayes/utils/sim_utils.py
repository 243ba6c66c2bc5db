"""The documented module `sim_utils`: networks from command-line options, and how long training takes."""

from hnbayes.hnets import get_hypernet
from hnbayes.mnets import get_mnet_model
from hnbayes.training.iterations import calc_train_iter

__all__ = ["calc_train_iter", "get_hypernet", "get_mnet_model"]
