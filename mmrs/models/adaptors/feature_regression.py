from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from mmrs.registry import MODELS
from mmrs.utils import ConfigError
from mmrs.weights import dataset_meta_of, load_checkpoint, load_matching, state_dict_of

from ..parts import ChannelSpread, FeatureCache, FrozenCopy
from ..parts.feature_cache import weights_digest
from ..parts.features import LAST, Network, extract_features, feature_widths, parts_of
from ..widths import bands_of
from .base import Adaptor, Domain


def _checked_weights(features: Any) -> dict[str, float]:
    """The feature maps that have a weight."""
    if not isinstance(features, Mapping):
        raise ConfigError(f'features is {features!r}; a dict of weights by name is expected, as dict(stage4=1.0)')
    for name, weight in features.items():
        if not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise ConfigError(f'features: the weight of {name} is {weight!r}; a number of at least 0 is expected')
    weights = {name: float(weight) for name, weight in features.items() if weight}
    if not weights:
        raise ConfigError('features: there is nothing to regress on; give a feature map a weight above 0')
    return weights


@MODELS.register_module()
class FeatureRegression(Adaptor):
    """Annotation-free feature-regression transfer.

    For pairs of images that show the same content through different pixels: the student, which starts as a copy of a
    trained reference network, learns to compute from the target image the feature maps that the frozen reference
    computes from the source image. No label is read. For prediction it is a plain encoder-decoder.

    Args:
        backbone: Config of the backbone, the reference's own.
        decode_head: Config of the decode head, likewise. Student and reference share it, and it is frozen.
        neck: Config of a neck between them, likewise.
        auxiliary_head: Not built; accepted so that the reference's model config can be the base.
        reference: Checkpoint of the trained reference, which `init_weights` loads. A resumed run and a test need none.
        features: Weight of each feature map, 0 to leave it out; for their names see :func:`extract_features`.
        loss_regression: Config of a :class:`FeatureRegressionLoss`.
        train_decode_head: Train the decode head up to its classifier, too; the reference then keeps one of its own.
        feature_cache: Folder in which the reference's feature maps are kept, so that each is computed once. It needs
            pairs without random crops, resizing or colours, see :class:`PairedDataset`.
        train_cfg: Unused; kept for mmseg's tools.
        test_cfg: ``dict(mode='whole')`` or ``dict(mode='slide', crop_size=..., stride=...)``.
        data_preprocessor: Config of the :class:`DomainAdaptationDataPreprocessor`; the source's statistics must be
            those that the reference was trained with.
        init_cfg: Unused, for all weights are the reference's.

    Raises:
        ConfigError: A feature map that the network does not have, a weight that is none, or nothing to regress on.

    Reference:
        Benbihi et al., Semi-Supervised Domain Adaptation with Representation Learning for Semantic Segmentation across
        Time, arXiv 1805.04141. The paper fixes the two networks, the start from the reference's weights and the
        regression between deep features without target labels; layers, distance, normalisation and the tolerance to
        misalignment are this project's choices.
    """

    learns_from_labels = False
    without_target = (
        'feature regression needs pairs, but the batch has one image set: use a PairedDataset or a '
        'GeographicPairedDataset'
    )

    def __init__(
        self,
        backbone: dict,
        decode_head: dict,
        neck: dict | None = None,
        auxiliary_head: dict | list[dict] | None = None,
        reference: str | None = None,
        features: Mapping[str, float] | None = None,
        loss_regression: dict | None = None,
        train_decode_head: bool = False,
        feature_cache: str | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(backbone, decode_head, neck, None, train_cfg, test_cfg, data_preprocessor, None, init_cfg)
        self.weights = _checked_weights({'stage4': 1.0, LAST: 1.0} if features is None else features)
        self.loss_regression: Any = MODELS.build({'type': 'FeatureRegressionLoss', **(loss_regression or {})})
        self.reference_file = reference
        self.train_decode_head = train_decode_head
        self.feature_cache = feature_cache
        self._cache: FeatureCache | None = None
        # Not all of it shows in the weights: dilations, numbers of attention heads.
        self._architecture = repr((backbone, neck, decode_head))

        copied = dict(parts_of(self))
        if train_decode_head:
            if not any(name.startswith(LAST) for name in self.weights):
                raise ConfigError(f'train_decode_head is on, but none of features {", ".join(self.weights)} is of it')
            if not hasattr(self.decode_head, 'conv_seg'):
                raise ConfigError(f'train_decode_head is on, but {type(self.decode_head).__name__} has no conv_seg')
            frozen: nn.Module = self.decode_head.conv_seg  # which no feature map depends on
        else:
            frozen = copied.pop(LAST)
        self.reference = FrozenCopy(copied, shared={LAST: self.decode_head})
        frozen.requires_grad_(False)
        self.train()
        widths = feature_widths(self.reference.network, list(self.weights), bands_of(self) or 3)
        self.spread = nn.ModuleDict({_module_name(name): ChannelSpread(width) for name, width in widths.items()})

    # Weights ---------------------------------------------------------------------------------------------------------

    def init_weights(self) -> None:
        """Load the reference, and start the student from it.

        Raises:
            ConfigError: There is no reference.
            CheckpointError: It cannot be read, or is of another network.
        """
        if self.reference_file is None:
            raise ConfigError(
                'feature regression starts from a trained network, and there is none: pass its checkpoint with '
                '--reference, or name the configuration that trains it as reference_config'
            )
        checkpoint = load_checkpoint(self.reference_file)
        weights = state_dict_of(checkpoint, self.reference_file)
        self.reference_classes = dataset_meta_of(checkpoint, self.reference_file).get('classes')
        parts = parts_of(self)
        weights = {key: value for key, value in weights.items() if key.split('.')[0] in parts}
        load_matching(Network(**parts), weights, self.reference_file, strict=True)
        self.reference.load(parts)
        self._is_init = True

    def train(self, mode: bool = True) -> FeatureRegression:
        """Set the mode of the student; what is frozen stays in evaluation mode, and so do all dropouts of the head."""
        super().train(mode)
        self.decode_head.train(mode and self.train_decode_head)
        for module in self.decode_head.modules():
            if isinstance(module, _DropoutNd):
                module.eval()
        return self

    # Regression ------------------------------------------------------------------------------------------------------

    def losses(self, source: Domain, target: Domain) -> dict[str, Tensor]:
        """``loss_NAME`` for each feature map, weighted; the n-th images of both domains show the same place."""
        losses = {}
        for name, arguments in self._compared(source, target, training=True):
            losses[f'loss_{name}'] = self.weights[name] * self.loss_regression(*arguments)
        return losses

    def predict(self, inputs: Any, data_samples: Any = None) -> list[SegDataSample]:
        """Segment images; or, for a batch of pairs, tell how far the student is from the reference.

        Args:
            inputs: ``(N, C, H, W)``; or pairs as for ``loss``.
            data_samples: Samples; or pairs of them.

        Returns:
            Samples with ``pred_sem_seg`` and ``seg_logits``; or the sources' with ``regression_losses``, the loss of
            each feature map by name, not weighted, and under ``loss`` their weighted sum. A pair without a pixel that
            both images show has none.
        """
        if isinstance(inputs, Tensor):
            return super().predict(inputs, data_samples)
        values: dict[str, Tensor] = {}
        common = torch.ones(len(data_samples['source']), dtype=torch.bool)
        source, target = self.domains(inputs, data_samples)
        for name, arguments in self._compared(source, target, training=False):
            total, weight = self.loss_regression.sums(*arguments)
            values[name] = (total / weight).detach()
            common &= weight.cpu() > 0
        values['loss'] = torch.stack([self.weights[name] * value for name, value in values.items()]).sum(0)
        for i in common.nonzero()[:, 0].tolist():
            losses = {name: float(value[i]) for name, value in values.items()}
            data_samples['source'][i].set_data(dict(regression_losses=losses))
        return data_samples['source']

    def _compared(
        self, source: Domain, target: Any, training: bool
    ) -> Iterator[tuple[str, tuple[Tensor, Tensor, Tensor, Tensor]]]:
        """For each feature map what the loss takes: the student's, the reference's, and where they are valid."""
        sizes = tuple(source.images.shape), tuple(target.images.shape)
        if sizes[0][-2:] != sizes[1][-2:] or sizes[0][0] != sizes[1][0]:
            raise ConfigError(f'the images of a pair must be of one size; {sizes[0]} and {sizes[1]} were found')
        expected = self._reference_features(source)
        found = extract_features(self, target.images, list(self.weights))
        for name in self.weights:
            # Half precision is too coarse for sums of squares over a map.
            precision = torch.promote_types(expected[name].dtype, torch.float32)
            reference, student = expected[name].to(precision), found[name].to(precision)
            valid = [domain.valid_share(student) for domain in (target, source)]
            spread: Any = self.spread[_module_name(name)]
            if training:
                spread.update(reference, valid[1])
            yield name, (spread(student), spread(reference), valid[0], valid[1])

    def _reference_features(self, source: Domain) -> dict[str, Tensor]:
        images, names = source.images, list(self.weights)
        if self.feature_cache is None:
            return self.reference.features(images, names)
        # Padding to the size of a batch changes feature maps, and so does autocast, which validation may not have.
        precision = (images.new_ones(1, 1) @ images.new_ones(1, 1)).dtype
        keys = [f'{_image_key(meta)}\n{tuple(images.shape[1:])} {precision}' for meta in source.metas]
        return self._open_cache().of_batch(keys, lambda i: self.reference.features(images[i], names), images.device)

    def _open_cache(self) -> FeatureCache:
        if self._cache is None:
            # Beside the weights: what is made of them, and how pixels are normalised and padded.
            preprocessor = self.data_preprocessor
            how = [self._architecture, sorted(self.weights), preprocessor.pad_values]
            how += [preprocessor.source_mean.tolist(), preprocessor.source_std.tolist()]
            self._cache = FeatureCache(self.feature_cache or '', f'{weights_digest(self.reference.network)} {how}')
        return self._cache


def _module_name(feature: str) -> str:
    return feature.replace('.', '_')


def _image_key(meta: Mapping[str, Any]) -> str:
    if (key := meta.get('image_key')) is None:
        raise ConfigError(
            f'model.feature_cache is set, but {meta.get("img_path", "an image")} is cropped, resized or coloured at '
            'random, so that its features are new each time: take such transforms out of the pipelines of the pairs '
            '(RandomFlip may stay), set windows.jitter to False, or leave feature_cache out'
        )
    return key
