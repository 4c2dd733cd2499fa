from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_reduce, is_distributed
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mmrs.utils import ConfigError

from ..data_preprocessor import valid_pixels
from ..losses.head_loss import head_loss, terms_by_pixel
from ..parts.features import parts_of
from ..teacher import EMATeacher

__all__ = ['DISC_ACCURACY', 'LOSS', 'SHARES', 'Adaptor', 'Domain', 'domain_of', 'share_title']

# The names of what `Adaptor.losses` returns. What starts with `LOSS` is summed up for the backward pass. The rest is a
# share, 0 to 1, that is only logged and says whether adaptation is active: curves show it, tables do in percent.
LOSS = 'loss_'
#: ``disc_accuracy_NAME``: 1.0, the discriminator NAME tells the domains apart; 0.5, it guesses.
DISC_ACCURACY = 'disc_accuracy_'
#: Beginnings of the shares' names, and what tables call them.
SHARES = {
    'confident_share': 'confident target pixels',
    'confident_': 'confident',
    DISC_ACCURACY: 'discriminator accuracy',
    'accuracy_': 'accuracy',
    'share_': 'share',
}


def share_title(name: str) -> str | None:
    """What a table calls a share, ``discriminator accuracy, source`` for example; None for what is no share."""
    for beginning, title in SHARES.items():
        if name.startswith(beginning):
            return ', '.join(filter(None, (title, name.removeprefix(beginning).replace('_', ' '))))
    return None


class Domain(NamedTuple):
    """The batch of a domain.

    Attributes:
        images: ``(N, C, H, W)``, normalised.
        valid: ``(N, H, W)``, bool, False where an image has no data; None where all have data everywhere.
        labels: ``(N, H, W)``, class indices. None for the unlabelled target, and for all where no labels are learnt
            from.
        metas: What is known of each image, such as ``img_path``.
    """

    images: Tensor
    valid: Tensor | None
    labels: Tensor | None
    metas: Sequence[Mapping[str, Any]]

    def valid_share(self, maps: Tensor) -> Tensor:
        """``(N, h, w)``, 0 to 1, of the type of `maps`: for each pixel of maps ``(N, C, h, w)`` of the images, how much
        of it has data.
        """
        if self.valid is None:
            return maps.new_ones(len(maps), *maps.shape[-2:])
        return F.interpolate(self.valid[:, None].to(maps.dtype), maps.shape[-2:], mode='area')[:, 0]

    def mean(self, values: Tensor) -> Tensor:
        """Mean of values ``(N, h, w)`` over the pixels that have data: those of all processes together.

        Every process has to call it at the same time. What it returns differs between processes, but the mean of that
        over the processes, which data-parallel training takes of gradients, is the mean over all pixels.
        """
        weight = self.valid_share(values[:, None])
        number = weight.sum()
        all_reduce(number, 'mean')
        return (values * weight).sum() / number.clamp(min=torch.finfo(number.dtype).tiny)


class Adaptor(EncoderDecoder):
    """A segmentor that adapts from a source domain to a target domain: the base of all methods.

    A method writes :meth:`losses`, out of parts of :mod:`mmrs.models.parts`. Prediction is that of the encoder-decoder,
    and its weights are named ``backbone.*``, ``neck.*``, ``decode_head.*``: a network trained on the source alone can
    be the start. A method with a teacher sets ``self.teacher`` in its constructor; the :class:`TeacherEMAHook` moves
    it. Labels of the target are not read, but for those of a method that says so.
    """

    #: Whether the losses of decode heads are used; they are then tried before training.
    learns_from_labels: bool = True
    #: Whether it learns from labelled images of the target, too, and can do without a source: :meth:`losses` is then
    #: given ``(source, labelled, target)``.
    takes_labelled: bool = False
    #: Why a batch without a target is refused.
    without_target: str = 'the model adapts to a target domain, but the batch has none: use a DomainAdaptationDataset'
    #: Names of the classes of the trained network that it started from, where it did and they are known.
    reference_classes: Sequence[str] | None = None

    teacher: EMATeacher | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = None

    @property
    def adapts(self) -> bool:
        """Whether a batch needs a target. If not, it may have one, which is not looked at."""
        return True

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """The decode heads that predict."""
        return (self.decode_head,)

    # Training --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def losses(self, source: Any, target: Any) -> dict[str, Tensor]:
        """All losses of one step, for one backward pass.

        Args:
            source: The :class:`Domain`, with labels if the method learns from them.
            target: The :class:`Domain` without labels; None where the model does not adapt.

        Returns:
            Scalars: ``loss_*`` and shares, see `SHARES`.
        """

    def loss(self, inputs: dict[str, Tensor] | Tensor, data_samples: dict[str, list] | list) -> dict[str, Tensor]:
        """All losses of one step.

        Args:
            inputs: ``dict(source, target)`` of ``(N, C, H, W)`` images, with ``labelled`` ones if the method takes
                them; or the source's alone, if the model does not adapt.
            data_samples: ``dict(source, target)`` of samples, or the source's alone. The source's have ``gt_sem_seg``
                if the method learns from labels; of the target's only ``valid_map`` is looked at, where they have one.

        Raises:
            ConfigError: The batch has no target, or too few images.
        """
        losses = self.losses(*self.domains(inputs, data_samples))
        if unknown := [name for name in losses if not name.startswith((LOSS, *SHARES))]:
            raise ValueError(
                f'{type(self).__name__}.losses returns {unknown[0]}, which would be left out: names start with {LOSS}, '
                f'or with one of {", ".join(SHARES)} for what is only logged'
            )
        return losses

    def domains(self, inputs: Any, data_samples: Any) -> Any:
        """Unpack and check a batch, for :meth:`losses`; arguments as for :meth:`loss`."""
        if isinstance(inputs, Tensor):
            inputs, data_samples = dict(source=inputs), dict(source=data_samples)
        if self.adapts and 'target' not in inputs:
            raise ConfigError(self.without_target)
        if self.takes_labelled != ('labelled' in inputs):
            raise ConfigError(
                f'{type(self).__name__} learns from labelled images of the target, but the batch of the '
                'DomainAdaptationDataset has none: say which with labelled_images'
                if self.takes_labelled
                else f'the batch has labelled images of the target, of which {type(self).__name__} learns nothing: '
                'leave labelled_images out, or take FewLabels'
            )
        wanted = ['source', *(['labelled'] if self.takes_labelled else []), *(['target'] if self.adapts else [])]
        found = {
            name: domain_of(inputs[name], data_samples[name], name != 'target' and self.learns_from_labels)
            for name in wanted
            if name in inputs or not self.takes_labelled
        }
        self._require_enough(min(len(domain.images) for domain in found.values()))
        names = ('source', 'labelled', 'target') if self.takes_labelled else ('source', 'target')
        return tuple(found.get(name) for name in names)

    def _require_enough(self, number: int) -> None:
        pools = [
            m
            for head in self.heads
            for part in head.modules()  # heads may be parts of others
            for m in getattr(part, 'image_pool', nn.Identity()).modules()
            if isinstance(m, _BatchNorm) and m.training
        ]
        alone = not is_distributed() or not all(isinstance(m, nn.SyncBatchNorm) for m in pools)
        if pools and alone and number < 2:
            raise ConfigError(
                'the batch holds 1 image, but the ASPP head pools each image to one pixel and batch normalisation '
                'needs at least 2 of them: set train_dataloader.batch_size to 2 or more, or use several GPUs with '
                'SyncBN'
            )

    def supervised_losses(
        self, features: Any, labels: Tensor | None, logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The losses of the encoder-decoder on labels.

        Args:
            features: What :meth:`extract_feat` returns for the images.
            labels: ``(N, H, W)``: those of the source.
            logits: What the decode head makes of the features, where that is known already.

        Returns:
            ``loss_seg``, and where there are auxiliary heads ``loss_aux``, their sum.
        """
        assert labels is not None, 'a method that does not learn from labels has none'
        logits = self.decode_head(features) if logits is None else logits
        losses = {'loss_seg': head_loss(self.decode_head, logits, labels)}
        if self.with_auxiliary_head:
            auxiliary: Any = self.auxiliary_head
            heads = auxiliary if isinstance(auxiliary, nn.ModuleList) else [auxiliary]
            losses['loss_aux'] = torch.stack([head_loss(head, head(features), labels) for head in heads]).sum()
        return losses

    # Teacher ---------------------------------------------------------------------------------------------------------

    def taught(self) -> Mapping[str, nn.Module]:
        """The students that the teacher follows, by the name of the copy: all that predicts."""
        return parts_of(self)

    def update_teacher(self, alpha: float) -> None:
        """Move the teacher towards the students; see :meth:`EMATeacher.update`.

        Raises:
            ConfigError: If the model has no teacher.
        """
        if self.teacher is None:
            raise ConfigError('the model has no teacher: set model.self_training, or drop the TeacherEMAHook')
        self.teacher.update(self.taught(), alpha)

    @functools.cached_property
    def pseudo_terms(self) -> list[list[int]]:
        """For each of `heads` the indices of the terms of its loss that pseudo-labels are learnt by.

        Raises:
            ConfigError: There are none.
        """
        return terms_by_pixel(self.heads)


def domain_of(images: Tensor, samples: Sequence[SegDataSample], labelled: bool) -> Domain:
    """The batch of a domain, of its images and samples."""
    labels = torch.stack([sample.gt_sem_seg.data for sample in samples]).squeeze(1).long() if labelled else None
    return Domain(images, valid_pixels(samples, images), labels, [sample.metainfo for sample in samples])
