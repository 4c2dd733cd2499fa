import json
import shutil

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from mmrs.apis import SegInferencer
from mmrs.prediction.card import Card, Domain, card_beside
from mmrs.utils.errors import DataError
from tests.tiny_runs import write_clips, write_config
from tools import card, train
from tools import test as testing

MEAN, STD = np.array([40.0, 90.0, 160.0]), np.array([10.0, 20.0, 30.0])


@pytest.fixture
def raster(tmp_path):
    def write(order=(0, 1, 2), factor=1.0, dtype='uint8', metres=0.5, name='raster.tif'):
        values = np.random.default_rng(0).normal(MEAN, STD, (300, 400, 3)).clip(0, 255)[..., list(order)] * factor
        with rasterio.open(
            tmp_path / name, 'w', 'GTiff', 400, 300, 3, crs='EPSG:32633', dtype=dtype,
            transform=from_origin(500000, 5000000, metres, metres),
        ) as file:  # fmt: skip
            file.write(values.transpose(2, 0, 1).astype(dtype))
        return str(tmp_path / name)

    return write


def warned(path, resampled=False, bands=None, mean=MEAN, std=STD):
    own = Domain(9, ['uint8'], mean.tolist(), std.tolist(), (mean + 2.05 * std).tolist(), [0.4, 0.5])
    far = Domain(9, ['uint8'], (mean * 0.4).tolist(), std.tolist(), (mean * 0.5).tolist(), [0.5, 0.6])
    return Card('a.pth', '0', {}, ['a', 'b'], dict(source=far, target=own)).warnings(path, bands, False, resampled)


def test_what_is_as_in_training_is_not_mentioned(raster):
    assert warned(raster()) == []
    assert warned(raster(metres=0.35)) == []
    assert warned(raster(metres=2.0), resampled=True) == []
    assert warned(raster(order=(2, 1, 0)), bands=[3, 2, 1]) == []


@pytest.mark.parametrize(
    ('raster_of', 'words'),
    [
        (dict(metres=1.0), ['1 m', '0.4 to 0.6 m', '--gsd']),
        (dict(metres=0.2), ['0.2 m', '--gsd']),
        (dict(factor=257.0, dtype='uint16'), ['16 bits', '257 times']),
        (dict(factor=1 / 255, dtype='float32'), ['0 to 1 where those have 8 bits']),
        (dict(order=(2, 1, 0)), ['order 3 2 1']),
        (dict(order=(1, 2, 0)), ['order 3 1 2']),
    ],
)
def test_what_differs_is_named(raster, raster_of, words):
    (text,) = warned(raster(**raster_of))
    assert all(word in text for word in ['raster.tif', *words])


def test_decibels_have_no_scale_to_be_off_by(raster, tmp_path):
    with rasterio.open(raster(dtype='float32'), 'r+') as file:
        file.write(np.random.default_rng(1).normal(-7, 3, (3, 300, 400)).astype(np.float32))
    assert warned(tmp_path / 'raster.tif', mean=np.full(3, -14.0), std=np.full(3, 2.0)) == []


def test_reflectance(raster):
    scaled = dict(mean=MEAN / 255, std=STD / 255)
    assert 'reflectance times 10000' in warned(raster(factor=1e4 / 255, dtype='uint16'), **scaled)[0]


@pytest.mark.slow
def test_a_run_gets_a_card_that_prediction_reads(tmp_path, raster, capsys, caplog):
    config = write_config(tmp_path / 'plain.py', write_clips(tmp_path / 'data'))
    assert train.main([str(config), '--work-dir', str(tmp_path / 'run')]) == 0
    run, checkpoint = str(tmp_path / 'run'), tmp_path / 'run' / 'iter_2.pth'
    scores = ['--metrics', str(tmp_path / 'scores.json')]
    assert testing.main([str(config), str(checkpoint), '--work-dir', str(tmp_path / 'test'), *scores]) == 0
    about = ['--scores', str(tmp_path / 'scores.json'), '--licence', 'CC0', '--note', 'For a test.']
    assert card.main([run, *about]) == 2
    assert 'rule' in capsys.readouterr().err
    assert card.main([run, *about, '--rule', 'last iteration']) == 0
    assert card.main([run]) == 2  # it is there
    found = Card.read(card_beside(checkpoint))
    text = card_beside(checkpoint).read_text()
    images = [np.asarray(rasterio.open(p).read()) for p in sorted((tmp_path / 'data/img_dir/train').glob('*.png'))]
    (domain,) = found.domains.values()
    np.testing.assert_allclose(domain.mean, np.stack(images).mean((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(domain.std, np.stack(images).std((0, 2, 3)), rtol=1e-4)
    assert (domain.images, domain.metres, list(domain.dtypes)) == (4, None, ['uint8'])
    expected = json.loads((tmp_path / 'scores.json').read_text())['mIoU']
    assert found.about['scores'][0]['mIoU'] == pytest.approx(expected, abs=0.01)
    assert 'For a test.' in text
    assert 'Licence of the weights: CC0. Of the data: not stated.' in text

    bright = raster(factor=257.0, dtype='uint16')
    SegInferencer(config, checkpoint, device='cpu').predict_rasters([bright], tmp_path / 'maps', progress=False)
    assert '16 bits where those have 8' in caplog.text + capsys.readouterr().out
    shutil.copy(card_beside(checkpoint), card_beside(tmp_path / 'run' / 'last.pth'))
    (tmp_path / 'run' / 'last.pth').write_bytes(checkpoint.read_bytes() + b'0')
    SegInferencer(config, tmp_path / 'run' / 'last.pth', device='cpu')
    assert 'the card of other weights' in caplog.text + capsys.readouterr().out
    (tmp_path / 'no.card.md').write_text('# no card\n')
    with pytest.raises(DataError, match=r'no\.card\.md'):
        Card.read(tmp_path / 'no.card.md')
