from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config

from mmrs.apis.class_shares import source_shares
from mmrs.utils.errors import ConfigError, DataError
from tests.small_files import LOADING, make_dataset, rng, scope, write_fixture

__all__ = ['make_dataset', 'rng', 'scope', 'write_fixture']


def part(root: Path, classes: str = 'abc', **settings: Any) -> dict[str, Any]:
    prefix = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')
    metainfo = dict(classes=tuple(classes), palette=[[i, i, i] for i in range(len(classes))])
    return dict(
        type='RemoteSensingDataset',
        data_root=str(root),
        data_prefix=prefix,
        pipeline=LOADING,
        metainfo=metainfo,
        **settings,
    )


def training(dataset: dict[str, Any]) -> Config:
    return Config(dict(train_dataloader=dict(dataset=dataset)))


def test_shares_are_those_of_the_labelled_pixels_of_the_source(tmp_path, write):
    first = np.array([[0, 0, 0, 1], [2, 255, 255, 255]], np.uint8)  # 3, 1, 1
    second = np.array([[2, 2, 1, 1], [0, 255, 2, 2]], np.uint8)  # 1, 2, 4
    for name, labels in (('first', first), ('second', second)):
        write(tmp_path / name / 'img_dir/train/x.png', np.zeros((*labels.shape, 3), np.uint8))
        write(tmp_path / name / 'ann_dir/train/x.png', labels)
    one, other = part(tmp_path / 'first'), part(tmp_path / 'second')
    target = {**other, 'data_prefix': dict(img_path='img_dir/train'), 'pipeline': LOADING[:1]}
    adaptation = dict(type='DomainAdaptationDataset', source=one, target=target)
    assert source_shares(training(one)) == pytest.approx([3 / 5, 1 / 5, 1 / 5])
    assert source_shares(training(adaptation)) == pytest.approx([3 / 5, 1 / 5, 1 / 5])
    assert source_shares(training(dict(type='RepeatDataset', times=2, dataset=adaptation))) == pytest.approx(
        [3 / 5, 1 / 5, 1 / 5]
    )
    # Twice the first and once the second, whose ids stand for the classes in another order: c, b, a.
    turned = part(tmp_path / 'second', 'cba')
    several = dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=2, dataset=one), turned])
    assert source_shares(training(several)) == pytest.approx([10 / 17, 4 / 17, 3 / 17])


def test_a_class_without_pixels_and_a_source_without_labels_are_named(tmp_path, make_dataset):
    root = make_dataset(classes=2)
    with pytest.raises(ConfigError, match=r'RemoteSensingDataset .*data.* no pixel of c '):
        source_shares(training(part(root)))
    with pytest.raises(DataError, match=r'00\.png has no label map'):
        source_shares(training({**part(root), 'data_prefix': dict(img_path='img_dir/train'), 'pipeline': LOADING[:1]}))
    with pytest.raises(ConfigError, match='train_dataloader'):
        source_shares(Config(dict()))
    with pytest.raises(DataError, match='elsewhere'):
        source_shares(training(part(tmp_path / 'elsewhere')))


def test_a_sampler_that_makes_other_shares_is_mentioned(tmp_path, write, monkeypatch):
    write(tmp_path / 'img_dir/train/x.png', np.zeros((1, 4, 3), np.uint8))
    write(tmp_path / 'ann_dir/train/x.png', np.array([[0, 0, 1, 2]], np.uint8))
    said = []
    monkeypatch.setattr('mmrs.apis.class_shares.print_log', lambda text, **_: said.append(text))
    config = training(part(tmp_path))
    assert source_shares(config) == [0.5, 0.25, 0.25]
    assert not said
    config.train_dataloader.sampler = dict(type='RareClassSampler')
    assert source_shares(config) == [0.5, 0.25, 0.25]
    (text,) = said
    assert 'RareClassSampler' in text
