"""Parts of rasters as files of their own."""

from pathlib import Path

import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window as RasterWindow

from mmrs.geo.grids import RasterGrid
from mmrs.geo.rasters import PathLike, open_raster
from mmrs.geo.windows import Window
from mmrs.utils.errors import OutputError
from mmrs.utils.files import atomic_path

#: Of a band, what its numbers mean.
_OF_BANDS = ('descriptions', 'scales', 'offsets', 'units', 'colorinterp')


def cut_raster(path: PathLike, window: Window, out: Path, overwrite: bool = False) -> None:
    """Writes a window of a raster as a GeoTIFF of the same bands, values, nodata, mask and CRS.

    Args:
        path: The raster.
        window: x0, y0, x1, y1 in its pixels, x1 and y1 outside.
        out: The file, which appears when it is complete.
        overwrite: Whether to replace a file.

    Raises:
        UnreadableError: The raster cannot be read.
        OutputError: The file exists, or cannot be written.
    """
    with open_raster(path, quiet=True) as raster:
        grid = RasterGrid.of(raster)
        part = RasterWindow(window[0], window[1], window[2] - window[0], window[3] - window[1])
        pixels = raster.read(window=part)
        profile = dict(
            driver='GTiff',
            compress='deflate',
            count=raster.count,
            height=pixels.shape[1],
            width=pixels.shape[2],
            dtype=pixels.dtype,
            nodata=raster.nodata,
        )
        if grid.is_georeferenced:
            profile.update(crs=raster.crs, transform=grid.window(window).transform)
        paletted = raster.colorinterp[0] == ColorInterp.palette
        if ColorInterp.alpha not in raster.colorinterp:
            profile['alpha'] = 'no'  # a fourth band is no transparency
        hidden = MaskFlags.per_dataset in raster.mask_flag_enums[0] and MaskFlags.alpha not in raster.mask_flag_enums[0]
        mask = raster.dataset_mask(window=part) if hidden else None
        with atomic_path(out, overwrite) as temporary:
            try:
                # A mask beside the file would not move with it.
                with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(temporary, 'w', **profile) as written:
                    for name in _OF_BANDS:
                        setattr(written, name, getattr(raster, name))
                    if paletted:
                        written.write_colormap(1, raster.colormap(1))
                    written.write(pixels)
                    if mask is not None:
                        written.write_mask(mask)
            except Exception as error:  # GDAL's own errors, on writing, are of no public kind
                raise OutputError(f'{out} cannot be written: {error}') from error
