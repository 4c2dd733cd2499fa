from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mmrs.models.binary import two_logits

from .changes import CHANGES, OUTSIDE, PHOTOMETRIC

__all__ = ['Observation', 'observe', 'predicted_logits']


class Observation:
    """An image of the target, and what a network says of it when it is asked.

    Answers are kept: criteria that look at the same change share one pass of the network.

    Args:
        image: ``(C, H, W)``, normalised.
        valid: ``(H, W)``, bool: where there are data; None: everywhere.
        predict: From images ``(N, C, h, w)`` to probabilities ``(N, K, h, w)``, in evaluation mode, as deployed.
        preprocessor: The :class:`DomainAdaptationDataPreprocessor`, which knows the range of values.
        teacher: As `predict`, of the teacher; None: there is none.
        embed: As `predict`, with features ``(N, D, h, w)`` of the image's size in place of probabilities; None: none.
        domain: Whose mean, deviation and range of values hold.
        threshold: Of binary segmentation by one output: the probability above which a pixel is of the second class;
            None: a pixel is of the most probable one.
    """

    def __init__(
        self,
        image: Tensor,
        valid: Tensor | None,
        predict: Callable[[Tensor], Tensor],
        preprocessor: Any = None,
        teacher: Callable[[Tensor], Tensor] | None = None,
        embed: Callable[[Tensor], Tensor] | None = None,
        domain: str = 'target',
        threshold: float | None = None,
    ) -> None:
        self.image, self._predict, self._teacher, self._embed = image, predict, teacher, embed
        self.valid = torch.ones_like(image[0], dtype=torch.bool) if valid is None else valid
        self._preprocessor, self._domain, self.threshold = preprocessor, domain, threshold
        self._changed: dict[str, Tensor] = {}

    @functools.cached_property
    def probability(self) -> Tensor:
        """``(K, H, W)``."""
        return self.predict(self.image)

    @functools.cached_property
    def label(self) -> Tensor:
        """The predicted class, ``(H, W)``."""
        return self.classified(self.probability)

    @functools.cached_property
    def pixels(self) -> Tensor:
        """Probabilities of the pixels that have data, ``(M, K)``."""
        return self.probability[:, self.valid].T

    @functools.cached_property
    def taught(self) -> Tensor:
        """What the teacher says, ``(K, H, W)``; without a teacher :attr:`probability`."""
        return self.probability if self._teacher is None else self._ask(self._teacher, self.image)

    @functools.cached_property
    def features(self) -> Tensor:
        """``(D, H, W)``; without them the logarithms of :attr:`probability`."""
        return self.probability.clamp(min=1e-12).log() if self._embed is None else self._ask(self._embed, self.image)

    def classified(self, probability: Tensor) -> Tensor:
        """The classes ``(H, W)`` of probabilities ``(K, H, W)``."""
        return probability.argmax(0) if self.threshold is None else (probability[1] > self.threshold).long()

    def predict(self, image: Tensor) -> Tensor:
        """Probabilities ``(K, h, w)`` of another image ``(C, h, w)``."""
        return self._ask(self._predict, image)

    def under(self, change: str) -> Tensor:
        """Probabilities ``(K, H, W)`` of the changed image, moved back; ``OUTSIDE`` where that shows nothing."""
        if change not in self._changed:
            images, own = self.image[None], CHANGES[change]
            if change in PHOTOMETRIC:
                images = self._preprocessor.denormalize(images, self._domain)
                images = self._preprocessor.normalize(own.apply(images).clamp(0, 1), self._domain)
            else:
                images = own.apply(images)
            maps = self.predict(images[0])[None]
            self._changed[change] = own.undo(maps, self.image.shape[-2:])[0]
        return self._changed[change]

    def label_under(self, change: str) -> tuple[Tensor, Tensor]:
        """The predicted class of the changed image, ``(H, W)``, and where it and the image have data."""
        probability = self.under(change)
        return self.classified(probability), self.valid & (probability[0] != OUTSIDE)

    def shifted(self, offsets: Tensor) -> Observation:
        """The same as under another class prior, of the same passes of the network.

        Args:
            offsets: Added to the logits, ``(K,)``.
        """
        return _Shifted(self, offsets)

    @torch.no_grad()
    def _ask(self, network: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        maps = network(image[None])[0]
        return maps.to(torch.promote_types(maps.dtype, torch.float32))


class _Shifted(Observation):
    """An observation under another class prior."""

    def __init__(self, seen: Observation, offsets: Tensor) -> None:
        super().__init__(seen.image, seen.valid, seen.predict, threshold=seen.threshold)
        self._seen, self._factors = seen, offsets.exp()[:, None, None]

    @functools.cached_property
    def probability(self) -> Tensor:
        return self._shift(self._seen.probability)

    @functools.cached_property
    def taught(self) -> Tensor:
        return self._shift(self._seen.taught)

    @property
    def features(self) -> Tensor:
        return self._seen.features

    def predict(self, image: Tensor) -> Tensor:
        return self._shift(self._seen.predict(image))

    def under(self, change: str) -> Tensor:
        if change not in self._changed:
            maps = self._seen.under(change)
            self._changed[change] = torch.where(maps == OUTSIDE, maps, self._shift(maps))
        return self._changed[change]

    def _shift(self, probability: Tensor) -> Tensor:
        shifted = probability * self._factors.to(probability)
        return shifted / shifted.sum(0)


def observe(model: Any, samples: Iterable[Mapping[str, Any]], domain: str = 'target') -> Iterator[Observation]:
    """Images as a model in evaluation mode sees them.

    Args:
        model: A segmentor of mmseg or an adaptor, with a :class:`DomainAdaptationDataPreprocessor`.
        samples: Packed samples, ``dict(inputs, data_samples)``.
        domain: Whose mean, deviation and range of values hold.
    """
    device = next(model.parameters()).device
    teacher = getattr(model, 'teacher', None)
    taught = functools.partial(_taught, teacher) if hasattr(teacher, 'backbone') else None  # a whole network
    threshold = model.decode_head.threshold if getattr(model, 'out_channels', None) == 1 else None
    for sample in samples:
        known = sample['data_samples']
        batch = {domain: dict(inputs=[sample['inputs'].to(device)], data_samples=[known])}
        image = model.data_preprocessor(batch)['inputs'][domain][0]
        height, width = sample['inputs'].shape[-2:]
        valid = image.new_zeros(image.shape[-2:], dtype=torch.bool)  # where a test pads, there is nothing to see
        valid[:height, :width] = known.valid_map.data[0] if 'valid_map' in known else True
        network = functools.partial(_predicted, model)
        yield Observation(image, valid, network, model.data_preprocessor, taught, domain=domain, threshold=threshold)


def _predicted(model: Any, images: Tensor) -> Tensor:
    return predicted_logits(model, images).softmax(1)


def predicted_logits(model: Any, images: Tensor) -> Tensor:
    """Logits ``(N, K, H, W)``, float32, of normalised images ``(N, C, H, W)``, as the network is deployed."""
    height, width = images.shape[-2:]
    meta = dict(img_shape=(height, width), ori_shape=(height, width), pad_shape=(height, width))
    logits = model.inference(images, [meta] * len(images))[..., :height, :width]  # by windows, if `test_cfg` says so
    return two_logits(logits).float()


def _taught(teacher: Any, images: Tensor) -> Tensor:
    return two_logits(teacher.logits(images)).float().softmax(1)
