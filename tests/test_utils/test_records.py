import json
import math

import pytest

from mmrs.utils.errors import OutputError
from mmrs.utils.records import Record, differences, flatten, shown


def test_flatten_gives_each_leaf_its_path():
    assert flatten(dict(a=dict(b=1, c=[2, dict(d=3)]), e=[], f={})) == {
        'a.b': 1,
        'a.c.0': 2,
        'a.c.1.d': 3,
        'e': [],
        'f': {},
    }


def test_differences_name_keys_and_both_values():
    found = dict(same=(1, 2), changed=dict(rate=0.1), gone='x')
    assert differences(json.loads(json.dumps(found)), dict(same=(1, 2), changed=dict(rate=0.2), new=None)) == [
        'changed.rate was 0.1, is 0.2',
        "gone was 'x', is None",
    ]


def test_not_a_number_equals_itself():
    assert differences(dict(nodata=math.nan), dict(nodata=math.nan)) == []
    assert len(differences(dict(nodata=math.nan), dict(nodata=0.0))) == 1


def test_shown_counts_what_it_leaves_out():
    assert shown(['a', 'b', 'c']) == 'a; b; c'
    assert shown(['a', 'b', 'c', 'd', 'e'], 2) == 'a; b and 3 more'


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = Record(tmp_path / 'folder' / 'settings.json')
    assert not record
    record.write(dict(size=(3, 4), nodata=math.nan))
    assert record
    assert record.differences(dict(size=[3, 4], nodata=math.nan)) == []
    record.write(dict(size=5))
    assert record.differences(dict(size=6)) == ['size was 5, is 6']


@pytest.mark.parametrize('text', ['', '{"a": 1', '[1]', None])
def test_a_record_that_tells_nothing_differs(text, tmp_path):
    record = Record(tmp_path / 'settings.json')
    if text is not None:
        record.path.write_text(text)
    assert len(record.differences(dict(a=1))) == 1
    assert 'settings.json' in record.differences(dict(a=1))[0]


def test_a_record_that_cannot_be_written_is_an_error_of_the_output(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OutputError, match='file'):
        Record(tmp_path / 'file' / 'settings.json').write({})
