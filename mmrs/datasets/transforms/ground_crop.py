import functools
from typing import Any

import numpy as np
from mmseg.datasets.transforms import RandomCrop

from mmrs.datasets.transforms.arguments import number
from mmrs.geo.grids import RasterGrid
from mmrs.geo.rasters import open_raster
from mmrs.registry import TRANSFORMS

#: More pixels than an image has on a side.
_WHOLE = 1 << 30


@TRANSFORMS.register_module()
class GroundCrop(RandomCrop):
    """Cuts a part out of an image at random, and says where on the ground it lies.

    It knows of the window of a `RasterDataset` and of a resizing before it; what flips, turns or crops has its place
    behind. Both images of a pair lie where the first one does.

    Required: `img`, `ori_shape`, `img_path`; `window`, `grid_shape` and `grid_path` where there are any. Changed:
    `img`, `img_shape` and each of `seg_fields`. Added: `to_ground` `(2, 3)`, float64, from places in the image, in
    pixels (x to the right, y down, 0 at its outer edge), to coordinates; and `ground`, a text that is the same for
    images with the same coordinates. These are those of the file's CRS; of a file that has none, they are its pixels.

    Args:
        crop_size: Height and width in pixels, or one number for both; None: all of the image. A smaller image stays
            whole.
    """

    def __init__(self, crop_size: int | tuple[int, int] | None = None) -> None:
        sides = (crop_size,) if isinstance(crop_size, int) else crop_size or ()
        for side in sides:
            number(self, 'crop_size', side, whole=True, above=0)
        super().__init__((_WHOLE, _WHOLE) if crop_size is None else crop_size)

    def crop_bbox(self, results: dict) -> tuple[int, int, int, int]:
        """Top, bottom, left and right of the crop in pixels; bottom and right are outside."""
        box = super().crop_bbox(results)
        results['to_ground'], results['ground'] = _place(results, left=box[2], top=box[0])
        return box

    def __repr__(self) -> str:
        return f'{type(self).__name__}(crop_size={None if self.crop_size[0] == _WHOLE else self.crop_size})'


def _place(results: dict[str, Any], left: int, top: int) -> tuple[np.ndarray, str]:
    path = results.get('grid_path') or results['img_path']
    grid = _grid(path)
    known = grid.crs is not None and grid.is_georeferenced
    file = grid.transform[:6] if known else (1, 0, 0, 0, 1, 0)
    rows, columns = results.get('grid_shape') or results['ori_shape']
    x0, y0 = results['window'][:2] if 'window' in results else (0, 0)
    # Pixels of the grid for each of the image, which may have been resized since it was read.
    down, right = (before / now for before, now in zip(results['ori_shape'], results['img'].shape[:2]))
    in_grid = np.array([[right, 0, x0 + right * left], [0, down, y0 + down * top], [0, 0, 1]])
    to_file = np.diag([grid.width / columns, grid.height / rows, 1])
    return np.reshape(file, (2, 3)) @ to_file @ in_grid, str(grid.crs) if known else path


@functools.lru_cache(4096)
def _grid(path: str) -> RasterGrid:
    with open_raster(path, quiet=True) as raster:
        return RasterGrid.of(raster)
