from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from mmseg.utils import stack_batch
from torch import Tensor
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils import ConfigError

#: The keys of a two-domain batch.
DOMAINS = ('source', 'target')


@MODELS.register_module()
class DomainAdaptationDataPreprocessor(BaseDataPreprocessor):
    """Normalises, pads and stacks two-domain and plain batches of any number of bands.

    A two-domain batch, ``dict(source=dict(inputs, data_samples), target=...)``, becomes
    ``dict(inputs=dict(source, target), data_samples=dict(source, target))``, which is what an adaptor's ``forward``
    takes. What else it has, ``labelled`` images of the target, is normalised as the target is. A plain batch,
    ``dict(inputs, data_samples)`` (validation, test, prediction, training on one domain), stays plain. Bands keep the
    order of the file.

    In training the images of a batch are padded to one size, those of both domains together: a source image that was
    scaled to less than a crop would else be too small for the layers that look at patches.

    Pixels without data, where the ``valid_map`` of a sample is False, become zero after normalisation. In training a
    padded image, too, has a ``valid_map``, whose padded pixels are False.

    For changes of colour, :meth:`denormalize` gives images as shares of the range of values. That is 0 to 255 if the
    images come with 8 bits; of other types, it is what lies within three standard deviations of the mean of a band.

    Args:
        mean: Mean per band, in the image's own units (0 to 255 for 8 bit).
        std: Standard deviation per band, likewise.
        source_mean: The source's mean where it differs; ``mean`` is then for the target and for plain batches.
        source_std: The source's standard deviation, likewise.
        size_divisor: In training, images are padded at the right and bottom to a multiple of this number.
        size: In training, pad to this ``(height, width)`` instead.
        pad_val: Value of padded pixels, after normalisation.
        seg_pad_val: Label of padded pixels.
        test_cfg: ``dict(size=...)`` or ``dict(size_divisor=...)`` to pad in test and validation too.

    Raises:
        ConfigError: If lengths of ``mean`` and ``std`` differ, or an image has another number of bands.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        source_mean: Sequence[float] | None = None,
        source_std: Sequence[float] | None = None,
        size_divisor: int | None = None,
        size: tuple[int, int] | None = None,
        pad_val: float = 0,
        seg_pad_val: int = 255,
        test_cfg: dict | None = None,
        non_blocking: bool = True,
    ) -> None:
        super().__init__(non_blocking=non_blocking)
        for domain, values in (
            ('target', (mean, std)),
            ('source', (mean if source_mean is None else source_mean, std if source_std is None else source_std)),
        ):
            if 'auto' in values:
                raise ConfigError(
                    f"{domain}: mean or std is 'auto', for which tools/train.py and tools/test.py put numbers: use the "
                    'configuration in the work dir, or the numbers that tools/analysis_tools/band_statistics.py prints'
                )
            if len(values[0]) != len(values[1]):
                raise ConfigError(f'{domain}: {len(values[0])} means but {len(values[1])} standard deviations')
            for name, value in zip(('mean', 'std'), values):
                self.register_buffer(f'{domain}_{name}', torch.tensor(value).float().view(-1, 1, 1), persistent=False)
        self.size, self.size_divisor = size, size_divisor or 1
        self.pad_values = dict(pad_val=pad_val, seg_pad_val=seg_pad_val)
        self.test_cfg = test_cfg
        self._eight_bits = False

    def denormalize(self, images: Tensor, domain: str) -> Tensor:
        """Normalised images ``(N, C, H, W)`` of a domain as shares, 0 to 1, of the range of values of each band."""
        scale, offset = self._share_of_range(domain)
        return images * scale + offset

    def normalize(self, images: Tensor, domain: str) -> Tensor:
        """The normalised images of which :meth:`denormalize` makes these."""
        scale, offset = self._share_of_range(domain)
        return (images - offset) / scale

    def _share_of_range(self, domain: str) -> tuple[Tensor, Tensor]:
        mean, std = getattr(self, f'{domain}_mean'), getattr(self, f'{domain}_std')
        if self._eight_bits:
            return std / 255, mean / 255
        return torch.full_like(std, 1 / 6), torch.full_like(mean, 1 / 2)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a collated batch; see the class for its two forms."""
        data = self.cast_data(data)
        batches = [data] if 'inputs' in data else data.values()
        self._eight_bits = all(image.dtype == torch.uint8 for batch in batches for image in batch['inputs'])
        if 'inputs' in data:
            return self._prepare(data, 'target', training, data['inputs'])
        images = [image for batch in data.values() for image in batch['inputs']]
        domains = {
            name: self._prepare(batch, 'source' if name == 'source' else 'target', training, images)
            for name, batch in data.items()
        }
        return {key: {d: batch[key] for d, batch in domains.items()} for key in ('inputs', 'data_samples')}

    def _prepare(self, data: dict, domain: str, training: bool, together: Sequence[Tensor]) -> dict:
        """Prepare the batch of a domain; in training it is padded to the largest sides of the images ``together``."""
        mean, std = getattr(self, f'{domain}_mean'), getattr(self, f'{domain}_std')
        samples = data.get('data_samples')
        inputs = [self._normalize(image, mean, std, samples, i) for i, image in enumerate(data['inputs'])]
        if training:
            largest = [max(image.shape[axis] for image in together) for axis in (-2, -1)]
            size = self.size or tuple(math.ceil(side / self.size_divisor) * self.size_divisor for side in largest)
            batch, samples = stack_batch(inputs, samples, size=size, **self.pad_values)
            for image, sample in zip(inputs, samples or ()):
                _pad_valid_map(sample, image, batch)
        elif self.test_cfg:
            batch, padding = stack_batch(inputs, **self.test_cfg, **self.pad_values)
            for sample, meta in zip(samples or (), padding):
                sample.set_metainfo(meta)
        else:
            sizes = sorted({tuple(image.shape[1:]) for image in inputs})
            if len(sizes) > 1:
                raise ConfigError(f'images of different sizes {sizes} in one test batch: use batch_size=1 or test_cfg')
            batch = torch.stack(inputs)
        return dict(inputs=batch, data_samples=samples)

    @staticmethod
    def _normalize(image: Tensor, mean: Tensor, std: Tensor, samples: list | None, index: int) -> Tensor:
        if image.shape[0] != mean.shape[0]:
            name = samples[index].metainfo.get('img_path', 'an image') if samples else 'an image'
            raise ConfigError(
                f'{name} has {image.shape[0]} bands, but the data preprocessor has mean and std for '
                f'{mean.shape[0]}: give one value per band in model.data_preprocessor'
            )
        image = (image.float() - mean) / std
        if samples and 'valid_map' in samples[index]:
            image = image.masked_fill(~samples[index].valid_map.data, 0)
        return image


def _pad_valid_map(sample: SegDataSample, image: Tensor, batch: Tensor) -> None:
    """Bring the map of valid pixels to the size of the batch; an image of that size stays as it is."""
    missing = [batch.shape[axis] - image.shape[axis] for axis in (-1, -2)]
    if not any(missing):
        return
    if 'valid_map' in sample:
        valid = sample.valid_map.data
        del sample.valid_map  # it takes no data of another size
    else:
        valid = image.new_ones(1, *image.shape[-2:], dtype=torch.bool)
    sample.valid_map = PixelData(data=F.pad(valid, (0, missing[0], 0, missing[1]), value=False))


def valid_pixels(samples: Sequence[SegDataSample] | None, images: Tensor) -> Tensor | None:
    """Where the images ``(N, C, H, W)`` have data, ``(N, H, W)``; None if all pixels of all images have data."""
    if not any('valid_map' in sample for sample in samples or ()):
        return None
    everywhere = images.new_ones(1, *images.shape[-2:], dtype=torch.bool)
    return torch.cat([s.valid_map.data if 'valid_map' in s else everywhere for s in samples or ()])
