"""Networks from command-line options: re-exports."""

from hnbayes.hnets import get_hypernet
from hnbayes.mnets import get_mnet_model

__all__ = ["get_hypernet", "get_mnet_model"]
