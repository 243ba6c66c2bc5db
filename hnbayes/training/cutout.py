"""CutoutTransform: square patches of an image set to zero."""

from __future__ import annotations

import torch
from torch import Tensor

from hnbayes._checks import check_count, describe


class CutoutTransform:
    """Cutout (DeVries and Taylor 2017): masks square patches at random places of an image.

    A patch's centre is any pixel, so patches may reach over the image's edge and overlap; patch and centre are the same
    in all channels. Random numbers are torch's (`torch.manual_seed`; a `DataLoader` seeds each worker).

    Args:
        n_holes: patches an image.
        length: their side in pixels.

    Raises:
        TypeError: if one is not an integer.
        ValueError: if one is below 1.

    Example:
        >>> from hnbayes.utils.torch_utils import CutoutTransform
        >>> image = CutoutTransform(n_holes=1, length=4)(torch.ones(3, 16, 16))
        >>> bool((image == 0).any()), image.shape
        (True, torch.Size([3, 16, 16]))
    """

    def __init__(self, n_holes: int, length: int) -> None:
        self.n_holes = check_count("n_holes", n_holes)
        self.length = check_count("length", length)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n_holes={self.n_holes}, length={self.length})"

    def __call__(self, img: Tensor) -> Tensor:
        """Mask an image.

        Args:
            img: (C, H, W), or any shape that ends in (H, W); it isn't changed.

        Returns:
            The image with its patches set to zero.

        Raises:
            TypeError: if it is no tensor.
            ValueError: if it has fewer than two dimensions, or is empty.
        """
        if not isinstance(img, Tensor):
            raise TypeError(f"img must be a tensor (C, H, W); received {describe(img)}. Convert it first.")
        if img.ndim < 2 or img.numel() == 0:
            raise ValueError(f"img must have shape (C, H, W) and not be empty; received {describe(img)}.")
        H, W = img.shape[-2:]
        masked = torch.zeros(H, W, dtype=torch.bool)
        for _ in range(self.n_holes):
            top, left = (int(torch.randint(size, ())) - self.length // 2 for size in (H, W))
            masked[max(top, 0) : max(top + self.length, 0), max(left, 0) : max(left + self.length, 0)] = True
        return img.masked_fill(masked.to(img.device), 0)
