"""Small files that the data-set tests generate."""

import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import rasterio
from mmengine.registry import DefaultScope
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from mmrs.registry import DATASETS

DRIVERS = {'.png': 'PNG', '.jpg': 'JPEG', '.tif': 'GTiff'}


def _write(path: Path, array: np.ndarray, palette: dict | None = None, **profile: Any) -> Path:
    """Writes an image (H, W, C) or a map (H, W); `palette` makes it a palette image."""
    if path.suffix == '.tif':
        profile = {'crs': 'EPSG:32633', 'transform': Affine(0.05, 0, 366676, 0, -0.05, 5808615), **profile}
    planes = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(
            path,
            'w',
            driver=DRIVERS[path.suffix.lower()],
            count=len(planes),
            height=planes.shape[1],
            width=planes.shape[2],
            dtype=planes.dtype,
            **profile,
        ) as raster:
            raster.write(planes)
            if palette is not None:
                raster.write_colormap(1, palette)
    return path


def turned(x: float, y: float, degrees: float, size: float) -> Affine:
    """Of a raster with this corner whose pixels of `size` metres are turned anticlockwise."""
    cos, sin = np.cos(np.radians(degrees)) * size, np.sin(np.radians(degrees)) * size
    return Affine(cos, sin, x, sin, -cos, y)


LOADING = [dict(type='LoadRasterImage'), dict(type='LoadRasterAnnotations')]


def build_dataset(root: Path, labels: bool = True, **settings: Any) -> Any:
    """The data set of the training images in the standard layout, with three classes, as `make_dataset` writes it."""
    prefix = dict(img_path='img_dir/train', **(dict(seg_map_path='ann_dir/train') if labels else {}))
    config = dict(type='RemoteSensingDataset', data_root=str(root), data_prefix=prefix, pipeline=LOADING[: 1 + labels])
    return DATASETS.build({**config, 'metainfo': dict(classes=('a', 'b', 'c')), **settings})


@pytest.fixture(autouse=True)
def scope() -> Iterator[None]:
    # As `default_scope` in a configuration does.
    with DefaultScope.overwrite_default_scope('mmrs'):
        yield


@pytest.fixture(name='write')
def write_fixture() -> Callable[..., Path]:
    return _write


@pytest.fixture
def pack() -> Callable[..., None]:
    """Moves the files of a folder into a zip file, as `inner`/..., with the clutter that archivers leave."""

    def move(folder: Path, archive: Path, inner: str = '') -> None:
        with zipfile.ZipFile(archive, 'w', zipfile.ZIP_DEFLATED) as file:
            for path in sorted(folder.rglob('*')):
                if path.is_file() and path != archive:
                    file.write(path, str(PurePosixPath(inner) / path.relative_to(folder)))
                    file.writestr(f'__MACOSX/{path.relative_to(folder).parent}/._{path.name}', b'not an image')
                    path.unlink()

    return move


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder in the standard layout: `n` images of `size` (height, width) a split, ids 0 to `classes` - 1."""

    def make(
        name: str = 'data',
        n: int = 3,
        size: tuple[int, int] = (40, 48),
        classes: int = 3,
        splits: tuple[str, ...] = ('train',),
        suffix: str = '.png',
        first_id: int = 0,
        brightness: int = 0,
    ) -> Path:
        root = tmp_path / name
        rng = np.random.default_rng(len(name))
        for split in splits:
            for i in range(n):
                image = rng.integers(0, 100, (*size, 3), np.uint8) + np.uint8(brightness)
                labels = rng.integers(first_id, first_id + classes, size).astype(np.uint8)
                _write(root / 'img_dir' / split / f'{i:02d}{suffix}', image)
                _write(root / 'ann_dir' / split / f'{i:02d}.png', labels)
        return root

    return make


def files_in(folder: Path, suffix: str = '') -> list[str]:
    """The files in a folder and below it, without GDAL's own beside them."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob(f'*{suffix}') if path.is_file())
    return sorted(name for name in found if not name.endswith('.aux.xml'))
