"""calc_train_iter: how long training takes, from epochs or iterations."""

from __future__ import annotations

from hnbayes._checks import check_count


def calc_train_iter(num_train_samples: int, batch_size: int, num_iter: int = -1, epochs: int = -1) -> tuple[int, int]:
    """Iterations of training, where an incomplete last batch of an epoch counts as one.

    Args:
        num_train_samples: samples of the training set.
        batch_size: samples of a batch.
        num_iter: iterations; used where `epochs` is -1.
        epochs: epochs; -1 leaves it to `num_iter`.

    Returns:
        Iterations in all, and iterations an epoch (-1 where epochs are not given).

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if a number is out of range, or neither iterations nor epochs are given.

    Example:
        >>> from hnbayes.utils.sim_utils import calc_train_iter
        >>> calc_train_iter(num_train_samples=100, batch_size=32, epochs=3)  # in all, and an epoch
        (12, 4)
    """
    check_count("num_train_samples", num_train_samples)
    check_count("batch_size", batch_size)
    if epochs != -1:
        per_epoch = -(-num_train_samples // batch_size)
        return check_count("epochs", epochs) * per_epoch, per_epoch
    if num_iter == -1:
        raise ValueError("num_iter or epochs must be given; received -1 for both.")
    return check_count("num_iter", num_iter, 0), -1
