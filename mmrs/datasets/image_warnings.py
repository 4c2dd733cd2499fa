"""What a look at a few images says about the way in which they are read, before they are trained on or predicted."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.windows import Window

from mmrs.datasets.class_names import is_wrapper, with_inner
from mmrs.datasets.transforms.loading import image_loader
from mmrs.geo.rasters import chosen_bands, open_raster, scale_and_offset
from mmrs.utils.errors import DataError, some

#: Images of each data set that are looked at; a data set is mostly of one kind.
FILES = 4

#: GDAL calls the fourth of four 8-bit bands alpha unless told otherwise, which hides pixels where near infrared is 0.
#: Real transparency is partial along edges only.
MOST_TRANSLUCENT = 0.1

# Of an image, the part in its middle: some of the images are large.
_SIDE = 1024


def image_warnings(dataset: Any) -> list[str]:
    """Alpha bands that look like data, and scales or offsets that differ and are not applied.

    Args:
        dataset: A data set that is built, with any wrappers around it and of any number of domains. Those that read
            their images otherwise than by `LoadRasterImage` are passed over.

    Returns:
        A sentence for each kind of warning. `tools/check_dataset.py` looks at all images instead of a few.
    """
    alpha: list[str] = []
    scales: dict[str, list[str]] = {}
    for leaf in with_inner(dataset):
        if not isinstance(leaf, BaseDataset) or is_wrapper(leaf):
            continue
        loader = image_loader(leaf.pipeline.transforms)
        if loader is None or not len(leaf):
            continue
        places = np.unique(np.linspace(0, len(leaf) - 1, FILES).astype(int)).tolist()
        paths = list(dict.fromkeys(leaf.get_data_info(i)['img_path'] for i in places))
        own_alpha, own_scales = _look(paths, loader.bands)
        alpha += own_alpha
        for scale, files in own_scales.items() if not loader.apply_scale else ():
            scales.setdefault(scale, []).extend(files)
    differ = [f'{scale or "neither"} ({files[0]})' for scale, files in scales.items()] if len(scales) > 1 else []
    return [
        *_about_alpha(alpha),
        *(f'images have {text}, which is not applied: LoadRasterImage(apply_scale=True).' for text in _joined(differ)),
    ]


def file_warnings(paths: Sequence[str], bands: Sequence[int] | None, apply_scale: bool) -> list[str]:
    """The same for images that are to be predicted, of which any scale or offset that is not applied is named."""
    alpha, scales = _look(paths[:FILES], bands)
    found = [] if apply_scale else [f'{scale} ({files[0]})' for scale, files in scales.items() if scale]
    return [
        *_about_alpha(alpha),
        *(
            f'rasters have {text}, which is not applied. If the training images had another one: '
            'LoadRasterImage(apply_scale=True).'
            for text in _joined(found)
        ),
    ]


def _look(paths: Sequence[str], bands: Sequence[int] | None) -> tuple[list[str], dict[str, list[str]]]:
    """Which files have an alpha band that looks like data, and the files by their scale and offset."""
    alpha, scales = [], dict[str, list[str]]()
    for path in paths:
        try:
            with open_raster(path, quiet=True) as raster:
                numbers = chosen_bands(raster, bands)
                height, width = (min(side, _SIDE) for side in raster.shape)
                middle = Window((raster.width - width) // 2, (raster.height - height) // 2, width, height)
                if translucent_share(raster, numbers, [middle]) > MOST_TRANSLUCENT:
                    alpha.append(path)
                scales.setdefault(describe_scale(raster, numbers), []).append(path)
        except DataError:  # said where the image is read
            continue
    return alpha, scales


def _about_alpha(paths: Sequence[str]) -> list[str]:
    if not paths:
        return []
    return [
        f'{some(paths)}: what is taken for an alpha band, which hides pixels, looks like data. If it is near infrared '
        'or the like, read it by number: LoadRasterImage(bands=...).'
    ]


def _joined(texts: Sequence[str]) -> list[str]:
    return ['; '.join(texts)] if texts else []


def describe_scale(raster: DatasetReader, bands: Sequence[int]) -> str:
    """`scale 0.0001, offset -0.1`, as a raster gives them for some bands; empty where they would change nothing."""
    tags = scale_and_offset(raster, bands)
    if tags is None:
        return ''
    shown = (', '.join(f'{value:g}' for value in dict.fromkeys(own.tolist())) for own in tags)
    return 'scale {}, offset {}'.format(*shown)


def translucent_share(raster: DatasetReader, bands: Sequence[int], windows: Iterable[Window]) -> float:
    """Share of the pixels in windows whose alpha is neither none nor full; 0 where no alpha band hides any pixel."""
    kinds = raster.colorinterp
    alpha = kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else None
    if alpha is None or alpha in bands or raster.dtypes[alpha - 1][0] == 'f':
        return 0.0
    full, number, total = np.iinfo(raster.dtypes[alpha - 1]).max, 0, 0
    for window in windows:
        values = raster.read(alpha, window=window)
        number += int(((values != 0) & (values != full)).sum())
        total += values.size
    return number / total
