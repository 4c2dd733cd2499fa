"""Data sets of whole GeoTIFFs."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmseg.datasets.transforms import PackSegInputs

from mmrs.datasets.base import RemoteSensingDataset
from mmrs.datasets.transforms.loading import LoadRasterImage, image_loader
from mmrs.geo.classes import IGNORE_INDEX, load_classes
from mmrs.geo.folders import RASTER_SUFFIXES
from mmrs.geo.grids import check_labels_fit, same_gsd, write_crs
from mmrs.geo.headers import RasterHeader, read_headers
from mmrs.geo.labels import training_indices
from mmrs.geo.masks import find_hidden_class, holds_colours, nodata_is_class, not_resampled, packed
from mmrs.geo.vector_labels import VectorLabels
from mmrs.geo.vectors import VECTOR_SUFFIXES, is_vector
from mmrs.geo.windows import Window, Windows, jittered, partition, training_windows
from mmrs.registry import DATASETS
from mmrs.utils.errors import ConfigError, DataError, require_number, some

# Width in pixels of a raster from which on it matters whether the file is stored by rows or by tiles.
_WIDE = 4096


@DATASETS.register_module()
class RasterDataset(RemoteSensingDataset):
    """GeoTIFFs of any size, number of bands and type, read by window.

    A sample is one window. `data_prefix` names folders, in which an image and its labels have the same name but for the
    suffix, or single files; one label file may serve all images. Labels are rasters, on the image's grid or on another,
    or polygons.

    In training, windows of one size make a regular grid over each raster, the last ones shifted back inside. With
    `test_mode` they cover each pixel exactly once, so that scores count each pixel once; `stride` and `jitter` are then
    without effect.

    Args:
        windows: Settings of `Windows`; without them each raster is one sample.
        gsd: Ground sampling distance in metres to which all rasters are resampled, so that source and target show
            objects of one size. Rasters within 1 % of it stay as they are. All windows then count in resampled pixels.
        skip_empty: In training, leave out rasters without any data, and replace a window without any by another one
            drawn at random.
        label_attribute: Field of vector labels with the class of each polygon: its name, or its id as in a label map.
        label_class: Class of all polygons, for layers that hold one kind of thing.
        label_layer: Layer of the vector files, where they have several.
        label_background: Class of the pixels outside all polygons; by default they are ignored.
        seg_map_suffix: Suffix or suffixes of the label files. By default all raster and vector formats.
        **kwargs: As in `RemoteSensingDataset`. `ann_file` and `img_suffix` are about rasters, `indices` about windows.

    Raises:
        UnreadableError: A file cannot be read.
        DataError: As `RemoteSensingDataset`; the rasters differ in bands or type; labels do not fit their image, its
            CRS or the classes; or the size of a pixel in metres is needed and unknown. The message names the file.
        ConfigError: An argument cannot work.
    """

    def __init__(
        self,
        *,
        windows: Mapping[str, Any] | None = None,
        gsd: float | None = None,
        skip_empty: bool = True,
        label_attribute: str | None = None,
        label_class: str | None = None,
        label_layer: str | None = None,
        label_background: str | None = None,
        seg_map_suffix: str | Sequence[str] | None = None,
        classes_file: str | None = None,
        data_root: str | None = None,
        **kwargs: Any,
    ) -> None:
        if gsd is not None:
            require_number('gsd', gsd, above=0, unit='metres per pixel')
        try:
            self._windows = None if windows is None else Windows(**windows)
        except TypeError as error:
            raise ConfigError(
                f'windows is {windows!r}; dict(size=..., stride=..., unit=..., jitter=...) was expected, of which size '
                'is needed'
            ) from error
        self._gsd, self._skip_empty = gsd, skip_empty
        self._vector_labels = VectorLabels(label_attribute, label_class, label_layer, label_background)
        self._index_of_name: dict[str, int] = {}
        if classes_file is not None:
            table = load_classes(os.path.join(data_root or '', classes_file))
            self._index_of_name = {c.name: table.training_index(c) for c in table.classes}
        #: What the windows of one raster have in common; a sample is one of these and a window.
        self._rasters: list[dict[str, Any]] = []
        super().__init__(
            classes_file=classes_file,
            data_root=data_root,
            seg_map_suffix=RASTER_SUFFIXES + VECTOR_SUFFIXES if seg_map_suffix is None else seg_map_suffix,
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """Lists the windows of all rasters; see the class for what it raises."""
        pairs = super().load_data_list()
        loader = image_loader(self.pipeline.transforms)
        images = read_headers(
            [pair['img_path'] for pair in pairs], self._skip_empty, None if loader is None else loader.bands
        )
        self._check_pipeline(images)
        labels = self._check_labels(images, [pair.get('seg_map_path') for pair in pairs])
        empty = [image.path for image in images if image.empty]
        if empty:
            left_out = '' if self.test_mode else ' and are left out'
            self._log(f'{len(empty)} of {len(images)} rasters hold no data{left_out}: {some(empty)}', logging.WARNING)
        self._rasters, samples = [], []
        for pair, image in zip(pairs, images):
            if self.test_mode or not image.empty:
                raster, windows = self._cut(image)
                if (label := labels.get(pair.get('seg_map_path', ''))) is not None:
                    raster['by_colour'] = self._holds_colours(label)
                    if label.planes > 1 and not (
                        image.grid.matches(label.grid) and raster['grid_shape'] == label.grid.shape
                    ):
                        raise not_resampled(label.path)
                samples += [dict(raster=len(self._rasters), window=window) for window in windows]
                self._rasters.append({**pair, **raster})
        if len(empty) == len(images):
            raise DataError(f'No raster of {type(self).__name__} holds data: {some(empty)}. Choose others.')
        self._describe(images, len(samples))
        return samples

    def _require_data(self, paths: Sequence[str]) -> None:
        if not self._skip_empty:  # otherwise the headers of all rasters tell it
            super()._require_data(paths)

    def _list(self, what: str, folder: str, suffixes: Sequence[str]) -> dict[str, str]:
        if not os.path.isfile(folder):
            return super()._list(what, folder, suffixes)
        path = os.path.abspath(folder)
        return {Path(path).stem: path} if what == 'images' else _OneForAll(path)

    def _check_pipeline(self, images: Sequence[RasterHeader]) -> None:
        transforms = self.pipeline.transforms
        if any(type(t) is PackSegInputs for t in transforms):
            raise ConfigError(
                f'The pipeline of {type(self).__name__} ends with PackSegInputs, which loses the place of a window and '
                'which pixels hold data. Use PackRasterInputs.'
            )
        loader = image_loader(transforms) or LoadRasterImage()
        wanted = loader.bands
        first = images[0]
        for image in images:
            if wanted is None and image.bands != first.bands:
                raise DataError(
                    f'{first.path} has {first.bands} bands, but {image.path} has {image.bands} (alpha not counted). '
                    'Choose bands that all have: LoadRasterImage(bands=...).'
                )
            if wanted is not None and max(wanted) > max(image.count, image.bands):
                raise DataError(
                    f'{image.path} has {image.bands} bands, numbered from 1; bands {list(wanted)} were asked for.'
                )
            if image.dtype != first.dtype and not loader.apply_scale:
                raise DataError(
                    f'{first.path} has values of type {first.dtype}, but {image.path} of {image.dtype}: the same '
                    'number would mean different things. Convert one (`rio convert --dtype`), or make two data sets.'
                )

    def _check_labels(self, images: Sequence[RasterHeader], labels: Sequence[str | None]) -> dict[str, RasterHeader]:
        """Raises DataError for labels that do not fit; returns the headers of those that are rasters."""
        pairs = [(image, path) for image, path in zip(images, labels) if path is not None]
        vectors = [(image, path) for image, path in pairs if is_vector(path)]
        rasters = [(image, path) for image, path in pairs if not is_vector(path)]
        headers = {label.path: label for label in read_headers(sorted({path for _, path in rasters}), find_empty=False)}
        hidden = []
        for label in headers.values():
            by_colour = self._holds_colours(label)
            if label.nodata is not None:
                index_of = packed(self._index_of_colour) if by_colour else training_indices(self._label_facts())
                classes = self._metainfo.get('classes') or ()
                hidden.append(find_hidden_class(label.path, by_colour, index_of, classes, count=False))
        if hidden := list(filter(None, hidden)):
            self._log(nodata_is_class(hidden), logging.WARNING)
        for image, path in rasters:
            check_labels_fit(image.path, image.grid, path, headers[path].grid)
        if vectors:
            self._vector_labels.check(vectors, self._index_of_own_class(), training_indices(self._label_facts()))
        return headers

    def _holds_colours(self, label: RasterHeader) -> bool:
        return holds_colours(label.path, label.planes, self._index_of_colour, self._by_colour)

    def _cut(self, image: RasterHeader) -> tuple[dict[str, Any], list[Window]]:
        """What samples of a raster have in common, and its windows."""
        shape, metres = image.grid.shape, None
        if self._gsd is not None or (self._windows is not None and self._windows.unit == 'metre'):
            metres = _pixel_metres(image)
        if self._gsd is not None and metres is not None:
            # The extent stays, which makes a pixel up to half a pixel in the raster's length larger or smaller.
            height, width = (
                length if same_gsd(metre, self._gsd) else max(1, round(length * metre / self._gsd))
                for length, metre in zip(shape, reversed(metres))
            )
            metres = metres[0] * shape[1] / width, metres[1] * shape[0] / height
            shape = height, width
        if self._windows is None:
            return dict(grid_shape=shape, stride=(0, 0)), [(0, 0, shape[1], shape[0])]
        size, stride = self._windows.in_pixels(metres)
        windows = partition(shape, size) if self.test_mode else training_windows(shape, size, stride)
        return dict(grid_shape=shape, stride=stride), windows

    def _describe(self, images: Sequence[RasterHeader], windows: int) -> None:
        metres = [metre for image in images for metre in image.pixel_metres or ()]
        ground = f'; pixels: {min(metres):.3g} to {max(metres):.3g} m' if metres else ''
        resampled = '' if self._gsd is None else f', read at {self._gsd:g} m'
        self._log(
            f'rasters: {len(self._rasters)}; windows: {windows}; bands: {images[0].bands} of {images[0].dtype}{ground}'
            f'{resampled}'
        )
        if self._windows is None:
            return
        row_wise = [image.path for image in images if image.row_wise and image.grid.width >= _WIDE]
        if row_wise:
            self._log(
                f'{len(row_wise)} of {len(images)} rasters are stored by compressed rows, so that each window costs '
                f'reading the whole width: {some(row_wise)}. `rio convert -f COG` makes files '
                'that read much faster.',
                logging.WARNING,
            )

    def _log(self, text: str, level: int = logging.INFO) -> None:
        name = ' '.join(filter(None, (type(self).__name__, self.data_root)))
        print_log(f'{name}: {text}', logger='current', level=level)

    def _reindex(self, new_index: Sequence[int], *args: Any) -> None:
        own = self._index_of_own_class()
        super()._reindex(new_index, *args)
        self._index_of_name = {
            name: index if index == IGNORE_INDEX else new_index[index] for name, index in own.items()
        }

    def _index_of_own_class(self) -> dict[str, int]:
        """Training index, perhaps 255, by the name that the data set itself gives a class."""
        if not self._index_of_name:
            self._index_of_name = dict.fromkeys(self.METAINFO.get('classes', ()), IGNORE_INDEX)
            self._index_of_name.update({name: i for i, name in enumerate(self._metainfo.get('classes') or ())})
        return self._index_of_name

    def _label_facts(self) -> dict[str, Any]:
        return dict(
            label_map=self._index_of_id or self.label_map,
            classes=self._metainfo.get('classes'),
            reduce_zero_label=self.reduce_zero_label,
        )

    def get_data_info(self, idx: int) -> dict:
        """Files of one sample, its window, and what the loading transforms need to know.

        Beside what every data set here gives, these are `window`, x0, y0, x1, y1 with x1 and y1 outside, in pixels of a
        raster of `grid_shape` (rows, columns), which is the file itself or the file resampled; `stride` (rows,
        columns); and for vector labels `vector_labels`, the arguments of `burn_labels`.
        """
        info = super().get_data_info(idx)
        info.update(self._rasters[info.pop('raster')])
        if is_vector(info.get('seg_map_path', '')):
            info['vector_labels'] = self._vector_labels.burning(self._index_of_own_class(), training_indices(info))
        return info

    def prepare_data(self, idx: int) -> Any:
        """One sample as it leaves the pipeline; in training None for a window without data, whereupon MMEngine draws
        another one.
        """
        info = self.get_data_info(idx)
        if not self.test_mode:
            info['skip_empty'] = self._skip_empty
            if self._windows is not None and self._windows.jitter:
                info['window'] = jittered(info['window'], info['grid_shape'], info['stride'])
        return self.pipeline(info)


class _OneForAll(dict):
    """The same file under every name."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> str:
        return self._path


def _pixel_metres(image: RasterHeader) -> tuple[float, float]:
    try:
        return image.grid.pixel_metres()
    except DataError as error:
        advice = f' {write_crs(image.path)}.' if image.grid.crs is None else ''
        raise DataError(f'{image.path}: {error}, which gsd and windows in metres need.{advice}') from error
