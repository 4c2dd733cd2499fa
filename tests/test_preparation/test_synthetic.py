"""The synthetic scenes: what is drawn, how the gap acts on it, and the archives."""

import itertools
import json
import math
import zipfile
from dataclasses import replace

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from mmrs.preparation.converters.isprs import LABEL_OF_COLOUR
from mmrs.preparation.synthetic import SOURCE_WORLD, Tile, make_tile, plan_tiles, world_at, write_isprs_archives
from mmrs.preparation.synthetic.archives import ARCHIVES, MANIFEST, erode_boundaries
from mmrs.preparation.synthetic.materials import MATERIALS
from mmrs.preparation.synthetic.rendering import render, sun_vector
from mmrs.preparation.synthetic.scene import BUILDING, CAR, IMPERVIOUS, LOW_VEGETATION, TREE, Canvas, Scene, Surface
from mmrs.preparation.synthetic.town import lay_out
from mmrs.utils.errors import ConfigError, OutputError
from tools.dataset_converters import synthetic_isprs

SMALL = dict(potsdam_tiles=(1, 1), vaihingen_areas=(1, 1), potsdam_size=448, vaihingen_size=256, workers=1)
FEW = {**SMALL, 'potsdam_tiles': (0, 0), 'vaihingen_areas': (1, 0)}


def potsdam(name: str, size: int = 768) -> tuple[np.ndarray, np.ndarray]:
    return make_tile(Tile('potsdam', name, 'train', size, 0.0, 0))


def vaihingen(name: str, gap: float, size: int = 320) -> tuple[np.ndarray, np.ndarray]:
    return make_tile(Tile('vaihingen', name, 'train', size, gap, 0))


def class_means(tiles: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Mean grey level (class, band) over the classes that are common enough to compare."""
    pixels = np.concatenate([image.reshape(-1, 4) for image, _ in tiles])
    labels = np.concatenate([label.ravel() for _, label in tiles])
    return np.array([pixels[labels == c].mean(0) for c in (IMPERVIOUS, BUILDING, LOW_VEGETATION, TREE)])


def rectangle(x0: float, y0: float, x1: float, y1: float, material: str, label: int, height: float) -> Surface:
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)
    return Surface(corners, material, label, (height, 0.0, 0.0), 0.0, 1.0, 0)


class TestScene:
    def test_same_seed_same_tile(self):
        (image, label), (again, label_again) = potsdam('2_10', 448), potsdam('2_10', 448)
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(label, label_again)

    @pytest.mark.parametrize('other', [dict(seed=1), dict(name='2_11'), dict(domain='vaihingen', name='1')])
    def test_another_seed_or_tile_is_another_scene(self, other):
        tile = Tile('potsdam', '2_10', 'train', 448, 0.0, 0)
        assert (make_tile(tile)[1] != make_tile(replace(tile, **other))[1]).mean() > 0.2

    @pytest.mark.parametrize(('gsd', 'gap'), [(0.05, 0.0), (0.09, 1.0)])
    def test_every_class_has_a_sensible_share(self, gsd, gap):
        # Laid out at full extent, painted coarsely: shares are a property of the layout.
        shares = np.zeros(7)
        for seed in range(8):
            rng = np.random.default_rng(seed)
            world = world_at(gap)
            label = render(lay_out((90.0, 90.0), world, rng), world, 8 * gsd, rng).label
            share = np.bincount(label.ravel(), minlength=7) / label.size
            assert share[0] == 0
            shares += share / 8
        low = [0.2, 0.12, 0.12, 0.06, 0.01, 0.015]
        high = [0.5, 0.4, 0.4, 0.3, 0.06, 0.1]
        assert (shares[1:] > low).all(), shares
        assert (shares[1:] < high).all(), shares

    @pytest.mark.parametrize('gsd', [0.05, 0.09])
    def test_cars_have_their_size_in_metres(self, gsd):
        rng = np.random.default_rng(4)
        world = replace(SOURCE_WORLD, trees=0.0)
        size = 40.0
        scene = lay_out((size, size), world, rng)
        label = render(scene, world, gsd, rng).label
        checked = 0
        for x, y, heading, length, width in scene.cars:
            assert 3.8 < length < 6
            assert 1.6 < width < 2.1
            if not all(4 < p < size - 4 for p in (x, y)):
                continue
            # What is labelled as car around this centre, as an upright rectangle in the car's own frame.
            rows, columns = np.nonzero(label == CAR)
            dx, dy = (columns + 0.5) * gsd - x, (rows + 0.5) * gsd - y
            along = math.cos(heading) * dx + math.sin(heading) * dy
            across = math.cos(heading) * dy - math.sin(heading) * dx
            near = (np.abs(along) < length / 2 + 0.1) & (np.abs(across) < width / 2 + 0.1)
            assert np.ptp(along[near]) == pytest.approx(length, abs=0.1 + 2 * gsd)
            assert np.ptp(across[near]) == pytest.approx(width, abs=0.1 + 2 * gsd)
            checked += 1
        assert checked >= 3

    def test_frames_are_inverse(self):
        canvas = Canvas((80.0, 60.0), SOURCE_WORLD, np.random.default_rng(3))
        for point in np.random.default_rng(0).uniform(-50, 50, (5, 2)):
            there = canvas.to_tile(point[None])[0]
            assert canvas.to_local(there) == pytest.approx(tuple(point))
            assert np.hypot(*(there - (40, 30))) < np.hypot(*point) + 4

    def test_too_small_a_scene_is_refused(self):
        with pytest.raises(ConfigError, match=r'10 x 30 m is too small, expected at least 20 m'):
            lay_out((10.0, 30.0), SOURCE_WORLD, np.random.default_rng(0))


class TestRendering:
    def test_vegetation_is_what_the_label_says(self):
        image, label = potsdam('2_10')
        red, infrared = image[..., 0].astype(float), image[..., 3].astype(float)
        ndvi = (infrared - red) / (infrared + red)
        for vegetation in (LOW_VEGETATION, TREE):
            for other in (IMPERVIOUS, BUILDING, CAR):
                assert ndvi[label == vegetation].mean() > ndvi[label == other].mean() + 0.12

    @pytest.mark.parametrize(('azimuth', 'elevation'), [(0.0, 30.0), (90.0, 50.0), (152.0, 30.0), (236.0, 50.0)])
    def test_shadows_follow_the_sun(self, azimuth, elevation):
        gsd, height = 0.1, 6.0
        world = replace(SOURCE_WORLD, sun_azimuth=azimuth, sun_elevation=elevation)
        ground = rectangle(0, 0, 60, 60, 'asphalt', IMPERVIOUS, 0.0)
        tower = rectangle(29, 29, 31, 31, 'roof_gravel', BUILDING, height)
        rendering = render(Scene((60.0, 60.0), [ground, tower]), world, gsd, np.random.default_rng(0))
        rows, columns = np.nonzero(rendering.shadow > 0.5)
        x, y = (columns + 0.5) * gsd - 30, (rows + 0.5) * gsd - 30
        east, north = math.sin(math.radians(azimuth)), math.cos(math.radians(azimuth))
        away = -(x * east - y * north)  # y runs south
        reach = height / math.tan(math.radians(elevation))
        corner = abs(east) + abs(north)  # the 2 m tower's half diagonal in that direction
        assert away.max() == pytest.approx(reach + corner, abs=0.7)
        assert away.min() > -corner - 0.3
        dark = rendering.image[rendering.shadow > 0.9].mean()
        bright = rendering.image[(rendering.shadow < 0.1) & (rendering.label == IMPERVIOUS)].mean()
        assert dark < 0.7 * bright

    def test_the_roof_side_towards_the_sun_is_brighter(self):
        world = replace(SOURCE_WORLD, sun_azimuth=180.0, sun_elevation=40.0)
        ground = rectangle(0, 0, 30, 30, 'asphalt', IMPERVIOUS, 0.0)
        # South is down: the facet that falls towards larger y faces the sun.
        south = Surface(
            np.array([(5, 15), (25, 15), (25, 22), (5, 22)], float), 'roof_tiles', BUILDING, (18.0, 0, -0.7), 0.0, 1, 8
        )
        north = Surface(
            np.array([(5, 15), (25, 15), (25, 8), (5, 8)], float), 'roof_tiles', BUILDING, (-3.0, 0, 0.7), 0.0, 1, 8
        )
        image = render(Scene((30.0, 30.0), [ground, south, north]), world, 0.1, np.random.default_rng(0)).image
        assert image[160:210, 60:240].mean() > 1.3 * image[90:140, 60:240].mean()
        assert sun_vector(world)[1] > 0

    def test_ground_sampling_distance_is_all_that_differs_at_gap_zero(self):
        assert world_at(0.0) == SOURCE_WORLD
        rng = np.random.default_rng(1)
        scene = lay_out((45.0, 45.0), SOURCE_WORLD, rng)
        fine, coarse = (render(scene, SOURCE_WORLD, gsd, np.random.default_rng(2)) for gsd in (0.05, 0.09))
        assert fine.image.shape == (900, 900, 4)
        assert coarse.image.shape == (500, 500, 4)
        resized = cv2.resize(fine.label, (500, 500), interpolation=cv2.INTER_NEAREST)
        assert (resized == coarse.label).mean() > 0.985
        assert np.abs(fine.image.mean((0, 1)) - coarse.image.mean((0, 1))).max() < 3

    def test_materials_are_reflectances(self):
        for name, material in MATERIALS.items():
            for reflectance in (material.reflectance, material.weathered or material.reflectance):
                assert all(0 < value < 1 for value in reflectance), name
            if material.kind != 'plain':
                assert material.reflectance[3] > 3 * material.reflectance[0], name


class TestGap:
    def test_distance_of_the_classes_grows_with_the_gap(self):
        names = ('1', '3', '4', '6')
        source = class_means([vaihingen(name, 0.0) for name in names])
        distances = [
            np.linalg.norm(class_means([vaihingen(name, gap) for name in names]) - source, axis=1).mean()
            for gap in (0.25, 0.5, 1.0)
        ]
        assert distances[0] > 5
        assert all(b > 1.2 * a for a, b in itertools.pairwise(distances)), distances

    def test_both_domains_look_alike_at_gap_zero(self):
        near = class_means([potsdam(name, 720) for name in ('2_10', '2_11', '2_12')])
        same = class_means([vaihingen(name, 0.0, 400) for name in ('1', '3', '4', '6')])
        far = class_means([vaihingen(name, 1.0, 400) for name in ('1', '3', '4', '6')])
        assert np.linalg.norm(same - near, axis=1).mean() < 0.5 * np.linalg.norm(far - near, axis=1).mean()

    def test_medium_lies_half_way(self):
        middle, far = world_at(0.5), world_at(1.0)
        assert middle.sun_elevation == pytest.approx((SOURCE_WORLD.sun_elevation + far.sun_elevation) / 2)
        assert middle.gain == pytest.approx([(a + b) / 2 for a, b in zip(SOURCE_WORLD.gain, far.gain)])

    def test_extrapolation_keeps_shares_valid(self):
        world = world_at(1.5)
        for name in ('pitched', 'tiled', 'bright_flat', 'paved', 'conifers', 'parking', 'dryness'):
            assert 0 <= getattr(world, name) <= 1
        assert world.sun_elevation > 15

    @pytest.mark.parametrize('gap', [-0.1, 1.6, float('nan')])
    def test_out_of_range(self, gap):
        with pytest.raises(ConfigError, match=r'gap is .*, expected a number from 0'):
            world_at(gap)


MEMBERS = {
    '2_Ortho_RGB.zip': '2_Ortho_RGB/top_potsdam_{}_RGB.tif',
    '3_Ortho_IRRG.zip': '3_Ortho_IRRG/top_potsdam_{}_IRRG.tif',
    '5_Labels_all_noBoundary.zip': 'top_potsdam_{}_label_noBoundary.tif',
    'ISPRS_semantic_labeling_Vaihingen.zip': 'top/top_mosaic_09cm_area{}.tif',
    'ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip': 'top_mosaic_09cm_area{}_noBoundary.tif',
}


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    out = tmp_path_factory.mktemp('pair')
    assert write_isprs_archives(out, **SMALL)
    return out


class TestArchives:
    def test_members_are_named_like_the_benchmark(self, pair):
        assert sorted(path.name for path in pair.iterdir()) == sorted((*ARCHIVES, MANIFEST))
        for archive, member in MEMBERS.items():
            others = [member.format(name) for name in (('2_10', '2_13') if 'potsdam' in member else ('1', '2'))]
            assert zipfile.ZipFile(pair / archive).namelist() == others

    def test_geotiffs_are_georeferenced(self, pair):
        for archive, member in MEMBERS.items():
            potsdam = 'potsdam' in member
            name, epsg, gsd, size = ('2_10', 32633, 0.05, 448) if potsdam else ('1', 32632, 0.09, 256)
            with rasterio.open(f'zip://{pair / archive}!/{member.format(name)}') as dataset:
                assert (dataset.count, dataset.height, dataset.width) == (3, size, size)
                assert dataset.dtypes == ('uint8',) * 3
                assert dataset.crs.to_epsg() == epsg
                assert dataset.transform == Affine(gsd, 0, dataset.bounds.left, 0, -gsd, dataset.bounds.top)
                assert dataset.lnglat() == pytest.approx((13.06, 52.40) if potsdam else (8.96, 48.93), abs=0.05)

    def test_tiles_do_not_overlap(self):
        tiles = plan_tiles(potsdam_tiles=(24, 14), vaihingen_areas=(25, 8), potsdam_size=6100, vaihingen_size=4000)
        assert len(tiles) == 71
        for domain in ('potsdam', 'vaihingen'):
            corners = np.array([t.transform @ (0, 0) for t in tiles if t.domain == domain])
            gaps = np.abs(corners[:, None] - corners).max(-1)
            np.fill_diagonal(gaps, np.inf)
            assert gaps.min() >= {'potsdam': 305, 'vaihingen': 360}[domain]

    def test_bands_and_labels_agree_with_the_scene(self, pair):
        image, label = potsdam('2_10', 448)

        def read(archive):
            with rasterio.open(f'zip://{pair / archive}!/{MEMBERS[archive].format("2_10")}') as dataset:
                return np.moveaxis(dataset.read(), 0, -1)

        np.testing.assert_array_equal(read(ARCHIVES[0]), image[..., [0, 1, 2]])
        np.testing.assert_array_equal(read(ARCHIVES[1]), image[..., [3, 0, 1]])
        colours = read(ARCHIVES[2]).reshape(-1, 3).tolist()
        ids = np.array([LABEL_OF_COLOUR[tuple(colour)] for colour in colours]).reshape(label.shape)
        np.testing.assert_array_equal(ids, erode_boundaries(label))
        assert 0.01 < (ids == 0).mean() < 0.25
        np.testing.assert_array_equal(ids[ids > 0], label[ids > 0])

    def test_boundaries_are_three_pixels_wide_on_each_side(self):
        label = np.full((20, 40), IMPERVIOUS, np.uint8)
        label[:, 20:] = BUILDING
        assert np.flatnonzero(erode_boundaries(label)[10] == 0).tolist() == list(range(17, 23))

    def test_a_second_run_makes_what_is_missing_to_the_byte(self, pair):
        before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in pair.iterdir()}
        assert not write_isprs_archives(pair, **SMALL)
        assert {path.name: path.stat().st_mtime_ns for path in pair.iterdir()} == {n: t for n, (t, _) in before.items()}
        (pair / ARCHIVES[4]).unlink()
        assert write_isprs_archives(pair, **{**SMALL, 'workers': 2})
        assert {path.name: path.read_bytes() for path in pair.iterdir()} == {n: b for n, (_, b) in before.items()}

    def test_another_pair_is_replaced_only_by_force(self, tmp_path):
        write_isprs_archives(tmp_path, **FEW)
        before = (tmp_path / ARCHIVES[3]).read_bytes()
        with pytest.raises(OutputError, match=r'another synthetic pair \(seed was 0, is 1'):
            write_isprs_archives(tmp_path, **FEW, seed=1)
        assert (tmp_path / ARCHIVES[3]).read_bytes() == before
        assert write_isprs_archives(tmp_path, **FEW, seed=1, overwrite=True)
        assert (tmp_path / ARCHIVES[3]).read_bytes() != before
        assert json.loads((tmp_path / MANIFEST).read_text())['seed'] == 1

    def test_archives_of_unknown_origin_are_never_replaced(self, tmp_path):
        (tmp_path / ARCHIVES[0]).write_bytes(b'the real one')
        for overwrite in (False, True):
            with pytest.raises(OutputError, match=r'2_Ortho_RGB\.zip without the manifest'):
                write_isprs_archives(tmp_path, **SMALL, overwrite=overwrite)
        assert (tmp_path / ARCHIVES[0]).read_bytes() == b'the real one'

    def test_nothing_is_left_of_a_run_that_failed(self, tmp_path, monkeypatch):
        def full(*_):
            raise OSError('disk full')

        monkeypatch.setattr('mmrs.preparation.synthetic.archives._zip', full)
        with pytest.raises(OSError, match='disk full'):
            write_isprs_archives(tmp_path, **FEW)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ('wrong', 'message'),
        [
            (dict(gap=2.0), 'gap is 2.0'),
            (dict(seed=-1), 'seed is -1'),
            (dict(potsdam_tiles=(25, 0)), 'train tiles of potsdam is 25; .* 24'),
            (dict(vaihingen_areas=(1, 9)), 'val tiles of vaihingen is 9; .* 8'),
            (dict(vaihingen_size=100), 'vaihingen tiles is 100; .* 223'),
            (dict(potsdam_tiles=(0, 0), vaihingen_areas=(0, 0)), 'no tiles asked for'),
        ],
    )
    def test_bad_numbers(self, tmp_path, wrong, message):
        with pytest.raises(ConfigError, match=message):
            write_isprs_archives(tmp_path / 'out', **{**SMALL, **wrong})
        assert not (tmp_path / 'out').exists()


def test_command_line(tmp_path, capfd):
    out = tmp_path / 'out'

    def run(*arguments):
        small = ['--potsdam-tiles', '0', '0', '--vaihingen-areas', '1', '0', '--vaihingen-size', '256']
        return synthetic_isprs.main(['-o', str(out), *small, *arguments]), *capfd.readouterr()

    code, said, _ = run('--dry-run')
    assert code == 0
    assert 'top/top_mosaic_09cm_area1.tif (train, 256 x 256 px)' in said
    assert not out.exists()
    assert run()[0] == 0
    assert (out / MANIFEST).is_file()
    assert 'already holds this pair' in run()[1]
    code, _, complaint = run('--gap', '1')
    assert code == 2
    assert complaint.startswith('error: ')
    assert 'gap was 0.5, is 1.0' in complaint
