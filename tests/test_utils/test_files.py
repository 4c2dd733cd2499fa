import json

import numpy as np
import pytest

from mmrs.utils import OutputError
from mmrs.utils.files import atomic_path, new_directory, write_json


def test_atomic_path_leaves_nothing_behind_on_failure(tmp_path):
    def fail():
        with atomic_path(tmp_path / 'sub' / 'a.txt') as temporary:
            temporary.write_text('half')
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / 'sub').iterdir()) == []


def test_atomic_path_keeps_the_suffix_and_overwrites_only_when_asked(tmp_path):
    path = tmp_path / 'a.png'
    path.write_text('old')
    with pytest.raises(OutputError, match=r'a\.png exists'), atomic_path(path):
        pass
    with atomic_path(path, overwrite=True) as temporary:
        assert temporary.suffix == '.png'
        assert path.read_text() == 'old'
        temporary.write_text('new')
    assert path.read_text() == 'new'
    assert list(tmp_path.iterdir()) == [path]


def test_new_directory(tmp_path):
    assert new_directory(tmp_path / 'a' / 'b').is_dir()
    (tmp_path / 'a' / 'b' / 'file').touch()
    with pytest.raises(OutputError, match='not empty'):
        new_directory(tmp_path / 'a' / 'b')
    new_directory(tmp_path / 'a' / 'b', overwrite=True)
    with pytest.raises(OutputError, match='is a file'):
        new_directory(tmp_path / 'a' / 'b' / 'file')
    with pytest.raises(OutputError, match='cannot be made'):
        new_directory(tmp_path / 'a' / 'b' / 'file' / 'below')


def test_write_json_is_strict_json(tmp_path):
    write_json({'a': float('nan'), 'b': np.arange(2), 'c': (np.float32(0.5), {1: float('inf')})}, tmp_path / 'a.json')
    text = (tmp_path / 'a.json').read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {'a': None, 'b': [0, 1], 'c': [0.5, {'1': None}]}


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OutputError, match=r'scores\.json cannot be written: .*file'):
        write_json({}, tmp_path / 'file' / 'scores.json')


def test_a_folder_in_the_place_of_a_file(tmp_path):
    with pytest.raises(OutputError, match='is a folder'):
        write_json({}, tmp_path, overwrite=True)
    assert tmp_path.is_dir()
