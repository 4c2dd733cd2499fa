import json
import pickle

import numpy as np
import pytest

from mmrs.models.losses import PixelMeanCrossEntropyLoss
from mmrs.models.losses.class_weight import read_class_weight
from mmrs.utils import ConfigError


def write(path, values):
    if path.suffix == '.npy':
        np.save(path, np.asarray(values))
    elif path.suffix == '.pkl':
        path.write_bytes(pickle.dumps(values))
    else:
        path.write_text(json.dumps(values))  # which is YAML too
    return path


@pytest.mark.parametrize('name', ['w.npy', 'w.json', 'w.yaml', 'w.yml'])
def test_files(tmp_path, name):
    file = write(tmp_path / name, [1, 2.5, 0.0])
    assert read_class_weight(str(file), 'k', 3) == [1.0, 2.5, 0.0]
    assert PixelMeanCrossEntropyLoss(str(file)).class_weight.tolist() == [1.0, 2.5, 0.0]


def test_numbers():
    assert read_class_weight(None) is None
    assert read_class_weight((1, 2)) == [1.0, 2.0]
    assert read_class_weight(np.array([0.5, 1.0], np.float32)) == [0.5, 1.0]


@pytest.mark.parametrize(
    ('name', 'values', 'message'),
    [
        ('w.npy', [1, 2], r'w\.npy, has 2 entries for 3 classes'),
        ('w.json', [1, -2, 1], r'w\.json, has -2 in \[1, -2, 1\]'),
        ('w.npy', [1, np.nan, 1], r'w\.npy, has nan'),
        ('w.npy', [[1, 2, 3]], r'w\.npy, is \[\[1, 2, 3\]\]'),
        ('w.json', dict(a=1), r"w\.json, is \{'a': 1\}"),
        ('w.json', ['a', 'b', 'c'], r"w\.json, is \['a'"),
        ('w.json', [], r'w\.json, is \[\]'),
        ('w.pkl', [1, 2, 3], r'w\.pkl: a pickle can run foreign code'),
        ('w.txt', [1, 2, 3], r"w\.txt'; numbers, or a file that ends in \.npy"),
    ],
)
def test_files_that_are_none(tmp_path, name, values, message):
    with pytest.raises(ConfigError, match=message):
        read_class_weight(str(write(tmp_path / name, values)), 'model.decode_head.loss_decode.class_weight', 3)


def test_files_that_cannot_be_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / 'was here'), 'w'))

    np.save(tmp_path / 'evil.npy', np.array([Evil()], dtype=object), allow_pickle=True)
    (tmp_path / 'broken.npy').write_bytes(b'')
    (tmp_path / 'broken.json').write_text('{')
    for name in ('evil.npy', 'broken.npy', 'broken.json', 'missing.npy'):
        with pytest.raises(ConfigError, match=f'k is {tmp_path / name}, which cannot be read: .'):
            read_class_weight(str(tmp_path / name), 'k')
    assert not (tmp_path / 'was here').exists()
