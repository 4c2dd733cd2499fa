import csv
import sqlite3
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyogrio
import pyogrio.raw
import pytest
import rasterio
import shapely
import torch
from PIL import Image
from rasterio.transform import Affine

from mmrs.apis.inference import init_model
from mmrs.apis.target_images import TargetImages
from mmrs.apis.tile_selection import TileSelection
from mmrs.datasets.transforms import LoadRasterAnnotations, LoadRasterImage
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError, DataError, OutputError
from tests.tiny_runs import quick_start, write_clips, write_config  # noqa: F401
from tools.analysis_tools import select_tiles

PLACE = dict(crs='EPSG:32633', transform=Affine(8, 6, 500000, 6, -8, 5600000))
#: Windows of a raster of 150 x 200 px, none larger than 64 px.
WINDOWS = [(x, y, x + 50, y + 50) for y in (0, 50, 100) for x in (0, 50, 100, 150)]


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """A configuration, and a checkpoint of it."""
    root = tmp_path_factory.mktemp('network')
    config, checkpoint = write_config(root / 'plain.py', write_clips(root / 'data', val=4)), root / 'iter_2.pth'
    torch.manual_seed(0)
    model = init_model(config, device='cpu')
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    meta = dict(dataset_meta={key: model.dataset_meta[key] for key in ('classes', 'palette')})
    torch.save(dict(meta=meta, state_dict=model.state_dict()), checkpoint)
    return config, checkpoint


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """A raster whose last row has no data in its left half, and three quarters of the first window neither."""
    folder = tmp_path_factory.mktemp('scenes')
    (folder / 'north').mkdir()
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(1, 255, (3, 15, 20)), np.ones((10, 10))).astype(np.uint8)
    image[:, 100:, :100] = 0
    image[:, :50, :38] = 0
    with rasterio.open(
        folder / 'north' / 'scene.tif', 'w', driver='GTiff', count=3, height=150, width=200, dtype='uint8', nodata=0,
        **PLACE,
    ) as raster:  # fmt: skip
        raster.write(image)
    return folder


@pytest.fixture
def select(network, scenes, tmp_path):
    def build(targets=None, **settings):
        own = dict(config=network[0], checkpoint=network[1], out=tmp_path / 'tiles.gpkg', device='cpu', size=64)
        return TileSelection(targets=targets or [str(scenes)], **{**own, **settings})

    return build


def table(path):
    return list(csv.DictReader(path.open(encoding='utf-8')))


def place_of(transform, column, row):
    a, b, c, d, e, f = tuple(transform)[:6]
    return a * column + b * row + c, d * column + e * row + f


def place(row):
    return tuple(int(row[key]) for key in ('x0', 'y0', 'x1', 'y1'))


def test_a_layer_a_table_pictures_and_parts_of_the_raster(network, scenes, tmp_path, capsys):
    out = tmp_path / 'new' / 'tiles.gpkg'
    command = [*map(str, network), str(scenes), '-k', '4', '-o', str(out), '--size', '64', '--device', 'cpu']
    assert select_tiles.main([*command, '--dry-run']) == 0
    assert '12 tiles of 1 images' in capsys.readouterr().out
    assert not out.parent.exists()
    assert select_tiles.main(command) == 0
    printed = capsys.readouterr().out
    assert 'tiles.gpkg: 4 tiles' in printed

    rows = table(out.with_suffix('.csv'))
    assert [row['rank'] for row in rows] == list('1234')
    assert {place(row) for row in rows} <= set(WINDOWS) - {WINDOWS[0], WINDOWS[8], WINDOWS[9]}
    names = out.with_suffix('.txt').read_text().splitlines()
    assert names == [row['name'] for row in rows] == [f'north/scene_{row["x0"]}_{row["y0"]}.tif' for row in rows]
    assert all(row['reason'] in printed for row in rows)

    meta, _, shapes, values = pyogrio.raw.read(out, layer='tiles')
    fields = dict(zip(meta['fields'], values))
    assert meta['crs'] == 'EPSG:32633'
    assert fields['reason'].tolist() == [row['reason'] for row in rows]
    to_ground = PLACE['transform']
    for shape, row in zip(shapely.from_wkb(shapes), rows):
        x0, y0, x1, y1 = place(row)
        corners = [place_of(to_ground, *corner) for corner in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
        assert shape.normalize().equals_exact(shapely.Polygon(corners).normalize(), 1e-6)

    # Shares add up to one; they are those of the map that is corrected to other shares.
    shares = np.array([[float(row[key]) for key in row if key.startswith('share_')] for row in rows])
    assert shares.shape == (4, 6)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-4)

    for row in rows:
        assert Image.open(row['picture']).size[0] > 1000
        with rasterio.open(row['cut']) as part, rasterio.open(scenes / 'north' / 'scene.tif') as whole:
            x0, y0, x1, y1 = place(row)
            np.testing.assert_array_equal(part.read(), whole.read()[:, y0:y1, x0:x1])
            assert part.xy(0, 0) == pytest.approx(whole.xy(y0, x0))
            assert (part.crs, part.nodata) == (whole.crs, 0)

    # QGIS finds how to show it.
    with sqlite3.connect(out) as file:
        ((name, style),) = file.execute('SELECT f_table_name, styleQML FROM layer_styles')
    root = ElementTree.fromstring(style)
    assert (name, root.find('labeling/settings/text-style').get('fieldName')) == ('tiles', 'rank')
    assert '"picture"' in root.find('mapTip').text

    assert select_tiles.main(command) == 2
    assert 'exists already' in capsys.readouterr().err


def test_the_way_back_into_a_training(select, tmp_path):
    """What is drawn into the layer of labels is what a data set of the cut images learns from."""
    selection = select(k=3)
    rows = selection.run()
    drawn = []
    for row in rows:
        with rasterio.open(row['cut']) as part:
            corners = ((10, 5), (30, 5), (30, 25), (10, 25))
            drawn.append(shapely.Polygon([place_of(part.transform, *corner) for corner in corners]))
    before = pyogrio.read_info(selection.labels, layer='classes')
    assert (before['features'], before['crs']) == (0, 'EPSG:32633')
    pyogrio.raw.write(
        selection.labels, shapely.to_wkb(np.array(drawn)), [np.array(['car', 'tree', 'road'], object)], ['class'],
        layer='classes', driver='GPKG', geometry_type='Polygon', crs='EPSG:32633', append=True,
    )  # fmt: skip
    dataset = DATASETS.build(
        dict(
            type='RasterDataset',
            data_prefix=dict(img_path=str(tmp_path / 'tiles' / 'images'), seg_map_path=str(selection.labels)),
            ann_file=str(tmp_path / 'tiles.txt'),
            label_attribute='class',
            metainfo=dict(classes=('road', 'building', 'grass', 'tree', 'car', 'clutter')),
            pipeline=[LoadRasterImage(), LoadRasterAnnotations()],
        )
    )
    assert len(dataset) == 3
    assert [own['img_path'] for own in dataset] == [row['cut'] for row in rows]
    for sample, index in zip(dataset, (4, 3, 0)):
        expected = np.full((50, 50), 255)
        expected[5:25, 10:30] = index
        np.testing.assert_array_equal(sample['gt_seg_map'], expected)

    # Another choice takes the place of the first, its parts and pictures too; what was drawn stays.
    before, others = {row['cut'] for row in rows}, select(k=2, criterion='random', seed=3, overwrite=True).run()
    found = {str(path) for path in (tmp_path / 'tiles' / 'images').rglob('*.tif')}
    assert found == {row['cut'] for row in others} != before
    assert len(list((tmp_path / 'tiles' / 'pictures').iterdir())) == 2
    assert pyogrio.read_info(selection.labels, layer='classes')['features'] == 3


@pytest.mark.parametrize('criterion', ['balanced', 'uncertainty', 'diversity', 'gradient', 'random'])
def test_tiles_without_data_are_never_chosen(select, criterion):
    """Of twelve, two have no data and one has too few; nine are all."""
    selection = select(k=9, criterion=criterion)
    tiles, chosen = selection.choose()
    assert len(tiles) == 12
    assert {tiles[own.index].window for own in chosen} == set(WINDOWS) - {WINDOWS[0], WINDOWS[8], WINDOWS[9]}
    again = select(k=9, criterion=criterion).choose()[1]
    assert again == chosen
    if criterion == 'balanced':
        assert len(select(k=10, min_data=0.2).choose()[1]) == 10
        for k in (10, 13):
            with pytest.raises(ConfigError, match=f'k is {k}'):
                select(k=k).choose()


def test_what_is_labelled_is_complemented(select, tmp_path):
    first = select(k=4).run()
    rows = {place(row) for row in first}
    options = dict(out=tmp_path / 'second.gpkg', labelled=[tmp_path / 'tiles.csv'])
    tiles, chosen = select(k=5, **options).choose()
    assert rows.isdisjoint(tiles[own.index].window for own in chosen)
    assert 'unlike the tiles before it' in chosen[0].reason
    with pytest.raises(ConfigError, match='k is 6'):
        select(k=6, **options).choose()
    # The names of the cut images do as well, others do not.
    tiles, again = select(k=5, **options | dict(labelled=[tmp_path / 'tiles.txt'])).choose()
    assert again == chosen
    (tmp_path / 'others.txt').write_text('elsewhere\n')
    with pytest.raises(DataError, match=r'others\.txt.*none of the 12 tiles'):
        select(k=5, **options | dict(labelled=[tmp_path / 'others.txt'])).choose()
    # Windows of another size are labelled where they meet those.
    tiles, chosen = select(k=1, size=40, **options).choose()
    x0, y0, x1, y1 = tiles[chosen[0].index].window
    assert not any(x0 < c and a < x1 and y0 < d and b < y1 for a, b, c, d in rows)


def test_images_of_a_configuration_are_tiles_by_their_names(select, network, tmp_path):
    out = tmp_path / 'clips.csv'
    with pytest.raises(ConfigError, match=r'no CRS.*clips\.csv'):
        select(['config:test'], out=tmp_path / 'clips.gpkg', k=2).choose()
    slide = {'model.test_cfg': dict(mode='slide', crop_size=(40, 40), stride=(20, 20))}
    rows = select(['config:test'], out=out, k=3, size=None, cfg_options=slide).run()
    names = (tmp_path / 'clips.txt').read_text().splitlines()
    assert names == [row['name'] for row in rows]
    assert set(names) < {f'clip{i}.png' for i in range(4)}
    assert {path.name for path in tmp_path.iterdir()} == {'clips', 'clips.csv', 'clips.txt'}
    assert [path.name for path in (tmp_path / 'clips').iterdir()] == ['pictures']
    dataset = DATASETS.build(
        dict(
            type='PotsdamDataset',
            data_root=str(network[0].parent / 'data'),
            data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
            ann_file=str(tmp_path / 'clips.txt'),
            pipeline=[],
        )
    )
    assert [Path(dataset[i]['img_path']).name for i in range(3)] == names
    # Twice named is once there; fewer may be looked at.
    tiles, _ = select(['config:test', 'config:test'], out=tmp_path / 'other.csv', k=1).choose()
    assert len(tiles) == 4
    tiles, _ = select(['config:test'], out=tmp_path / 'other.csv', k=1, number=2).choose()
    assert len(tiles) == 2


def test_the_map_has_the_shares_that_are_asked_for(select, tmp_path):
    """A table of shares that favours one class makes more of it, and none leaves the map as it is."""
    plain = select(class_prior=None, k=9, out=tmp_path / 'plain.csv').run()
    known = [key.removeprefix('share_') for key in plain[0] if key.startswith('share_')]
    shares = dict.fromkeys(known, 0.001) | {known[2]: 0.995}
    file = tmp_path / 'shares.yaml'
    file.write_text(''.join(f'{name}: {value}\n' for name, value in shares.items()))
    other = select(class_prior=str(file), prior_strength=1.0, k=9, out=tmp_path / 'other.csv').run()
    before, after = (np.mean([row[f'share_{known[2]}'] for row in rows]) for rows in (plain, other))
    assert after > before + 0.1


def test_all_windows_cover_each_pixel_once(select, network, scenes):
    model = init_model(*network, device='cpu')
    images = TargetImages(model.cfg, [str(scenes)], model.dataset_meta, 64)
    places = [dataset.get_data_info(i)['window'] for dataset, i in images.tiles()]
    assert sorted(places) == sorted(WINDOWS)


def test_options_that_cannot_work(select, tmp_path):
    for options in (dict(k=0), dict(out=tmp_path / 'tiles.shp'), dict(criterion='x'), dict(min_data=0), dict(budget=0),
                    dict(uncertainty=()), dict(cost='hours'), dict(class_prior=None, prior_strength=1.0)):  # fmt: skip
        with pytest.raises(ConfigError):
            select(**options)
    with pytest.raises(DataError, match=r'none\.csv'):
        select(labelled=[tmp_path / 'none.csv'])
    (tmp_path / 'tiles').mkdir()
    (tmp_path / 'tiles' / 'mine.txt').touch()
    with pytest.raises(OutputError, match='tiles exists'):
        select()
