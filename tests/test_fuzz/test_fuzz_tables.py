"""Any text or value in a table, a list, a cache or an archive gives a result or an error of ours."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mmrs.datasets import RemoteSensingDataset
from mmrs.geo.classes import load_classes, parse_classes
from mmrs.geo.statistics_cache import StatisticsCache
from mmrs.geo.vectors import VectorLayer
from mmrs.preparation.converters.archives import Member, find_files
from mmrs.preparation.converters.landcovernet import read_dates
from mmrs.preparation.converters.recipe import assign_splits, find_pairs, load_recipe
from mmrs.preparation.converters.running import prepare_output
from mmrs.preparation.converters.splits import SplitLists
from mmrs.preparation.download import unpack
from mmrs.preparation.sources import Archive
from tests.fuzzing import broken, ours, values
from tests.tiny_runs import write_clips

CLASSES = b"""\
classes:
  - {name: road, id: 0, color: '#FFFFFF'}
  - {name: building, id: [1, 7], color: [[0, 0, 255], '#0000F0']}
  - {name: clutter, id: 255, color: '#FF0000', ignore: true}
"""
RECIPE = (
    CLASSES
    + b"""\
images: '{group}/img_dir/{name}'
masks: '{group}/ann_dir/{name}.png'
encoding: id
splits: {train: [a, 'b*'], val: {groups: '*', share: 0.25}}
seed: 3
allow_overlap: true
"""
)
DATES = b',date\n0,20180105\n1,20180210\n'
GEOJSON = (
    b'{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"kind": "road"}, "geometry": '
    b'{"type": "Polygon", "coordinates": [[[0, 0], [0, 1], [1, 1], [0, 0]]]}}]}'
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('fuzz')


@pytest.fixture(scope='module')
def clips(folder):
    for name in ('a', 'b'):
        write_clips(folder / 'clips' / name, train=2, val=1, size=8)
    return folder / 'clips'


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def entries(**known):
    """A mapping with some of these keys, mostly of valid values; or anything else."""
    optional = {key: st.one_of(value, value, value, values) for key, value in known.items()}
    mapping = st.fixed_dictionaries({}, optional=optional)
    return st.one_of(mapping, mapping, mapping, values)


colours = st.sampled_from(['#FF0000', '00FF00', [0, 0, 255], [[1, 2, 3]], '#12', [1, 2, 300]])
label_classes = entries(
    name=st.sampled_from(['a', 'b', 'c']), id=st.integers(-1, 300), color=colours, ignore=st.booleans()
)
splits = entries(
    train=st.lists(values, max_size=2) | st.sampled_from(['a', ['a', 'b'], '*']),
    val=entries(groups=st.sampled_from(['b', '*']), share=st.floats(0, 1)),
)
valid_classes = [dict(name='x', id=1, color='#FF0000'), dict(name='y', id=0, color='#00FF00')]
recipes = entries(
    classes=st.just(valid_classes) | st.lists(label_classes, max_size=3),
    images=st.sampled_from(['img_dir/{name}', '{group}/img_dir/{split}/{name}', '**/img_dir/{name}', '{', '*']),
    masks=st.sampled_from(['{group}/ann_dir/{split}/{name}', None]),
    encoding=st.sampled_from(['color', 'id']),
    splits=splits,
    seed=st.integers(),
    allow_overlap=st.booleans(),
)


@given(broken(st.just(CLASSES)))
def test_broken_class_files(folder, content):
    with ours():
        assert load_classes(write(folder, 'classes.yaml', content)).names


@given(entries(classes=st.lists(label_classes, max_size=4)))
def test_any_classes(content):
    with ours():
        table = parse_classes(content, 'classes.yaml')
        assert parse_classes(yaml.safe_load(table.to_yaml()), 'again') == table
        assert len(table.index_of_id) >= len(table.names)
        assert table.converted().names == table.names


@given(broken(st.just(RECIPE)) | recipes.map(lambda value: yaml.safe_dump(value).encode()))
def test_any_recipe(folder, clips, content):
    with ours():
        recipe = load_recipe(write(folder, 'recipe.yaml', content))
        pairs, _ = find_pairs(clips, recipe)
        assign_splits(pairs, recipe)


@given(broken(st.just(b'clip0\nclip1.png\n')), st.booleans())
def test_any_list_of_images(folder, clips, content, allow_missing):
    path = write(folder, 'list.txt', content)
    prefix = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')
    with ours():
        found = RemoteSensingDataset(
            data_root=str(clips / 'a'), ann_file=str(path), data_prefix=prefix, serialize_data=False
        )
        assert len(found)
    with ours():
        assert SplitLists(dict(train=path), allow_missing).assign(dict(tile=['clip0', 'clip1']))


@given(broken(st.just(DATES)))
def test_any_table_of_dates(folder, content):
    path = write(folder, 'dates.csv', content)
    with ours():
        assert read_dates(Member(path, path))


@given(broken(st.just(b'{"classes": ["a", "b"], "size": 512}')))
def test_any_record_of_a_conversion(folder, content):
    out = folder / 'converted'
    out.mkdir(exist_ok=True)
    write(out, 'conversion.json', content)
    with ours():
        prepare_output(out, dict(classes=['a', 'b'], size=512), overwrite=False)


@cache
def cached_statistics(folder):
    cache = StatisticsCache('fuzz', folder, {})
    cache.put('a.png', (1, 2), dict(counts=np.arange(5), sums=np.arange(3.0)))
    cache.save()
    return cache.path, cache.path.read_bytes()


@given(st.data())
def test_any_cache_of_statistics(folder, data):
    """It is made anew where it cannot be read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MMRS_CACHE', str(folder))
        path, content = cached_statistics(folder)
        path.write_bytes(data.draw(broken(st.just(content))))
        with ours():
            found = StatisticsCache('fuzz', folder, {}).get('a.png', (1, 2))
            assert found is None or all(isinstance(array, np.ndarray) for array in found.values())


@given(broken(st.just(GEOJSON)))
def test_any_polygons(folder, content):
    path = write(folder, 'areas.geojson', content)
    with ours():
        layer = VectorLayer(str(path), attribute='kind')
        layer.within((-1, -1, 2, 2))
        layer.values()


def zipped(kind, files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', kind) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)  # which has no time in it
            info.compress_type = kind
            archive.writestr(info, content)
    return file.getvalue()


archives = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]).map(
    lambda kind: zipped(kind, {'a/dates.csv': DATES, 'a/1.png': bytes(99)})
)


@given(broken(archives))
def test_any_zip_file(folder, content):
    source, out = folder / 'zips', folder / 'unpacked'
    source.mkdir(exist_ok=True)
    path = write(source, 'x.zip', content)
    with ours():
        found = find_files(source, lambda path: ('dates', path.stem), ('.csv',), 'test')
        for member in found.get('dates', {}).values():
            member.read_text()
    with ours():
        unpack(path, Archive('https://example.org/x.zip', len(content), '', {'a': 1}), out)
    for file in out.rglob('*'):
        assert file.name in ('a', '1.png')
        assert file.name == 'a' or file.read_bytes() == bytes(99), 'what is missing was made up'
    if (out / 'a').exists():
        (out / 'a' / '1.png').unlink()
        (out / 'a').rmdir()
