"""What the check of data sets has to say about pairs."""

import json

import numpy as np
import pytest
from mmengine.config import Config
from rasterio.transform import Affine

from mmrs.apis.check_dataset import check_dataset
from tools import check_dataset as tool

UTM = 'EPSG:32633'
LOAD = [dict(type='LoadRasterImage')]
PLACE = Affine(1, 0, 400000, 0, -1, 5800000)


@pytest.fixture
def root(tmp_path, write, rng):
    """Four images of one place in each of two folders."""
    for name in 'ab':
        for i in range(4):
            write(tmp_path / name / f'{i}.tif', rng.integers(1, 256, (20, 30, 3), np.uint8), crs=UTM, transform=PLACE)
    return tmp_path


def config(root, kind='PairedDataset', parts='RemoteSensingDataset', folders='ab', wrap=False, val=False, **kwargs):
    source, target = (
        dict(
            type=parts,
            data_root=str(root),
            data_prefix=dict(img_path=folder, seg_map_path='gone'),
            pipeline=LOAD,
            serialize_data=False,
        )
        for folder in folders
    )
    dataset = dict(type=kind, source=source, target=target, pipeline=[dict(type='RandomFlip', prob=0.5)], **kwargs)
    if wrap:
        dataset = dict(type='ConcatDataset', datasets=[dataset])
    file = root / 'config.py'
    roles = ('train', 'val') if val else ('train',)
    Config({f'{role}_dataloader': dict(dataset=dataset) for role in roles}).dump(file)
    return file


def check(root, *args, **kwargs):
    return check_dataset([config(root, *args, **kwargs)], workers=0)


def found(report):
    return [(finding.severity, finding.kind, finding.where) for finding in report.findings]


@pytest.mark.parametrize('wrap', [False, True])
def test_good_pairs(root, wrap):
    assert found(check(root, wrap=wrap)) == []
    report = check(root, wrap=wrap, val=True)
    assert {kind for _, kind, _ in found(report)} == {'target_in_evaluation'}  # pairs that are not held out
    assert [summary['domain'] for summary in report.summaries][:2] == ['source', 'target']
    assert report.pairs == [dict(name='train, val', text='4 pairs', pairs=4, unpaired=dict(source=0, target=0))]


def test_the_same_files_on_both_sides(root):
    """Pairs whose target is changed while it is read."""
    assert 'source_in_target' not in {kind for _, kind, _ in found(check(root, folders='aa'))}


def test_held_out_pairs_that_are_tested_too(root):
    file = config(root)
    settings = Config.fromfile(file)
    settings.val_dataloader = settings.pop('train_dataloader')
    settings.test_dataloader = dict(
        dataset=dict(settings.val_dataloader.dataset.target, data_prefix=dict(img_path='b'))
    )
    settings.dump(file)
    report = check_dataset([file], workers=0)
    assert {kind for _, kind, _ in found(report)} == {'target_in_evaluation'}


def test_missing_counterparts(root):
    (root / 'b' / '3.tif').unlink()
    report = check(root)
    assert ('error', 'unusable_data_set', 'train') in found(report)
    assert '1 of 4 source images' in next(f.found for f in report.findings if f.kind == 'unusable_data_set')
    report = check(root, allow_unpaired=True)
    finding = next(f for f in report.findings if f.kind == 'unpaired')
    assert (finding.severity, finding.where, finding.files) == ('info', 'train source', ('3',))
    assert report.pairs[0]['text'] == '3 pairs; without a counterpart: 1 of the source'
    assert report.number('error') == 0


def test_pairs_of_other_size_or_place(root, write, rng):
    def image(*shape):
        return rng.integers(1, 256, (*shape, 3), np.uint8)

    write(root / 'b' / '0.tif', image(20, 31), crs=UTM, transform=PLACE)
    write(root / 'b' / '1.tif', image(20, 30), crs=UTM, transform=Affine(1, 0, 400002, 0, -1, 5800000))
    write(root / 'b' / '2.tif', image(20, 30), crs='EPSG:32632', transform=PLACE)
    write(root / 'b' / '3.tif', image(20, 30), crs=UTM, transform=Affine(1, 0, 400000.3, 0, -1, 5800000))
    report = check(root)
    findings = {finding.files[1][-5]: finding for finding in report.findings if finding.kind.startswith('pair_')}
    assert {name: finding.severity for name, finding in findings.items()} == {
        '0': 'error', '1': 'warning', '2': 'warning',
    }  # fmt: skip
    assert (findings['0'].found, findings['0'].expected) == (
        '31 x 20 pixels (width x height)', '30 x 20 pixels (width x height)',
    )  # fmt: skip
    assert findings['1'].found == 'corners 2 pixels apart'
    assert findings['2'].found == 'target in EPSG:32632'


def test_an_unreadable_image_is_one_finding(root):
    (root / 'b' / '2.tif').write_bytes(b'no image')
    kinds = [kind for severity, kind, _ in found(check(root)) if severity == 'error']
    assert kinds == ['unreadable_image']


def test_pairs_by_place(root, write, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('COLUMNS', '200')
    image = np.random.default_rng(1).integers(1, 256, (40, 50, 3), np.uint8)
    write(root / 'c' / 'x.tif', image, crs=UTM, transform=Affine(0.5, 0, 400010, 0, -0.5, 5800000))
    write(root / 'c' / 'far.tif', image + 1, crs=UTM, transform=Affine(0.5, 0, 500010, 0, -0.5, 5800000))
    file = config(root, 'GeographicPairedDataset', 'RasterDataset', 'ac')
    assert tool.main([str(file), '--json', str(tmp_path / 'report.json')]) == 0
    text = capsys.readouterr().out
    assert 'Pairs (train): 4 pairs of 4 source and 1 target rasters; paired: 0.0016 of 0.0016 km2' in text
    assert 'without a counterpart: 1 of the target' in text
    pairs = json.loads((tmp_path / 'report.json').read_text())['pairs']
    assert pairs[0]['area']['source_share'] == pytest.approx(2 / 3)
    assert pairs[0]['unpaired'] == dict(source=0, target=1)


def test_no_overlap_is_an_error(root, write):
    image = np.ones((40, 50, 3), np.uint8)
    image[0] = 9
    write(root / 'c' / 'far.tif', image, crs=UTM, transform=Affine(0.5, 0, 500010, 0, -0.5, 5800000))
    report = check(root, 'GeographicPairedDataset', 'RasterDataset', 'ac')
    (finding,) = (f for f in report.findings if f.severity == 'error')
    assert 'No target raster meets a source raster' in finding.found
