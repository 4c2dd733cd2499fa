"""Rare-class sampling: source images with rare classes are drawn more often."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.logging import print_log

from mmrs.registry import DATA_SAMPLERS
from mmrs.utils.errors import ConfigError, require_number

#: Fewer classes than this ask for a larger temperature.
_FEW = 10


class RareClassSampling:
    """Probabilities of images and classes under rare-class sampling.

    A class c is drawn with `P(c) = softmax((1 - f(c)) / temperature)`, `f(c)` being its share of the labelled pixels;
    then, uniformly, one of the images with at least `min_pixels` of it.

    Args:
        counts: Pixels of each class in each image, `(images, K)`.
        classes: Names of the classes.
        temperature: Near 0 the rarest class alone is drawn; the larger, the more uniformly. None: 0.01, as published
            for 19 classes, or 0.1 for fewer than 10, of which 0.01 would draw the rarest alone.
        min_pixels: How many pixels of a class an image needs to be drawn for it.

    Raises:
        ConfigError: An argument cannot work, or no image has enough pixels of any class.

    Reference:
        Hoyer et al., DAFormer, arXiv 2111.14887, section 3.3.
    """

    def __init__(
        self, counts: np.ndarray, classes: Sequence[str], temperature: float | None = None, min_pixels: int = 3000
    ) -> None:
        if temperature is None:
            temperature = 0.1 if len(classes) < _FEW else 0.01
        require_number('rare_class_sampling: temperature', temperature, above=0)
        eligible = counts >= max(min_pixels, 1)
        images = eligible.sum(axis=0)
        if not images.any():
            raise ConfigError(
                f'rare_class_sampling: no image has {min_pixels} pixels of a class; the most is '
                f'{counts.max(initial=0)}. Set a smaller min_pixels.'
            )
        share = counts.sum(axis=0) / counts.sum()
        exponent = (1 - share) / temperature
        probability = np.where(images > 0, np.exp(np.minimum(exponent - exponent[images > 0].max(), 0)), 0)
        #: Probability of each class, `(K,)`; 0 for a class without images.
        self.class_probability = probability / probability.sum()
        #: Probability of each image together with the class it is drawn for, `(images, K)`; sums to 1.
        self.weights = eligible * (self.class_probability / np.maximum(images, 1))
        rows = '; '.join(
            f'{name} {100 * p:.3g} % (pixels {100 * s:.3g} %, {n} images)'
            for name, p, s, n in zip(classes, self.class_probability, share, images)
        )
        print_log(f'rare-class sampling: {rows}', logger='current')


@DATA_SAMPLERS.register_module()
class RareClassSampler(InfiniteSampler):
    """Draws images without end, with replacement, by the `rare_class_sampling` of the (source) data set.

    With several processes each takes its share of one common sequence, as MMEngine's `InfiniteSampler` does. Together
    with `RareClassCrop` the crop, too, shows the class that the image was drawn for.

    Args:
        dataset: A data set with `rare_class_sampling`, or a `DomainAdaptationDataset` of such a source.
        **kwargs: As in `InfiniteSampler`.

    Raises:
        ConfigError: The data set has no `rare_class_sampling` or no labels, or is another one inside a wrapper.
    """

    def __init__(self, dataset: Any, **kwargs: Any) -> None:
        super().__init__(dataset, **kwargs)
        source = getattr(dataset, 'source', dataset)
        if not hasattr(type(source), 'rare_classes'):
            raise ConfigError(
                f'RareClassSampler cannot draw from a {type(source).__name__}; a data set with rare_class_sampling, '
                'or a DomainAdaptationDataset of such a source, was expected. Take the data set out of its wrapper.'
            )
        self._weights = torch.from_numpy(source.rare_classes.weights.sum(axis=1))

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from torch.multinomial(self._weights, self.size, replacement=True, generator=generator).tolist()
