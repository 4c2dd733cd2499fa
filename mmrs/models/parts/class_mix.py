from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from mmrs.utils.errors import require_number

from .self_training import PseudoLabel
from .strong_augmentation import StrongAugmentation

if TYPE_CHECKING:
    from ..adaptors.base import Domain

__all__ = ['ClassMixing', 'Mixed', 'class_mix', 'draw_classes']

#: How many values the labels of an image may have, the ignored one among them.
_VALUES = 256


class Mixed(NamedTuple):
    """Images of the target on which classes of the source are pasted.

    Attributes:
        images: ``(N, C, H, W)``, normalised.
        label: ``(N, H, W)``: of the source where it was pasted, pseudo-labels elsewhere.
        weight: ``(N, H, W)``: 1 where the source was pasted, those of the pseudo-labels elsewhere.
        from_source: ``(N, H, W)``, bool, True where the source was pasted.
    """

    images: Tensor
    label: Tensor
    weight: Tensor
    from_source: Tensor


def draw_classes(labels: Tensor, share: float = 0.5, ignore_index: int = 255) -> Tensor:
    """Draw, for each image, some of the classes that it shows.

    Unlike in the authors' code, an image's candidates are its own classes and not those of its whole batch, as the
    paper has it; and what is ignored is no candidate: pasted, it would teach nothing.

    All is drawn from torch's generator of the CPU, whose state a checkpoint holds.

    Args:
        labels: ``(N, H, W)``, 0 to 255.
        share: Which share of them, rounded up.
        ignore_index: Pixels without a label.

    Returns:
        ``(N, 256)``, bool: which values of the labels are drawn for an image.
    """
    shown = torch.zeros(len(labels), _VALUES, dtype=torch.bool, device=labels.device)
    shown.scatter_(1, labels.flatten(1), True)
    shown[:, ignore_index] = False
    number = (shown.sum(1, keepdim=True) * share).ceil()
    order = torch.rand(shown.shape).to(labels.device, non_blocking=True).masked_fill(~shown, -1)
    return order.argsort(1, descending=True).argsort(1) < number


def class_mix(source: Domain, target: Domain, pseudo: PseudoLabel, chosen: Tensor) -> Mixed:
    """Paste classes of source images on the target images of the same place in the batch.

    Images of both domains keep their own normalisation.

    Args:
        source: With labels.
        target: As many images of the same size.
        pseudo: Of the target; pixels without data weigh 0 there, and so they do here.
        chosen: ``(N, 256)``: the values of the source's labels that are pasted; see :func:`draw_classes`.

    Reference:
        Olsson et al., ClassMix, arXiv 2007.07936; Tranheden et al., DACS, arXiv 2007.08702, section 3.1.
    """
    labels = source.labels
    assert labels is not None, 'a source without labels has no classes to paste'
    pasted = chosen.gather(1, labels.flatten(1)).view_as(labels)
    return Mixed(
        torch.where(pasted[:, None], source.images, target.images),
        torch.where(pasted, labels, pseudo.label),
        pseudo.weight.masked_fill(pasted, 1),
        pasted,
    )


class ClassMixing(nn.Module):
    """Images that mix the domains, for a student to learn both on: labels and pseudo-labels.

    Args:
        weight: Factor on the loss of these images.
        share: See :func:`draw_classes`; with 0 nothing is pasted, and the student sees target images alone.
        augmentation: Options of :class:`StrongAugmentation` of the mixed images; None: they stay as they are.

    Raises:
        ConfigError: An option cannot work.
    """

    def __init__(self, weight: float = 1.0, share: float = 0.5, augmentation: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        require_number('mixing.weight', weight, at_least=0)
        require_number('mixing.share', share, at_least=0, at_most=1)
        self.weight, self.share = weight, share
        self.augmentation = None if augmentation is None else StrongAugmentation(**augmentation)

    def draw(self, labels: Any) -> Tensor:
        """The classes of each image that are pasted; see :func:`draw_classes`."""
        return draw_classes(labels, self.share)

    def forward(self, source: Domain, target: Domain, pseudo: PseudoLabel, model: Any) -> Mixed:
        """Mixed images of the batches of both domains; see :func:`class_mix`.

        Args:
            source: With labels.
            target: As many images of the same size.
            pseudo: Of the target.
            model: The adaptor: its head says what is ignored, its data preprocessor the range of values.
        """
        labels: Any = source.labels
        labels = labels.masked_fill(labels == model.decode_head.ignore_index, 255)  # which is pasted nowhere
        mixed = class_mix(source._replace(labels=labels), target, pseudo, self.draw(labels))
        if self.augmentation is None:
            return mixed
        # Where the domains are normalised apart, the pasted pixels have become the target's in light and colour.
        return mixed._replace(images=self.augmentation(mixed.images, model.data_preprocessor, 'target'))
