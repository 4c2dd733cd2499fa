from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.utils.errors import require_number

__all__ = ['PatchMask']


class PatchMask(nn.Module):
    """Hides square blocks of images, so that a network has to infer them from what is around.

    A hidden pixel is 0, which of normalised images is the mean colour.

    Args:
        ratio: Probability that a block is hidden, 0 to 1.
        block: Side of a block in pixels; where an image's side is no multiple, blocks are stretched a little.

    Raises:
        ConfigError: One of them makes no sense.

    Reference:
        Hoyer et al., MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation, arXiv 2212.01322, equations
        6 and 7.
    """

    def __init__(self, ratio: float = 0.7, block: int = 32) -> None:
        super().__init__()
        require_number('masked_consistency.ratio', ratio, at_least=0, below=1)
        require_number('masked_consistency.block', block, at_least=1)
        self.ratio, self.block = ratio, block

    def draw(self, images: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) for the blocks of images ``(N, C, H, W)``: ``(N, 1, rows, columns)``.

        They are of torch's generator on the CPU, whose state a checkpoint holds.
        """
        # Halves are rounded to the even number, as in the published code; an image has one block at least.
        rows, columns = (max(round(side / self.block), 1) for side in images.shape[-2:])
        return torch.rand(len(images), 1, rows, columns).to(images.device, non_blocking=True)

    def visible(self, drawn: Tensor, images: Tensor) -> Tensor:
        """``(N, 1, H, W)``, bool: the pixels of images ``(N, C, H, W)`` that stay, by the numbers of :meth:`draw`."""
        return F.interpolate((drawn > self.ratio).to(images.dtype), images.shape[-2:], mode='nearest').bool()

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` with blocks hidden, each image with its own."""
        return images * self.visible(self.draw(images), images)
