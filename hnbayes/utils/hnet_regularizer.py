"""Regularisers for hypernetworks: re-exports."""

from hnbayes.hnets.regularizer import calc_fix_target_reg, flatten_and_remove_out_heads, get_current_targets

__all__ = ["calc_fix_target_reg", "flatten_and_remove_out_heads", "get_current_targets"]
