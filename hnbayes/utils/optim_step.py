"""The documented module `optim_step`: the changes that optimisers would make."""

from hnbayes.training.optim_step import adam_step, calc_delta_theta, rmsprop_step, sgd_step

__all__ = ["adam_step", "calc_delta_theta", "rmsprop_step", "sgd_step"]
