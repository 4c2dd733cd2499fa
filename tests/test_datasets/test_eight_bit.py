"""Transforms for 8 bits do not see images of other types."""

import numpy as np
import pytest
from mmcv.transforms import Compose, RandomApply, RandomChoice
from mmengine.dataset import Compose as PipelineCompose
from mmengine.registry import init_default_scope
from mmseg.datasets.transforms import CLAHE, PhotoMetricDistortion
from PIL import Image

from mmrs.datasets import PairedDataset, RemoteSensingDataset
from mmrs.datasets.transforms.eight_bit import guard_eight_bit
from mmrs.utils.errors import ConfigError

PATCH = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmrs')


def pipelines():
    yield 'plain', lambda kind: [dict(type=kind)]
    yield 'mmseg', lambda kind: [dict(type=f'mmseg.{kind}')]
    yield 'applied', lambda kind: [dict(type='RandomApply', prob=1.0, transforms=[dict(type=kind)])]
    yield 'chosen', lambda kind: [dict(type='RandomChoice', prob=[1.0, 0.0], transforms=[[dict(type=kind)], []])]


@pytest.mark.parametrize('kind', ['PhotoMetricDistortion', 'CLAHE', 'AdjustGamma'])
@pytest.mark.parametrize('pipeline', [pytest.param(p, id=name) for name, p in pipelines()])
@pytest.mark.parametrize(
    'image', [PATCH.astype(np.float32) * 39, PATCH.astype(np.float32) / 255, PATCH.astype(np.uint16) * 257]
)
def test_other_types_are_refused(pipeline, kind, image):
    built = PipelineCompose(pipeline(kind))
    guard_eight_bit(built)
    assert built(dict(img=PATCH.copy(), img_path='a.tif'))['img'].dtype == np.uint8
    with pytest.raises(ConfigError, match=f'a.tif is loaded as {image.dtype}.*{kind}'):
        built(dict(img=image, img_path='a.tif'))


def test_other_numbers_of_bands(tmp_path):
    four, one = np.concatenate((PATCH, PATCH[..., :1]), -1), PATCH[..., :1]
    built = PipelineCompose([dict(type='PhotoMetricDistortion')])
    guard_eight_bit(built)
    for image, number in ((four, 4), (one, 1), (PATCH[..., 0], 1)):
        with pytest.raises(ConfigError, match=f'has {number} bands, but PhotoMetricDistortion'):
            built(dict(img=image))


def test_the_transforms_stay_what_they_are():
    inner = [PhotoMetricDistortion(), CLAHE()]
    built = PipelineCompose([RandomApply([inner[0]]), RandomChoice([[inner[1]], []]), lambda results: results])
    guard_eight_bit(built)
    assert [type(step).__name__ for step in built.transforms] == ['RandomApply', 'RandomChoice', 'function']
    applied, chosen = built.transforms[:2]
    assert isinstance(applied.transforms, Compose)
    assert applied.transforms.transforms[1] is inner[0]
    assert [len(choice.transforms) for choice in chosen.transforms] == [2, 0]


def write(folder, dtype):
    folder.mkdir(parents=True)
    image = PATCH if dtype == 'uint8' else PATCH[..., 0].astype(dtype) * 39
    Image.fromarray(image).save(folder / 'a.png')


def test_data_sets_of_one_and_of_two_images(tmp_path):
    for name, dtype in (('bytes', 'uint8'), ('words', 'uint16')):
        write(tmp_path / name / 'img', dtype)
    load, change = dict(type='LoadRasterImage'), dict(type='CLAHE')

    def single(name, pipeline):
        return RemoteSensingDataset(
            data_root=str(tmp_path / name), data_prefix=dict(img_path='img'), metainfo=dict(classes=('a', 'b')),
            pipeline=pipeline,
        )  # fmt: skip

    assert single('bytes', [load, change])[0]['img'].dtype == np.uint8
    with pytest.raises(ConfigError, match=r'words/img/a\.png'):
        single('words', [load, change])[0]
    pairs = PairedDataset(single('bytes', [load]), single('words', [load]), pipeline=[change])
    with pytest.raises(ConfigError, match=r'words/img/a\.png'):
        pairs[0]
