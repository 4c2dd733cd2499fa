import colorsys
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mmrs.models.data_preprocessor import DomainAdaptationDataPreprocessor
from mmrs.models.parts.strong_augmentation import AugmentationDraws, StrongAugmentation, colour_jitter, gaussian_blur
from mmrs.utils import ConfigError

GOLDEN = torch.load(Path(__file__).resolve().parents[2] / 'data/golden/uda_strong_augmentation.pt', weights_only=True)
CHANGES = ('brightness', 'contrast', 'saturation', 'hue')


@pytest.fixture
def preprocessor():
    own = DomainAdaptationDataPreprocessor(GOLDEN['mean'].tolist(), GOLDEN['std'].tolist(), [90.0] * 3, [40.0] * 3)
    domain = dict(inputs=[GOLDEN['image_u8']], data_samples=None)
    own(dict(source=domain, target=domain))
    return own


@pytest.mark.parametrize('case', GOLDEN['jitter'], ids=lambda case: str(case['order'].tolist()))
def test_colours_equal_the_release(case, preprocessor):
    image = preprocessor(dict(inputs=[GOLDEN['image_u8']]))['inputs']
    draws = AugmentationDraws(case['order'].tolist(), torch.tensor([[case[name]] for name in CHANGES]), None)
    out = StrongAugmentation()(image, preprocessor, 'target', draws)
    torch.testing.assert_close(out[0], case['out'], rtol=0, atol=1e-4)


@pytest.mark.parametrize('case', GOLDEN['blur'], ids=lambda case: f'{case["sigma"]:.2f}')
def test_blur_equals_the_release(case):
    out = gaussian_blur(case['image'][None], torch.tensor([case['sigma']]))
    torch.testing.assert_close(out[0], case['out'], rtol=0, atol=1e-4)


def by_hand(image: np.ndarray, order, factors) -> np.ndarray:
    """A float64 image ``(3, H, W)``, pixel by pixel, by Python's own colour space."""
    out = np.empty_like(image)
    for y, x in np.ndindex(image.shape[1:]):
        pixel = image[:, y, x]
        for change in order:
            if change == 0:
                pixel = np.clip(pixel + factors[0] - 1, 0, 1)
            elif change == 1:
                pixel = np.clip(pixel * factors[1], 0, 1)
            else:
                hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
                saturation = min(saturation * factors[2], 1) if change == 2 else saturation
                pixel = np.array(colorsys.hsv_to_rgb((hue + factors[3] * (change == 3)) % 1, saturation, value))
        out[:, y, x] = pixel
    return out


@pytest.mark.parametrize('rgb', [(0, 1, 2), (3, 0, 2)])
def test_bands_that_are_named_equal_a_formula(rgb):
    torch.manual_seed(0)
    images = torch.rand(2, 5, 6, 7, dtype=torch.float64)
    images[:, :, 0] = images[:, :1, 0]  # grey
    images[0, rgb[1]] = images[0, rgb[0]]  # two bands that are the largest, or the smallest
    factors = torch.tensor([[1.1, 0.8], [0.7, 1.3], [1.4, 0.5], [0.15, -0.2]], dtype=torch.float64)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        found = colour_jitter(images, order, factors, rgb)
        for image, out, own in zip(images, found, factors.T.tolist()):
            expected = by_hand(image[list(rgb)].numpy(), order, own)
            np.testing.assert_allclose(out[list(rgb)], expected, atol=1e-6)
            others = [i for i in range(5) if i not in rgb]
            expected = image[others]
            for change in order:
                if change < 2:
                    expected = (expected + own[0] - 1 if change == 0 else expected * own[1]).clip(0, 1)
            torch.testing.assert_close(out[others], expected)


def test_kernels_are_those_of_the_release():
    """A point spreads as far as the published kernel reaches, or its weights are above 1e-10; and by a Gaussian."""
    for size, (height, width) in GOLDEN['blur_kernel_sizes'].items():
        rows, columns = (int(side) for side in size.split('x'))
        image = torch.zeros(1, 1, rows, columns, dtype=torch.float64)
        image[..., rows // 2, columns // 2] = 1
        out = gaussian_blur(image, torch.tensor([1.15]))[0, 0]
        for profile, side in ((out.sum(1), height), (out.sum(0), width)):
            radius = side // 2
            distance = np.arange(-radius, radius + 1)
            kernel = np.exp(-(distance**2) / (2 * 1.15**2))
            middle = len(profile) // 2
            np.testing.assert_allclose(profile[middle - radius : middle + radius + 1], kernel / kernel.sum(), atol=1e-9)
            assert profile.count_nonzero() == min(side, 2 * math.ceil(7 * 1.15) + 1)


def test_each_image_has_its_own_sigma():
    images = torch.rand(2, 3, 40, 40)
    both = gaussian_blur(images, torch.tensor([0.2, 1.1]))
    for image, sigma, out in zip(images, (0.2, 1.1), both):
        torch.testing.assert_close(gaussian_blur(image[None], torch.tensor([sigma]))[0], out)


def test_what_is_drawn():
    torch.manual_seed(0)
    draws = [StrongAugmentation(jitter=0.2).draw(3) for _ in range(2000)]
    assert np.mean([d.order is not None for d in draws]) == pytest.approx(0.8, abs=0.03)
    assert np.mean([d.sigma is not None for d in draws]) == pytest.approx(0.5, abs=0.03)
    orders = [tuple(d.order) for d in draws if d.order is not None]
    assert len(set(orders)) == 24
    factors = torch.stack([d.factors for d in draws])
    for i, name in enumerate(CHANGES):
        low, high = GOLDEN['ranges'][f'{name}_factor']
        own = factors[:, i]
        assert (own.min().item(), own.max().item()) == pytest.approx((low, high), abs=1e-3)
        assert own.mean().item() == pytest.approx((low + high) / 2, abs=0.01)
    sigma = torch.stack([d.sigma for d in draws if d.sigma is not None])
    assert (sigma.min().item(), sigma.max().item()) == pytest.approx(GOLDEN['blur_sigma_range'], abs=2e-3)


def test_other_bands_and_values():
    """Reflectances of five bands: brightness and contrast within three deviations, no hue."""
    mean, std = [0.2, 0.1, 0.3, 0.4, 0.5], [0.1, 0.02, 0.1, 0.1, 0.2]
    own = DomainAdaptationDataPreprocessor(mean, std)
    images = own(dict(inputs=[torch.rand(5, 8, 8)]))['inputs']
    draws = AugmentationDraws([2, 0, 3, 1], torch.tensor([[1.1], [0.9], [1.2], [0.2]]), None)
    out = StrongAugmentation()(images, own, 'target', draws)
    expected = (((images / 6 + 0.5).clamp(0, 1) + 0.1).clamp(0, 1) * 0.9 - 0.5) * 6
    torch.testing.assert_close(out, expected)
    with pytest.raises(ConfigError, match=r'augmentation.rgb is \(1, 2, 5\), but images have 5 bands'):
        StrongAugmentation(rgb=(1, 2, 5))(images, own, 'target', draws)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(jitter=0.9), 'augmentation.jitter'),
        (dict(blur_probability=2), 'augmentation.blur_probability'),
        (dict(rgb=[0, 1]), r'augmentation.rgb is \[0, 1\]'),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        StrongAugmentation(**options)


@pytest.mark.parametrize('domain', ['source', 'target'])
def test_normalise_undoes_denormalise(domain, preprocessor):
    image = GOLDEN['image_u8'][None].float()
    mean, std = (90.0, 40.0) if domain == 'source' else (GOLDEN['mean'][:, None, None], GOLDEN['std'][:, None, None])
    torch.testing.assert_close(preprocessor.denormalize((image - mean) / std, domain), image / 255)
    torch.testing.assert_close(preprocessor.normalize(image / 255, domain), (image - mean) / std)
