from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import to_2tuple
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from mmrs.registry import MODELS
from mmrs.utils import ConfigError
from mmrs.weights import dataset_meta_of, load_matching, state_dict_of

from ..data_preprocessor import valid_pixels
from ..feature_cache import FeatureCache, weights_digest
from ..widths import bands_of, misfits_explained, require_stages, run_once

#: The input of the classifier.
LAST = 'decode_head'

#: Size of the image on which the feature maps' widths are read.
_PROBE = 128


class Network(nn.Module):
    """Backbone, neck and decode head, as an mmseg segmentor names them."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def parts_of(segmentor: nn.Module) -> dict[str, nn.Module]:
    """The parts that take part in prediction; an auxiliary head does not."""
    parts = {name: getattr(segmentor, name, None) for name in ('backbone', 'neck', LAST)}
    return {name: part for name, part in parts.items() if part is not None}


@contextmanager
def _without_classifier(head: nn.Module, found: dict[str, Any]) -> Iterator[None]:
    """Run a head without its classifier, whose input is recorded: some heads return more than the one map."""
    classifier = getattr(head, 'conv_seg', None)
    if classifier is None:
        yield
        return
    head.conv_seg = nn.Identity()
    head.conv_seg.register_forward_hook(lambda _module, _inputs, output: found.__setitem__(LAST, output))
    try:
        yield
    finally:
        head.conv_seg = classifier


@contextmanager
def _recorded(network: nn.Module, names: Sequence[str], found: dict[str, Any]) -> Iterator[None]:
    """Record outputs of submodules, by their dotted names."""

    def record(name: str) -> Any:
        # A copy, for the next module may work in place, as activations do.
        return lambda _module, _inputs, output: found.__setitem__(
            name, output.clone() if isinstance(output, Tensor) else output
        )

    with ExitStack() as stack:
        for name in names:
            stack.callback(network.get_submodule(name).register_forward_hook(record(name)).remove)
        yield


def extract_features(network: Any, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Feature maps of images, without running more of the network than they need.

    Args:
        network: Has a `backbone`, perhaps a `neck`, and a `decode_head`.
        images: ``(N, C, H, W)``, normalised.
        names: ``stage1`` and so on (outputs of the backbone), ``decode_head`` (the input of its classifier), or dotted
            names of submodules such as ``backbone.layer3``.

    Returns:
        Feature maps ``(N, C_i, H_i, W_i)`` by name, in the order of `names`.
    """
    found: dict[str, Any] = {}
    dotted = [name for name in names if '.' in name]
    with _recorded(network, dotted, found):
        stages = network.backbone(images)
        found.update({f'stage{i}': stage for i, stage in enumerate(stages, 1)})
        if LAST in names or any(name.startswith(('decode_head.', 'neck.')) for name in dotted):
            neck = getattr(network, 'neck', None)
            with _without_classifier(network.decode_head, found):
                network.decode_head(stages if neck is None else neck(stages))
    return {name: found[name] for name in names if name in found}


class ChannelSpread(nn.Module):
    """Running standard deviation of each channel of a feature map.

    It is the one of all batches so far, the later ones counting more: a batch counts 1 / n as the n-th, but no less
    than `momentum`. Pixels count by their validity; several processes measure together.

    Args:
        channels: C.
        momentum: 0 to 1.
        floor: A channel's variance counts as no less than this share of the mean over the channels, for a channel that
            is silent in the reference would drown all others.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, channels: int, momentum: float = 0.01, floor: float = 1e-2) -> None:
        super().__init__()
        self.momentum, self.floor = momentum, floor
        self.register_buffer('mean', torch.zeros(channels))
        self.register_buffer('variance', torch.ones(channels))
        self.register_buffer('batches', torch.zeros(()))

    @torch.no_grad()
    def update(self, features: Tensor, valid: Tensor) -> None:
        """Take a batch ``(N, C, H, W)`` of the reference's features and its ``(N, H, W)`` weights into account."""
        weight = valid[:, None]
        sums = torch.cat(((features * weight).sum((0, 2, 3)), weight.sum().view(1)))
        all_reduce(sums)
        count = sums[-1]
        mean = sums[:-1] / count.clamp(min=torch.finfo(count.dtype).tiny)
        squares = ((features - mean[:, None, None]).square() * weight).sum((0, 2, 3))
        all_reduce(squares)
        variance = squares / count.clamp(min=torch.finfo(count.dtype).tiny)

        # A batch without a valid pixel changes nothing.
        some = (count > 0).to(count.dtype)
        self.batches += some
        share = some * (1 / self.batches.clamp(min=1)).clamp(min=self.momentum)
        offset = mean - self.mean
        self.mean += share * offset
        self.variance.copy_((1 - share) * self.variance + share * variance + share * (1 - share) * offset.square())

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(N, C, H, W)`` in units of the running standard deviation."""
        least = self.floor * self.variance.mean()
        return features / self.variance.clamp(min=least + torch.finfo(least.dtype).tiny).sqrt()[:, None, None]


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
class FeatureRegression(EncoderDecoder):
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

    #: The losses of the decode head are not used.
    learns_from_labels = False

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
        #: Names of the classes of its outputs, where it has them, once its weights are loaded.
        self.reference_classes: Sequence[str] | None = None
        self.train_decode_head = train_decode_head
        self.feature_cache = feature_cache
        self._cache: FeatureCache | None = None
        # Not all of it shows in the weights: dilations, numbers of attention heads.
        self._architecture = repr((backbone, neck, decode_head))

        copied = {name: copy.deepcopy(part) for name, part in parts_of(self).items()}
        if train_decode_head:
            if not any(name.startswith(LAST) for name in self.weights):
                raise ConfigError(f'train_decode_head is on, but none of features {", ".join(self.weights)} is of it')
            if not hasattr(self.decode_head, 'conv_seg'):
                raise ConfigError(f'train_decode_head is on, but {type(self.decode_head).__name__} has no conv_seg')
            frozen: nn.Module = self.decode_head.conv_seg  # which no feature map depends on
        else:
            del copied[LAST]
            frozen = self.decode_head
        frozen.requires_grad_(False)
        self.reference = Network(**copied).requires_grad_(False)
        self.train()
        self.spread = nn.ModuleDict({self._module_name(name): ChannelSpread(c) for name, c in self._widths().items()})

    @staticmethod
    def _module_name(feature: str) -> str:
        return feature.replace('.', '_')

    def _widths(self) -> dict[str, int]:
        """Channels of the feature maps; checks their names on the way."""
        network: Any = self._reference_network
        for name in self.weights:
            try:
                network.get_submodule(name if '.' in name else 'backbone')
            except AttributeError as error:
                raise ConfigError(f'features: the network has no module {name} ({error})') from error

        def run(image: Tensor) -> tuple[int, dict[str, Tensor]]:
            stages = network.backbone(image)
            if isinstance(stages, Tensor):
                # DDRNet and PIDNet: in training they return more, which a head in evaluation mode does not take.
                raise ConfigError(
                    f'feature regression needs a backbone that returns the same stages in training and in evaluation; '
                    f'{type(self.backbone).__name__} returns one map, and no stages, in evaluation'
                )
            if not self.with_neck and isinstance(self.decode_head, BaseDecodeHead):
                require_stages(f'model.{LAST}', self.decode_head, stages)
            return len(stages), extract_features(network, image, list(self.weights))

        bands = bands_of(self) or 3
        # Some transformers take images of one size only.
        height, width = to_2tuple(getattr(self.backbone, 'img_size', _PROBE))
        with misfits_explained(network, bands):
            stages, found = run_once(network, run, bands, (height, width))
        known = f'stage1 to stage{stages}, {LAST}, or the dotted name of a module such as backbone.NAME'
        for name in self.weights:
            if name == LAST and name not in found:
                raise ConfigError(
                    f'features: {LAST} is the input of conv_seg, which {type(self.decode_head).__name__} does not run; '
                    f'take out {LAST}, or give the dotted name of a module'
                )
            if name not in found:
                why = f'{name} does not run as a module of its own' if '.' in name else f'there is no {name}'
                raise ConfigError(f'features: {why}; there are {known}')
            if not isinstance(found[name], Tensor) or found[name].dim() != 4:
                raise ConfigError(f'features: what {name} returns is no feature map (N, C, H, W); there are {known}')
        return {name: feature.shape[1] for name, feature in found.items()}

    @property
    def _reference_network(self) -> Network:
        """The reference, complete with the head that it may share with the student."""
        return Network(**{LAST: self.decode_head, **parts_of(self.reference)}).eval()

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
        checkpoint = CheckpointLoader.load_checkpoint(self.reference_file, 'cpu')
        weights = state_dict_of(checkpoint, self.reference_file)
        self.reference_classes = dataset_meta_of(checkpoint, self.reference_file).get('classes')
        student = Network(**parts_of(self))
        used = tuple(f'{name}.' for name in parts_of(self))
        weights = {key: value for key, value in weights.items() if key.startswith(used)}
        load_matching(student, weights, self.reference_file, strict=True)
        for name, part in parts_of(self.reference).items():
            part.load_state_dict(student.get_submodule(name).state_dict())
        self._is_init = True

    def train(self, mode: bool = True) -> FeatureRegression:
        """Set the mode of the student; what is frozen stays in evaluation mode, and so do all dropouts of the head."""
        super().train(mode)
        if hasattr(self, 'reference'):
            self.reference.eval()
            self.decode_head.train(mode and self.train_decode_head)
            for module in self.decode_head.modules():
                if isinstance(module, _DropoutNd):
                    module.eval()
        return self

    # Regression ------------------------------------------------------------------------------------------------------

    def loss(self, inputs: dict[str, Tensor], data_samples: dict[str, list[SegDataSample]]) -> dict[str, Tensor]:
        """Regression losses of a batch of pairs.

        Args:
            inputs: ``dict(source, target)`` of ``(N, C, H, W)`` images; the n-th of both show the same place.
            data_samples: ``dict(source, target)`` of samples, of which only ``valid_map`` is looked at, where they
                have one.

        Returns:
            ``loss_NAME`` for each feature map, weighted.
        """
        losses = {}
        for name, arguments in self._compared(inputs, data_samples, training=True):
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
        for name, arguments in self._compared(inputs, data_samples, training=False):
            total, weight = self.loss_regression.sums(*arguments)
            values[name] = (total / weight).detach()
            common &= weight.cpu() > 0
        values['loss'] = torch.stack([self.weights[name] * value for name, value in values.items()]).sum(0)
        for i in common.nonzero()[:, 0].tolist():
            losses = {name: float(value[i]) for name, value in values.items()}
            data_samples['source'][i].set_data(dict(regression_losses=losses))
        return data_samples['source']

    def _compared(
        self, inputs: Any, data_samples: Any, training: bool
    ) -> Iterator[tuple[str, tuple[Tensor, Tensor, Tensor, Tensor]]]:
        """For each feature map what the loss takes: the student's, the reference's, and where they are valid."""
        if isinstance(inputs, Tensor):
            raise ConfigError(
                'feature regression needs pairs, but the batch has one image set: use a PairedDataset or a '
                'GeographicPairedDataset'
            )
        source, target = inputs['source'], inputs['target']
        if source.shape[-2:] != target.shape[-2:] or len(source) != len(target):
            raise ConfigError(
                f'the images of a pair must be of one size; {tuple(source.shape)} and {tuple(target.shape)} were found'
            )
        expected = self._reference_features(source, data_samples['source'])
        found = extract_features(self, target, list(self.weights))
        masks = [valid_pixels(data_samples[domain], inputs[domain]) for domain in ('target', 'source')]
        for name, reference in expected.items():
            # Half precision is too coarse for sums of squares over a map.
            precision = torch.promote_types(reference.dtype, torch.float32)
            reference, student = reference.to(precision), found[name].to(precision)
            valid = [self._valid_share(mask, student) for mask in masks]
            spread: Any = self.spread[self._module_name(name)]
            if training:
                spread.update(reference, valid[1])
            yield name, (spread(student), spread(reference), valid[0], valid[1])

    @staticmethod
    def _valid_share(mask: Tensor | None, features: Tensor) -> Tensor:
        """The share of each pixel of a feature map ``(N, C, h, w)`` for which ``(N, H, W)`` is True."""
        if mask is None:
            return features.new_ones(len(features), *features.shape[-2:])
        return F.interpolate(mask[:, None].to(features.dtype), features.shape[-2:], mode='area')[:, 0]

    @torch.no_grad()
    def _reference_features(self, images: Tensor, samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        if self.feature_cache is None:
            return extract_features(self._reference_network, images, list(self.weights))
        cache = self._open_cache()
        # Padding to the size of a batch changes feature maps, and so does autocast, which validation may not have.
        precision = (images.new_ones(1, 1) @ images.new_ones(1, 1)).dtype
        keys = [f'{self._image_key(sample)}\n{tuple(images.shape[1:])} {precision}' for sample in samples]
        kept = {i: found for i, key in enumerate(keys) if (found := cache.get(key)) is not None}
        missing = [i for i in range(len(keys)) if i not in kept]
        if missing:
            computed = extract_features(self._reference_network, images[missing], list(self.weights))
            for n, i in enumerate(missing):
                kept[i] = {name: feature[n] for name, feature in computed.items()}
                cache.put(keys[i], kept[i])
        return {name: torch.stack([kept[i][name].to(images.device) for i in range(len(keys))]) for name in self.weights}

    def _open_cache(self) -> FeatureCache:
        if self._cache is None:
            # Beside the weights: what is made of them, and how pixels are normalised and padded.
            preprocessor = self.data_preprocessor
            how = [self._architecture, sorted(self.weights), preprocessor.pad_values]
            how += [preprocessor.source_mean.tolist(), preprocessor.source_std.tolist()]
            self._cache = FeatureCache(self.feature_cache or '', f'{weights_digest(self._reference_network)} {how}')
        return self._cache

    @staticmethod
    def _image_key(sample: SegDataSample) -> str:
        key = sample.metainfo.get('image_key')
        if key is None:
            raise ConfigError(
                f'model.feature_cache is set, but {sample.metainfo.get("img_path", "an image")} is cropped, resized or '
                'coloured at random, so that its features are new each time: take such transforms out of the pipelines '
                'of the pairs (RandomFlip may stay), set windows.jitter to False, or leave feature_cache out'
            )
        return key
