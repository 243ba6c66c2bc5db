"""The documented module `torch_ckpts`."""

from hnbayes.training.checkpoints import get_best_ckpt_path, load_checkpoint, make_ckpt_list, save_checkpoint

__all__ = ["get_best_ckpt_path", "load_checkpoint", "make_ckpt_list", "save_checkpoint"]
