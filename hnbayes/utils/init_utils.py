"""The documented module `init_utils`: fans, and Xavier initialisation by fan-in."""

from hnbayes.layers.init import calc_fan_in_and_out, xavier_fan_in_

__all__ = ["calc_fan_in_and_out", "xavier_fan_in_"]
