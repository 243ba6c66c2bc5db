"""The documented module `gan_helpers`."""

from hnbayes.training.gan import accuracy, concat_mean_stats, dis_loss, gen_loss

__all__ = ["accuracy", "concat_mean_stats", "dis_loss", "gen_loss"]
