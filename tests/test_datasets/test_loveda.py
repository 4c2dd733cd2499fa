import shutil

import numpy as np
import pytest
from PIL import Image

from mmrs.datasets.loveda import LoveDADataset
from mmrs.registry import DATASETS
from mmrs.utils.errors import DataError

LOADING = [dict(type='LoadRasterImage'), dict(type='LoadRasterAnnotations')]


def build(root, scene='Train/Rural', labels=True, **kwargs):
    prefix = dict(img_path=f'{scene}/images_png')
    if labels:
        prefix['seg_map_path'] = f'{scene}/masks_png'
    pipeline = LOADING if labels else LOADING[:1]
    return DATASETS.build(
        dict(type='LoveDADataset', data_root=str(root), data_prefix=prefix, pipeline=pipeline) | kwargs
    )


@pytest.fixture
def make_scene(tmp_path, write, rng):
    """Makes a folder of images, called by their numbers, and of label maps with the ids 0 to 7."""

    def make(scene, numbers, labels=True):
        for number in numbers:
            write(tmp_path / scene / 'images_png' / f'{number}.png', rng.integers(0, 255, (8, 8, 3), np.uint8))
            if labels:
                ids = np.arange(64).reshape(8, 8).astype(np.uint8) % 8
                write(tmp_path / scene / 'masks_png' / f'{number}.png', ids)
        return tmp_path

    return make


def test_published_numbers():
    sizes = {scene: len(numbers) for scene, numbers in LoveDADataset.NUMBERS.items()}
    assert sizes == {
        'Train/Rural': 1366,
        'Train/Urban': 1156,
        'Val/Rural': 992,
        'Val/Urban': 677,
        'Test/Rural': 976,
        'Test/Urban': 820,
    }
    assert [n for numbers in LoveDADataset.NUMBERS.values() for n in numbers] == list(range(5987))


def test_ids_become_training_indices_and_no_data_is_ignored(make_scene):
    dataset = build(make_scene('Train/Rural', [0, 1]))
    assert type(dataset) is LoveDADataset
    assert dataset.metainfo['classes'] == (
        'background', 'building', 'road', 'water', 'barren', 'forest', 'agriculture',
    )  # fmt: skip
    assert len(dataset.metainfo['palette']) == 7
    labels = dataset[1]['gt_seg_map']
    assert labels[0].tolist() == [255, 0, 1, 2, 3, 4, 5, 6]
    assert np.bincount(labels.ravel(), minlength=256)[[0, 1, 2, 3, 4, 5, 6, 255]].tolist() == [8] * 8


@pytest.fixture
def said(monkeypatch):
    messages = []
    monkeypatch.setattr('mmrs.datasets.loveda.print_log', lambda message, **_: messages.append(message))
    return messages


def test_incomplete_folder_gives_one_warning(make_scene, said):
    root = make_scene('Val/Urban', [3514, 3515])
    build(root, 'Val/Urban')
    (message,) = said
    assert 'Val/Urban/images_png holds 2 images, but Val/Urban of LoveDA has 677' in message
    assert 'Val.zip' in message


def test_meant_subsets_and_complete_folders_give_no_warning(make_scene, said, tmp_path, monkeypatch):
    root = make_scene('Val/Urban', [3514, 3515])
    make_scene('mine', [1, 2])
    (tmp_path / 'names.txt').write_text('3515\n')
    assert len(build(root, 'Val/Urban', ann_file='names.txt')) == 1
    assert len(build(root, 'Val/Urban', indices=1)) == 1
    assert len(build(root, 'mine')) == 2
    monkeypatch.setitem(LoveDADataset.NUMBERS, 'Val/Urban', range(3514, 3516))
    assert len(build(root, 'Val/Urban')) == 2
    assert not said


def test_test_set_has_no_labels(make_scene):
    root = make_scene('Test/Urban', [5167], labels=False)
    assert 'seg_map_path' not in build(root, 'Test/Urban', labels=False)[0]
    with pytest.raises(DataError, match=r'Test/Urban/masks_png; the labels of the test set are not public'):
        build(root, 'Test/Urban')


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r'images of LoveDA is missing: .*Train/Rural.*download_dataset.py loveda'):
        build(tmp_path)


def test_real_tiles(real_data, said, tmp_path):
    if not (real_data / 'loveda').is_dir():
        pytest.skip(f'no LoveDA tiles in {real_data}')
    for scene, folder in (('Train/Rural', 'rural'), ('Train/Urban', 'urban')):
        for kind, name in (('images_png', 'img'), ('masks_png', 'msk')):
            shutil.copytree(real_data / 'loveda' / folder / name, tmp_path / scene / kind)
    rural, urban = build(tmp_path, 'Train/Rural'), build(tmp_path, 'Train/Urban')
    assert (len(rural), len(urban), len(said)) == (3, 1, 2)
    for dataset in (rural, urban):
        for i in range(len(dataset)):
            sample = dataset[i]
            assert sample['img'].shape == (1024, 1024, 3)
            # PIL's reading of the file, one id down, with 0 wrapping round to 255.
            with Image.open(sample['seg_map_path']) as file:
                expected = np.asarray(file) - np.uint8(1)
            assert np.array_equal(sample['gt_seg_map'], expected)
            assert set(np.unique(expected)) <= {0, 1, 2, 3, 4, 5, 6, 255}
