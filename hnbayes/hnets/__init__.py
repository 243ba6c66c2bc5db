"""Networks that generate the weights of other networks."""

from hnbayes.hnets.chunked_deconv_hnet import ChunkedHDeconv
from hnbayes.hnets.chunked_mlp_hnet import ChunkedHMLP
from hnbayes.hnets.deconv_hnet import HDeconv
from hnbayes.hnets.hnet_interface import HyperNetInterface
from hnbayes.hnets.mlp_hnet import HMLP
from hnbayes.hnets.registry import get_hypernet
from hnbayes.hnets.regularizer import calc_fix_target_reg, flatten_and_remove_out_heads, get_current_targets
from hnbayes.hnets.structured_mlp_hnet import StructuredHMLP

__all__ = [
    "HMLP",
    "ChunkedHDeconv",
    "ChunkedHMLP",
    "HDeconv",
    "HyperNetInterface",
    "StructuredHMLP",
    "calc_fix_target_reg",
    "flatten_and_remove_out_heads",
    "get_current_targets",
    "get_hypernet",
]
