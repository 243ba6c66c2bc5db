"""The documented module `torch_utils`."""

from hnbayes.layers.init import init_params
from hnbayes.training.cutout import CutoutTransform
from hnbayes.training.optimizers import get_optimizer, lambda_lr_schedule

__all__ = ["CutoutTransform", "get_optimizer", "init_params", "lambda_lr_schedule"]
