"""Synthetic pairs: what the two images of a town share, and the files."""

import numpy as np
import pytest

from mmrs.datasets import PairedDataset
from mmrs.geo.rasters import read_image, read_label_map
from mmrs.preparation.synthetic import make_pair, write_pairs
from mmrs.preparation.synthetic.archives import erode_boundaries
from mmrs.utils.errors import ConfigError, OutputError
from tests.small_files import files_in
from tools.dataset_converters import synthetic_pairs

SMALL = dict(towns=(2, 1, 1), size=192, workers=1)


def test_both_images_show_one_town_with_noise_of_their_own():
    # In one world and through one camera, nothing differs but the sensor's noise, with a standard deviation of 2.
    source, target, label = make_pair(0, 256, gap=0.0)
    assert set(np.unique(label)) <= set(range(1, 7))
    grey = (source > 20) & (target > 20) & (source < 235) & (target < 235)  # neither clipped
    difference = (source.astype(float) - target)[grey]
    assert abs(difference.mean()) < 0.05
    assert difference.std() == pytest.approx(2 * np.sqrt(2), rel=0.05)  # of two independent ones, and of rounding
    again, other, same = make_pair(0, 256, gap=1.0)
    np.testing.assert_array_equal(again, source)
    np.testing.assert_array_equal(same, label)
    assert np.abs(other.astype(float) - source).mean() > 15
    assert not np.array_equal(make_pair(1, 256, gap=0.0)[2], label)
    assert not np.array_equal(make_pair(0, 256, gap=0.0, seed=1)[2], label)


def test_files_are_pairs_by_name(tmp_path):
    write_pairs(tmp_path, **SMALL)
    source, target, label = make_pair(0, 192, gap=0.75)
    np.testing.assert_array_equal(read_image(tmp_path / 'source/img_dir/train/town_000.png')[0], source)
    np.testing.assert_array_equal(read_image(tmp_path / 'target/img_dir/train/town_000.png')[0], target)
    for domain in ('source', 'target'):
        ids = read_label_map(tmp_path / domain / 'ann_dir/train/town_000.png')[0]
        np.testing.assert_array_equal(ids, erode_boundaries(label))
        assert files_in(tmp_path / domain / 'img_dir') == [
            'test/town_003.png',
            'train/town_000.png',
            'train/town_001.png',
            'val/town_002.png',
        ]
    part = dict(
        type='PotsdamDataset', data_prefix=dict(img_path='img_dir/train'), pipeline=[dict(type='LoadRasterImage')]
    )
    pairs = PairedDataset(*(dict(part, data_root=str(tmp_path / domain)) for domain in ('source', 'target')))
    assert len(pairs) == 2


def test_what_is_there_stays_and_other_settings_are_refused(tmp_path):
    write_pairs(tmp_path, **SMALL)
    file = tmp_path / 'target/img_dir/val/town_002.png'
    before, kept = file.read_bytes(), tmp_path / 'source/img_dir/train/town_000.png'
    stamp = kept.stat().st_mtime_ns
    file.unlink()
    write_pairs(tmp_path, **SMALL)
    assert file.read_bytes() == before
    assert kept.stat().st_mtime_ns == stamp
    with pytest.raises(OutputError, match=r'other settings \(gap was 0\.75, is 0\.5\)'):
        write_pairs(tmp_path, gap=0.5, **SMALL)
    write_pairs(tmp_path, gap=0.5, overwrite=True, **SMALL)
    assert file.read_bytes() != before


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(gap=2.0), 'gap is 2.0'),
        (dict(towns=(1, 1)), r'towns is \[1, 1\]; a number of pairs for each of train, val, test'),
        (dict(towns=(0, 0, 0)), r'towns is \[0, 0, 0\]'),
        (dict(size=100), r'size is 100; .* 160'),
        (dict(seed=-1), 'seed is -1'),
    ],
)
def test_unusable_settings(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        write_pairs(tmp_path / 'out', **options)
    assert not (tmp_path / 'out').exists()


def test_tool(tmp_path, capsys):
    assert synthetic_pairs.main(['-o', str(tmp_path), '--size', '100']) == 2
    assert capsys.readouterr().err.startswith('error: size is 100')
    assert synthetic_pairs.main(['-o', str(tmp_path), '--size', '192', '--towns', '1', '0', '0']) == 0
    assert (tmp_path / 'target/img_dir/train/town_000.png').exists()
