from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mmrs.utils.errors import require_number

from ..losses.head_loss import head_loss
from .patch_mask import PatchMask
from .self_training import PseudoLabel
from .strong_augmentation import StrongAugmentation

if TYPE_CHECKING:
    from ..adaptors.base import Domain

__all__ = ['MaskedConsistency']

#: Strength of the augmentation in the published settings.
_AUGMENTATION = dict(jitter=0.2)


class MaskedConsistency(nn.Module):
    """Masked image consistency: in a target image of which blocks are hidden, the student has to see what the teacher
    sees in all of it, and learns to infer an object from what is around it.

    Pseudo-labels and their weights are those that the method makes anyway.

    Args:
        weight: Factor on the loss.
        ratio: See :class:`PatchMask`, as for the next one.
        block: Likewise; the published runs have 32 px in crops of 512 px and 64 px in those of 1024 px.
        augmentation: Options of :class:`StrongAugmentation` before blocks are hidden; None: colours stay as they are.

    Raises:
        ConfigError: An option cannot work.

    Reference:
        Hoyer et al., MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation, arXiv 2212.01322.
    """

    def __init__(
        self,
        weight: float = 1.0,
        ratio: float = 0.7,
        block: int = 32,
        augmentation: Mapping[str, Any] | None = _AUGMENTATION,
    ) -> None:
        super().__init__()
        require_number('masked_consistency.weight', weight, at_least=0)
        self.weight, self.mask = weight, PatchMask(ratio, block)
        self.augmentation = None if augmentation is None else StrongAugmentation(**augmentation)

    def forward(self, images: Tensor, preprocessor: Any) -> Tensor:
        """What the student sees of images ``(N, C, H, W)`` of the target, normalised, as those that it gets.

        Args:
            images: The images that the teacher has seen.
            preprocessor: The :class:`DomainAdaptationDataPreprocessor`, which knows the range of values.
        """
        if self.augmentation is not None:
            images = self.augmentation(images, preprocessor, 'target')
        return self.mask(images)

    def losses(self, model: Any, target: Domain, pseudo: PseudoLabel | None = None) -> dict[str, Tensor]:
        """``loss_masked`` of an adaptor that is one network, and ``confident_share``.

        Args:
            model: The adaptor.
            target: The images that its teacher has seen.
            pseudo: What the teacher has seen in them; what has no data weighs nothing. None: it has yet to look.
        """
        if pseudo is None:
            pseudo = model.teacher.label(target)
        features = model.extract_feat(self(target.images, model.data_preprocessor))
        (terms,), head = model.pseudo_terms, model.decode_head
        loss = head_loss(head, head(features), pseudo.label, pseudo.weight, terms, from_source=False)
        return dict(loss_masked=self.weight * loss, confident_share=pseudo.confident_share)
