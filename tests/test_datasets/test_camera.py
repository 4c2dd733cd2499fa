import io
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from mmrs.registry import TRANSFORMS
from mmrs.utils.errors import ConfigError
from tests.small_files import build_dataset
from tests.tiny_runs import REPOSITORY

ALL = [
    dict(type='CameraChange'),
    dict(type='ColourMatrix', matrix=np.full((3, 3), 1 / 3).tolist()),
    dict(type='HueRotation', degrees=40),
    dict(type='ChannelPermutation', order=(3, 1, 2)),
    dict(type='GainGamma', gain=1.2, gamma=1.3),
    dict(type='Contrast', factor=1.5),
    dict(type='GaussianBlur', sigma=1.5),
    dict(type='SensorNoise', shot=0.05, read=0.02),
    dict(type='JPEGCompression', quality=30),
    dict(type='GroundSamplingDistance', factor=2),
]
FOR_ANY_BANDS = [
    config for config in ALL if config['type'] not in ('ColourMatrix', 'HueRotation', 'ChannelPermutation')
]


def name(config):
    return config['type']


def build(kind, **arguments):
    return TRANSFORMS.build(dict(type=kind, **arguments))


def apply(transform, image, **sample):
    given = image.copy()
    changed = transform(dict(img=image, img_path='folder/tile.tif', **sample))['img']
    assert np.array_equal(image, given)  # what the loader gave may be kept elsewhere
    return changed


@pytest.fixture
def photo(rng):
    """Smooth colours with detail, uint8 (48, 64, 3)."""
    smooth = ndimage.gaussian_filter(rng.normal(0, 1, (48, 64, 3)), (4, 4, 0))
    image = 128 + 50 * smooth / smooth.std() + rng.normal(0, 6, smooth.shape)
    return image.round().clip(0, 255).astype(np.uint8)


# --- colour -----------------------------------------------------------------------------------------------------------


def test_colour_matrix_is_the_matrix_product(rng):
    image, matrix = rng.random((5, 6, 4)).astype(np.float32), rng.normal(0, 1, (3, 4))
    expected = np.einsum('oi,hwi->hwo', matrix, image.astype(np.float64))
    np.testing.assert_allclose(apply(build('ColourMatrix', matrix=matrix.tolist()), image), expected, atol=1e-6)


def test_hue_turns_by_rodrigues_formula(rng):
    image = rng.random((5, 6, 3)).astype(np.float32)
    axis, angle = np.ones(3) / math.sqrt(3), math.radians(25)
    colours = image.astype(np.float64)
    expected = (
        colours * math.cos(angle)
        + np.cross(axis, colours) * math.sin(angle)
        + axis * (colours @ axis)[..., None] * (1 - math.cos(angle))
    )
    np.testing.assert_allclose(apply(build('HueRotation', degrees=25), image), expected, atol=1e-6)


def test_hue_wheel(photo):
    assert np.array_equal(apply(build('HueRotation', degrees=360), photo), photo)
    # Red moves to green: the new green is the old red.
    assert np.array_equal(apply(build('HueRotation', degrees=120), photo), photo[..., [2, 0, 1]])
    assert np.array_equal(apply(build('HueRotation', degrees=-120), photo), photo[..., [1, 2, 0]])


@pytest.mark.parametrize('bands', [4, 7])
def test_hue_of_many_bands(bands, rng):
    image = rng.normal(0, 1, (9, 9, bands)).astype(np.float32)
    turned, other, full = (
        apply(build('HueRotation', degrees=degrees, seed=seed), image).astype(np.float64)
        for degrees, seed in ((50, 0), (50, 1), (360, 0))
    )
    np.testing.assert_allclose(turned.mean(-1), image.mean(-1), atol=1e-6)
    np.testing.assert_allclose((turned**2).sum(-1), (image.astype(np.float64) ** 2).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(full, image, atol=1e-5)
    grey = np.full((2, 2, bands), 0.3, np.float32)
    np.testing.assert_allclose(apply(build('HueRotation', degrees=50), grey), grey, atol=1e-6)
    assert np.abs(turned - other).max() > 0.1  # other planes
    # An odd number of bands leaves none but grey in its place: each colour turns by exactly the angle.
    if bands % 2:
        before, after = (x - x.mean(-1, keepdims=True) for x in (image.astype(np.float64), turned))
        cosine = (before * after).sum(-1) / (before**2).sum(-1)
        np.testing.assert_allclose(cosine, math.cos(math.radians(50)), atol=1e-5)


def test_permutation_of_four_bands(rng):
    image = rng.integers(0, 255, (5, 6, 4)).astype(np.uint8)
    red, green, _, infrared = np.moveaxis(image, -1, 0)
    assert np.array_equal(
        apply(build('ChannelPermutation', order=[4, 1, 2]), image), np.stack([infrared, red, green], -1)
    )


@pytest.mark.parametrize('white', [255.0, 1.0])
def test_gain_and_gamma_of_each_band(white, rng):
    image = (rng.random((5, 6, 3)) * white).astype(np.float32)
    image[0, 0] = -0.1 * white
    gain, gamma = np.array([0.8, 1, 1.3]), np.array([0.7, 1, 2.2])
    scaled = gain * image.astype(np.float64) / white
    changed = apply(build('GainGamma', gain=gain.tolist(), gamma=gamma.tolist(), white=white), image)
    np.testing.assert_allclose(changed, white * np.sign(scaled) * np.abs(scaled) ** gamma, rtol=2e-5, atol=1e-6 * white)


def test_drawn_gains_stay_within_the_stated_factor():
    image = np.full((1, 1, 2000), 100, np.float32)
    logs = np.log(apply(build('GainGamma', gain=1.5), image)[0, 0] / 100) / math.log(1.5)
    assert -1 <= logs.min() < -0.98 < 0.98 < logs.max() <= 1
    assert abs(logs.mean()) < 0.05  # 4 standard errors
    assert abs(logs.std() - 1 / math.sqrt(3)) < 0.03


def test_contrast_keeps_the_grey(photo):
    changed = apply(build('Contrast', factor=1.5, grey=0.4), photo)
    expected = (102 + 1.5 * (photo.astype(np.float64) - 102)).clip(0, 255)
    np.testing.assert_allclose(changed, expected, atol=0.5)
    reflectance = np.array([[[0.1, 0.5, 0.9]]], np.float32)
    np.testing.assert_allclose(
        apply(build('Contrast', factor=0.5, white=1.0), reflectance), [[[0.3, 0.5, 0.7]]], atol=1e-6
    )


# --- sharpness, noise, storage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('sigma', [0.7, 1.5, 3])
def test_blur_of_an_impulse_is_a_gaussian(sigma):
    image = np.zeros((41, 41, 1), np.float32)
    image[20, 20] = 1
    x = np.arange(41) - 20.0
    profile = np.exp(-(x**2) / (2 * sigma**2))
    profile /= profile.sum()
    np.testing.assert_allclose(
        apply(build('GaussianBlur', sigma=sigma), image)[..., 0], np.outer(profile, profile), atol=2e-5
    )


def test_noise_has_the_stated_variance():
    values = np.array([0.0, 0.25, 1.0])
    image = np.broadcast_to((values * 200).astype(np.float32), (400, 400, 3)).copy()
    noise = apply(build('SensorNoise', shot=0.04, read=0.01, white=200), image) / 200 - values
    expected = 0.04**2 * values + 0.01**2
    # The standard error of a variance of 160000 values is 0.35 % of it.
    np.testing.assert_allclose(noise.reshape(-1, 3).var(0, dtype=np.float64), expected, rtol=0.015)
    np.testing.assert_allclose(noise.mean((0, 1)), 0, atol=5 * math.sqrt(expected.max()) / 400)
    correlation = (noise[:, 1:] * noise[:, :-1]).mean((0, 1), dtype=np.float64) / expected
    np.testing.assert_allclose(correlation, 0, atol=0.015)


def test_jpeg_is_what_pillow_makes(photo):
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, 'JPEG', quality=20, subsampling='4:2:0')
    expected = np.asarray(Image.open(buffer))
    changed = apply(build('JPEGCompression', quality=20), photo)
    # Equal where both use one build of libjpeg; others may round otherwise.
    assert np.abs(changed.astype(int) - expected).max() <= 4
    assert np.abs(changed.astype(int) - photo).mean() > 4
    grey = photo[..., :1]
    buffer = io.BytesIO()
    Image.fromarray(grey[..., 0]).save(buffer, 'JPEG', quality=20)
    np.testing.assert_allclose(
        apply(build('JPEGCompression', quality=20), grey)[..., 0], np.asarray(Image.open(buffer)), atol=1
    )


def test_jpeg_of_other_types_and_bands(photo):
    seven = np.concatenate([photo, photo[::-1], photo[..., :1]], axis=-1)
    bytes_ = apply(build('JPEGCompression', quality=50), seven)
    reflectance = apply(build('JPEGCompression', quality=50, white=2.0), (seven / 127.5).astype(np.float32))
    np.testing.assert_allclose(reflectance * 127.5, bytes_, atol=1e-3)
    alone = apply(build('JPEGCompression', quality=50), seven[..., 6:])
    assert np.array_equal(bytes_[..., 6:], alone)


@pytest.mark.parametrize('bands', [1, 3, 6])
def test_coarser_sampling_averages_and_interpolates(bands, rng):
    image = rng.random((24, 32, bands)).astype(np.float32)
    blocks = image.astype(np.float64).reshape(6, 4, 8, 4, bands).mean((1, 3))
    # Pixel i of the fine grid lies at (i + 0.5) / 4 - 0.5 on the coarse one.
    rows, columns = ((np.arange(n) + 0.5) / 4 - 0.5 for n in (24, 32))
    places = np.meshgrid(rows, columns, indexing='ij')
    expected = [ndimage.map_coordinates(blocks[..., b], places, order=1, mode='nearest') for b in range(bands)]
    changed = apply(build('GroundSamplingDistance', factor=4), image)
    np.testing.assert_allclose(changed, np.stack(expected, -1), atol=1e-6)


def test_coarser_sampling_by_fractions(photo):
    changed = apply(build('GroundSamplingDistance', factor=1.7), photo)
    assert changed.shape == photo.shape
    assert abs(changed.mean() - photo.mean()) < 1
    assert changed.std() < photo.std()
    assert np.array_equal(apply(build('GroundSamplingDistance', factor=1), photo), photo)


# --- the whole camera -------------------------------------------------------------------------------------------------


def test_camera_of_strength_zero_is_the_identity(photo):
    assert np.array_equal(apply(build('CameraChange', strength=0), photo), photo)


@pytest.mark.parametrize('strength', [0.5, 1, 2])
@pytest.mark.parametrize('seed', range(4))
def test_camera_has_the_stated_hue_gains_and_tone(strength, seed):
    """Flat images have no blur; what is left is solved for its numbers."""

    def seen(*colour):
        image = np.broadcast_to(np.array(colour, np.float32), (4, 4, 3))
        return apply(build('CameraChange', strength=strength, white=1.0, seed=seed), image)[0, 0].astype(np.float64)

    # The hue leaves grey alone, so that white shows gain ** gamma, and a darker grey gamma itself.
    gamma = np.log(seen(0.25, 0.25, 0.25) / seen(1, 1, 1)) / math.log(0.25)
    np.testing.assert_allclose(np.abs(np.log(gamma)), strength * math.log(1.3), rtol=1e-4)
    assert np.ptp(gamma) < 1e-4
    gain = seen(1, 1, 1) ** (1 / gamma)
    np.testing.assert_allclose([gain.min(), gain.max()], [1.3**-strength, 1], rtol=1e-4)
    # A pale red, so that nothing turns negative.
    linear = seen(0.7, 0.5, 0.5) ** (1 / gamma) / gain
    before, after = np.array([0.7, 0.5, 0.5]) - 0.17 / 0.3, linear - linear.mean()
    angle = math.degrees(math.acos(before @ after / math.sqrt(before @ before * (after @ after))))
    assert abs(angle - 30 * strength) < 0.1


def test_camera_blurs_by_the_stated_width():
    image = np.full((41, 41, 1), 0.5, np.float32)
    image[20, 20] += 0.01  # small, so that the tone curve is a straight line
    spread = apply(build('CameraChange', strength=2, white=1.0), image)[..., 0].astype(np.float64)
    spread = (spread - spread[0, 0]) / (spread - spread[0, 0]).sum()
    x = np.arange(41) - 20.0
    assert abs((spread.sum(0) * x**2).sum() - 4) < 0.1


def test_camera_is_the_same_for_each_image(photo):
    camera = build('CameraChange')
    first = camera(dict(img=photo, img_path='a.tif', window=(0, 0, 9, 9)))['img']
    assert np.array_equal(camera(dict(img=photo, img_path='b.tif'))['img'], first)
    assert not np.array_equal(build('CameraChange', seed=1)(dict(img=photo))['img'], first)


# --- any of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('config', ALL, ids=name)
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_type_and_shape_stay(config, dtype, photo):
    changed = apply(TRANSFORMS.build(config), photo.astype(dtype))
    assert (changed.dtype, changed.shape) == (np.dtype(dtype), photo.shape)
    assert 1 < np.abs(changed.astype(float) - photo).mean() < 100


@pytest.mark.parametrize('config', FOR_ANY_BANDS, ids=name)
@pytest.mark.parametrize('bands', [1, 2, 5, 13])
def test_any_number_of_bands(config, bands, rng):
    image = rng.integers(0, 255, (20, 24, bands)).astype(np.uint8)
    changed = apply(TRANSFORMS.build(config), image)
    assert changed.shape == image.shape
    assert not np.array_equal(changed, image)


def test_bytes_saturate(rng):
    extreme = rng.choice(np.array([0, 255], np.uint8), (30, 30, 3))
    for config in (
        dict(type='HueRotation', degrees=40),
        dict(type='Contrast', factor=3),
        dict(type='SensorNoise', shot=0.3),
    ):
        changed = apply(TRANSFORMS.build(config), extreme).astype(int)
        # Values that went round through 0 would lie far from those they came from.
        assert np.abs(changed - extreme).mean() < 100
        assert changed.min() == 0
        assert changed.max() == 255


@pytest.mark.parametrize('config', [c for c in ALL if c['type'] != 'ChannelPermutation'], ids=name)
def test_pixels_without_data(config, photo):
    """They have the mean of the others, and what stands in them reaches none of the others."""
    valid = np.ones((48, 64), np.uint8)
    valid[10:30, 20:50] = 0
    valid[40:, :5] = 255  # filled by a transform
    holes = valid != 1
    filled = photo.copy()
    filled[holes] = photo[~holes].mean(0)
    changed = apply(TRANSFORMS.build(config), filled, valid_map=valid)
    np.testing.assert_allclose(changed[holes], np.broadcast_to(changed[~holes].mean(0), (holes.sum(), 3)), atol=1)
    if config['type'] in ('GaussianBlur', 'CameraChange', 'GroundSamplingDistance'):
        other = photo.copy()
        other[holes] = 0
        np.testing.assert_array_equal(apply(TRANSFORMS.build(config), other, valid_map=valid)[~holes], changed[~holes])


def test_blur_is_normalised_over_the_pixels_with_data(photo):
    valid = np.ones((48, 64), bool)
    valid[10:30, 20:50] = False
    image = photo.astype(np.float32)
    image[~valid] = 1000
    weights = ndimage.gaussian_filter(valid.astype(float), 1.5, mode='mirror', truncate=6)
    sums = ndimage.gaussian_filter(np.where(valid[..., None], image, 0.0), (1.5, 1.5, 0), mode='mirror', truncate=6)
    changed = apply(build('GaussianBlur', sigma=1.5), image, valid_map=valid.astype(np.uint8))
    np.testing.assert_allclose(changed[valid], sums[valid] / weights[valid][:, None], atol=0.05)


@pytest.mark.parametrize('valid', [0, 255])
def test_an_image_without_any_data(valid):
    image, valid = np.zeros((20, 20, 3), np.uint8), np.full((20, 20), valid, np.uint8)
    for config in ALL:
        assert np.isfinite(apply(TRANSFORMS.build(config), image, valid_map=valid)).all()


DRAWN = ['CameraChange', 'GainGamma', 'SensorNoise']


@pytest.mark.parametrize('kind', DRAWN)
def test_without_a_seed_numpys_generator_decides(kind, photo):
    config = next(config for config in ALL if config['type'] == kind)
    transform = TRANSFORMS.build({**config, 'seed': None})
    np.random.seed(3)  # noqa: NPY002 (the generator that MMEngine seeds)
    drawn = [apply(transform, photo) for _ in range(5)]
    assert any(not np.array_equal(drawn[0], other) for other in drawn[1:])
    np.random.seed(3)  # noqa: NPY002
    assert all(np.array_equal(apply(transform, photo), other) for other in drawn)


def test_noise_depends_on_name_and_window_alone(photo):
    def noise(path, seed=0, **sample):
        return build('SensorNoise', read=0.1, seed=seed)(dict(img=photo, img_path=path, **sample))['img']

    first = noise('a/tile.tif', window=(0, 0, 64, 48), grid_shape=(90, 90))
    numpys = tuple(np.int64(value) for value in (0, 0, 64, 48))
    assert np.array_equal(noise('elsewhere/tile.png', window=numpys, grid_shape=[90, 90]), first)
    for other in (
        noise('a/tile2.tif', window=(0, 0, 64, 48), grid_shape=(90, 90)),
        noise('a/tile.tif', window=(1, 0, 65, 48), grid_shape=(90, 90)),
        noise('a/tile.tif', seed=1, window=(0, 0, 64, 48), grid_shape=(90, 90)),
    ):
        assert not np.array_equal(other, first)


def checksums():
    """What fixed seeds make of an image, in a few numbers."""
    image = (np.arange(60 * 50 * 3).reshape(60, 50, 3) % 251).astype(np.uint8)
    results = dict(img=image, img_path='folder/tile.tif', window=(0, 50, 50, 110))
    for transform in (
        build('CameraChange', seed=5),
        build('SensorNoise', read=0.1, seed=5),
        build('Misalignment', shift=3, elastic=2, seed=5),
    ):
        results = transform(results)
    return int((results['img'].astype(np.int64).ravel() * np.arange(9000)).sum()), int(results['valid_map'].sum())


def test_the_same_in_another_process():
    """Python's own hash of a text is another one in each process."""
    code = """
from mmengine.registry import init_default_scope
import mmrs.datasets
from tests.test_datasets.test_camera import checksums
init_default_scope('mmrs')
print(checksums())
"""
    environment = {**os.environ, 'PYTHONHASHSEED': '1'}
    done = subprocess.run([sys.executable, '-c', code], env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == str(checksums()), done.stderr


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (dict(type='CameraChange', strength=-1), 'CameraChange: strength is -1; a number of at least 0'),
        (dict(type='CameraChange', seed=0.5), 'seed is 0.5; a whole number, or None, was expected'),
        (dict(type='CameraChange', white=0), 'white is 0; a number above 0 was expected'),
        (dict(type='ColourMatrix', matrix=[[1, 0], [1]]), r'matrix is \[\[1, 0\], \[1\]\]; rows of numbers'),
        (dict(type='HueRotation', degrees='30'), "degrees is '30'; a number was expected"),
        (dict(type='ChannelPermutation', order=(0, 1)), r'order is \(0, 1\); numbers of bands, counted from 1'),
        (dict(type='GainGamma', gain=0.5), 'gain is 0.5; a number of at least 1'),
        (dict(type='GainGamma', gamma=[1, 0]), 'gamma is 0; a number above 0'),
        (dict(type='Contrast', factor=1, grey=2), 'grey is 2; .* at least 0 and of at most 1'),
        (dict(type='GaussianBlur', sigma=float('inf')), 'sigma is inf'),
        (dict(type='JPEGCompression', quality=0), 'quality is 0; a whole number of at least 1 and of at most 100'),
        (dict(type='GroundSamplingDistance', factor=0.5), 'factor is 0.5; a number of at least 1'),
    ],
)
def test_arguments_that_cannot_work(config, message):
    with pytest.raises(ConfigError, match=message):
        TRANSFORMS.build(config)


@pytest.mark.parametrize(
    ('config', 'bands', 'message'),
    [
        (dict(type='ColourMatrix', matrix=np.eye(3).tolist()), 4, 'tile.tif has 4 bands, .* 3 weights in a row'),
        (dict(type='HueRotation', degrees=30), 2, 'tile.tif has 2 bands, but HueRotation needs three or more'),
        (dict(type='ChannelPermutation', order=(4, 1, 2)), 3, 'tile.tif has 3 bands, .* asks for band 4'),
        (dict(type='GainGamma', gain=[1, 2]), 3, 'tile.tif has 3 bands, but GainGamma has 2 values as gain'),
    ],
)
def test_images_that_do_not_suit(config, bands, message):
    with pytest.raises(ConfigError, match=message):
        apply(TRANSFORMS.build(config), np.zeros((4, 4, bands), np.uint8))


def test_in_a_pipeline(make_dataset):
    root = make_dataset(n=1)
    pipeline = [dict(type='LoadRasterImage'), *ALL, dict(type='LoadRasterAnnotations'), dict(type='PackRasterInputs')]
    dataset = build_dataset(root, pipeline=pipeline)
    first, again = dataset[0], dataset[0]
    assert first['inputs'].shape == (3, 40, 48)
    assert first['inputs'].equal(again['inputs'])
    for config in ALL:
        assert config['type'] in repr(dataset.pipeline)
