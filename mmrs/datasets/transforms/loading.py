"""Transforms that read images and label maps."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from mmcv.transforms import BaseTransform

from mmrs.geo.aligned_images import read_aligned_image
from mmrs.geo.classes import IGNORE_INDEX
from mmrs.geo.labels import read_labels
from mmrs.geo.rasters import read_image
from mmrs.registry import TRANSFORMS
from mmrs.utils.errors import ConfigError, require


@TRANSFORMS.register_module()
class LoadRasterImage(BaseTransform):
    """Reads an image, or a window of one, of any format and any number of bands.

    The bands keep the order of the file (RGB stays RGB), palette images become RGB, uint8 stays uint8 and every other
    type becomes float32. Pixels without data (nodata, mask or alpha band, NaN) get the mean of the others, so that
    resizing and colour changes meet no black holes. Where there are any, `valid_map` tells them apart.

    Required: `img_path`; `window` and `grid_shape` from a `RasterDataset`; and from a `GeographicPairedDataset`
    `grid_path`, the raster that these two belong to, onto which the image is warped (see `read_aligned_image`).
    Added: `img` `(H, W, C)`, `img_shape` and `ori_shape` `(H, W)`; and, where the image has pixels without data,
    `valid_map` `(H, W)`, uint8: 1 where there is data, anything else where there is none. It is one of `seg_fields`,
    so that it is resized, cropped and flipped with the image.

    Args:
        bands: Numbers of the bands to read, counted from 1, in the wanted order. By default all but an alpha band.
        apply_scale: Whether values are multiplied by the scale that the file gives for their band, and its offset is
            added; uint8 becomes float32 then, too. Declared nodata is compared with the unscaled values.
    """

    def __init__(self, bands: Sequence[int] | None = None, apply_scale: bool = False) -> None:
        valid = bands is None or (isinstance(bands, Sequence) and bands and all(isinstance(b, int) for b in bands))
        require(bool(valid), 'LoadRasterImage: bands', bands, 'a list of numbers, counted from 1,')
        require(isinstance(apply_scale, bool), 'LoadRasterImage: apply_scale', apply_scale, 'True or False')
        self.bands = None if bands is None else tuple(bands)
        self.apply_scale = apply_scale

    def transform(self, results: dict) -> dict | None:
        """Reads the image; None where it has no data at all and the data set skips such images.

        Raises:
            UnreadableError: The file is missing or cannot be read.
            DataError: A band is missing.
        """
        path = results['img_path']
        if 'grid_path' in results:
            results['img'], valid = read_aligned_image(
                path, results['grid_path'], self.bands, results['window'], results['grid_shape'], self.apply_scale
            )
        else:
            results['img'], valid = read_image(
                path, self.bands, results.get('window'), results.get('grid_shape'), self.apply_scale
            )
        results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
        if valid is not None:
            if results.get('skip_empty') and not valid.any():
                return None
            # On the pixels of the file, for labels that are loaded after a resize or a flip.
            results['ori_valid_map'] = valid
            # Not bool, which OpenCV cannot resize.
            results['valid_map'] = valid.astype(np.uint8)
            results.setdefault('seg_fields', []).append('valid_map')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(bands={self.bands}, apply_scale={self.apply_scale})'


def image_loader(transforms: Iterable[Callable]) -> LoadRasterImage | None:
    """The transform that reads the images of a pipeline; None where another loader does."""
    return next((t for t in transforms if isinstance(t, LoadRasterImage)), None)


@TRANSFORMS.register_module()
class LoadRasterAnnotations(BaseTransform):
    """Reads labels, checks them, and turns them into training indices.

    Labels are a raster of class ids; of a `RasterDataset` also polygons (see `burn_labels`) or a raster on another grid
    than the image (see `read_aligned_labels`). A palette image counts by its palette indices. A mask of three bands
    holds colours of the classes instead, and so does one of one band, be it grey or a palette, where the classes have
    colours and no ids (see `MaskColours`). With the data set's `reduce_zero_label`, id 0 is ignored and ids 1 to K
    become 0 to K-1. Ignored pixels become 255; so do the id 255, unless it is a class's, the file's declared nodata
    value, and the pixels that a mask hides, where the image has no data or the labels do not reach.

    Required: `seg_map_path`, and from the data set `reduce_zero_label`, `label_map`, `classes`, and for masks in
    colours `label_colours` (training index by colour) and `by_colour` (of one band too); `window`, `grid_shape` and
    `vector_labels` from a `RasterDataset`. Added: `gt_seg_map` `(H, W)`, uint8, one of `seg_fields`.
    """

    read_labels = staticmethod(read_labels)

    def transform(self, results: dict) -> dict:
        """Reads the labels.

        Raises:
            UnreadableError: A file is missing or cannot be read.
            ConfigError: The sample has no label path.
            DataError: The file has a wrong number of bands, another size or place than the image, or ids or colours
                that are no class.
        """
        if results.get('seg_map_path') is None:
            raise ConfigError(
                f'{results.get("img_path", "The sample")} has no label path (seg_map_path). Remove '
                f'{type(self).__name__} from the pipeline of an unlabelled data set, or add seg_map_path to its '
                'data_prefix.'
            )
        indices = self.read_labels(results)
        if 'ori_valid_map' in results:
            indices[~results['ori_valid_map']] = IGNORE_INDEX
        results['gt_seg_map'] = indices
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'
