"""From large images with masks in colours to clips."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

import rasterio
from rasterio.io import DatasetReader

from mmrs.geo.classes import Colour
from mmrs.geo.handles import scanning
from mmrs.geo.masks import UNKNOWN
from mmrs.geo.rasters import open_raster, reading
from mmrs.preparation.converters.archives import Member, find_files, holds_zip, zip_files
from mmrs.preparation.converters.clips import (
    Clip,
    Placed,
    check_clipping,
    check_fit,
    clip_grid,
    georeference,
    read_clip,
    write_raster,
)
from mmrs.preparation.converters.conversion import DatasetConversion, Sample
from mmrs.preparation.converters.encoding import MaskEncoder
from mmrs.preparation.converters.running import advance
from mmrs.preparation.converters.scaling import percentile_bounds, raster_histogram, to_uint8, valid_pixels
from mmrs.preparation.converters.splits import RandomSplits, Splits
from mmrs.utils.errors import DataError


@dataclass(frozen=True, kw_only=True)
class TileArchive:
    """A published data set of large images, each with a mask of its size in colours.

    Attributes:
        name: Its name.
        label_of_colour: Label id by colour (RGB).
        files: What to look for, for messages: by kind of file, where it is.
        clip_size: Pixels of a clip's side, as published.
        overlap: Share of a clip that the next one repeats, as published.
        edge: What becomes of a rest at the edge, as published; see `clip_origins`.
        clip_name: What stands in front of a tile's name in the names of its clips.
    """

    name: str
    label_of_colour: Mapping[Colour, int]
    files: Mapping[str, str]
    clip_size: int
    overlap: float = 0.0
    edge: str = 'drop'
    clip_name: str = ''

    def classify(self, path: PurePosixPath) -> tuple[str, str] | None:
        """Kind of a file, a key of `files`, and its tile; None for all that does not belong to the data set."""
        raise NotImplementedError


class Tile(NamedTuple):
    """An image to be cut.

    Attributes:
        image: GDAL path of the image.
        mask: GDAL path of its mask.
        clips: Its clips.
        samples: What becomes of each of them.
        bands: Numbers of the image's bands to read, counted from 1.
        label_of: Label id by colour.
        tolerance: How far a colour may be from a class's in each channel.
        stretch: Whether 16-bit values become 8 bits between percentiles of the whole image.
    """

    image: str
    mask: str
    clips: tuple[Clip, ...]
    samples: tuple[Sample, ...]
    bands: list[int]
    label_of: Mapping[Colour, int]
    tolerance: int
    stretch: bool


class _Kind(NamedTuple):
    """What all images of a data set have in common."""

    bands: int
    dtype: str

    def __str__(self) -> str:
        return f'{self.bands} bands of {self.dtype}'


class _Header(NamedTuple):
    """What an image's header tells: its kind, the bands to take, whether to stretch them, and its clips by name."""

    kind: _Kind
    bands: list[int]
    stretch: bool
    clips: dict[str, Clip]


@dataclass
class TileConversion(DatasetConversion):
    """The conversion of a data set of large images to clips.

    Args:
        archive: The data set.
        source: Folder of its zip files, or of what was in them, at any depth.
        out: Folder that gets `img_dir/{train,val}` and `ann_dir/{train,val}`.
        clip_size: Pixels of a clip's side; by default the published size.
        stride: Pixels from one clip to the next; by default the published one.
        edge: `drop` or `shift`, see `clip_origins`; by default as published.
        tolerance: How far a mask's colour may be from a class's in each channel (0 to 255).
        allow_missing: Whether to convert the tiles that are there when others are not.
        splits: How the clips are split.
    """

    archive: TileArchive
    source: Path
    out: Path
    clip_size: int | None = None
    stride: int | None = None
    edge: str | None = None
    tolerance: int = 0
    allow_missing: bool = False
    splits: Splits = field(default_factory=RandomSplits)
    missing: list[str] = field(default_factory=list, init=False)

    #: Suffixes of the published files.
    suffixes: ClassVar[tuple[str, ...]] = ('.tif', '.tiff')

    def __post_init__(self) -> None:
        self.source, self.out = Path(self.source), Path(self.out)
        self.clip_size = self.archive.clip_size if self.clip_size is None else self.clip_size
        if self.stride is None:
            self.stride = max(1, round(self.clip_size * (1 - self.archive.overlap)))
        self.edge = self.edge or self.archive.edge
        check_clipping(self.clip_size, self.stride, self.edge)

    # What data sets differ in

    def choose_kinds(self, found: Mapping[str, Mapping[str, Member]]) -> tuple[str, str]:
        """The kinds of files to take for images and masks."""
        return 'images', 'labels'

    def expected_tiles(self, images: Mapping[str, Member], masks: Mapping[str, Member]) -> list[str]:
        """The tiles that should be there, in order; by default every one of which there is a file."""
        return sorted({*images, *masks})

    def choose_bands(self, image: DatasetReader) -> list[int]:
        """Numbers of the bands to take from an image; by default all. Raises DataError if it lacks some."""
        return list(image.indexes)

    def choose_stretch(self, image: DatasetReader) -> bool:
        """Whether the values of an image become 8 bits. Raises DataError for a type that it cannot be done with."""
        return False

    # What they have in common

    @property
    def title(self) -> str:
        """See `DatasetConversion`."""
        return self.archive.name

    def settings(self) -> dict[str, Any]:
        """See `DatasetConversion`."""
        names = ('clip_size', 'stride', 'edge', 'tolerance')
        own = {name: getattr(self, name) for name in names}
        return dict(data=self.archive.name, **own, splits=self.splits.settings())

    @property
    def depends_on_all(self) -> bool:
        """See `DatasetConversion`: with further tiles, others are dealt to validation."""
        return isinstance(self.splits, RandomSplits)

    def plan(self) -> list[Tile]:
        """See `DatasetConversion`; of the files, no more than their headers is read."""
        found = find_files(self.source, self.archive.classify, self.suffixes, self.archive.name)
        kinds = self.choose_kinds(found)
        images, masks = (found.get(kind, {}) for kind in kinds)
        self.missing, tiles = [], []
        for name in self.expected_tiles(images, masks):
            if lacking := [kind for kind, there in zip(kinds, (images, masks)) if name not in there]:
                self.missing.append(f'{self.archive.clip_name}{name}: no {" and no ".join(lacking)} file')
            else:
                tiles.append(name)
        if not tiles or (self.missing and not self.allow_missing):
            raise DataError(self._missing_message(len(tiles), kinds))
        return self._lay_out({name: (images[name].gdal_path, masks[name].gdal_path) for name in tiles})

    def _lay_out(self, files: Mapping[str, tuple[str, str]]) -> list[Tile]:
        headers = {name: self._inspect(name, *paths) for name, paths in files.items()}
        _check_one_kind({files[name][0]: header.kind for name, header in headers.items()})
        split_of = self.splits.assign({name: list(header.clips) for name, header in headers.items()})
        tiles = []
        for name, (image, mask) in files.items():
            kind, bands, stretch, clips = headers[name]
            fits_png = (kind.dtype == 'uint8' or stretch) and len(bands) in (1, 3)
            chosen = {clip: box for clip, box in clips.items() if clip in split_of}
            samples = tuple(
                Sample.place(self.out, split_of[clip], clip, '.png' if fits_png else '.tif') for clip in chosen
            )
            label_of, boxes = self.archive.label_of_colour, tuple(chosen.values())
            tiles.append(Tile(image, mask, boxes, samples, bands, label_of, self.tolerance, stretch))
        return tiles

    def _inspect(self, name: str, image_path: str, mask_path: str) -> _Header:
        assert self.clip_size is not None
        assert self.stride is not None
        assert self.edge is not None
        with open_raster(image_path, quiet=True) as image, open_raster(mask_path, quiet=True) as mask:
            check_fit(Placed.of(image), Placed.of(mask))
            if min(image.shape) < self.clip_size:
                raise DataError(
                    f'{image.name} has {image.width} x {image.height} pixels, less than a clip of {self.clip_size}. '
                    'Choose a smaller --clip-size.'
                )
            grid = clip_grid(image.width, image.height, self.clip_size, self.stride, self.edge)
            return _Header(
                _Kind(image.count, image.dtypes[0]),
                self.choose_bands(image),
                self.choose_stretch(image),
                {f'{self.archive.clip_name}{name}_{clip}': clip for clip in grid},
            )

    def _missing_message(self, tiles_found: int, kinds: tuple[str, str]) -> str:
        if self.missing:
            message = f'{self.source} lacks {len(self.missing)} of the tiles of {self.archive.name}:\n  '
            message += self.list_missing()
        else:
            message = f'{self.source} holds no file of {self.archive.name}.'
        message += '\nExpected there, as zip files or unpacked:'
        message += ''.join(f'\n  {kind}: {self.archive.files[kind]}' for kind in kinds)
        if nested := [path for path in zip_files(self.source) if holds_zip(path)]:
            message += f'\n{nested[0]} holds further zip files: unpack it first.'
        return message + ('\nTo convert the other tiles alone, add --allow-missing.' if tiles_found else '')

    @staticmethod
    def convert(task: Tile) -> None:
        """See `DatasetConversion`."""
        todo = [(clip, sample) for clip, sample in zip(task.clips, task.samples) if not sample.is_written]
        advance(len(task.clips) - len(todo))
        if not todo:
            return
        encoder = MaskEncoder(task.label_of, task.tolerance)
        with (
            scanning(),
            # GDAL's fast way of reading a whole PNG fills what is missing from a cut one with zeros; `reading` knows
            # which ones are cut, but not within a zip file.
            rasterio.Env(GDAL_PNG_WHOLE_IMAGE_OPTIM='NO'),
            open_raster(task.image, quiet=True) as image,
            open_raster(task.mask, quiet=True) as mask,
        ):
            bounds = None
            # Said here once more, because what fails within both is put down to the mask.
            if task.stretch:
                with reading(task.image):
                    bounds = percentile_bounds(raster_histogram(image, task.bands))
            for clip, sample in todo:
                ids = encoder.encode(mask, clip)
                if (ids == UNKNOWN).any():
                    raise DataError(_unknown_colours(encoder, mask))
                with reading(task.image):
                    pixels, nodata = read_clip(image, clip, task.bands), image.nodata
                if bounds is not None:
                    valid = valid_pixels(pixels, nodata)
                    pixels, nodata = to_uint8(pixels, bounds, valid), None if valid.all() else 0
                write_raster(sample.image, pixels, nodata=nodata, **georeference(image, clip))
                write_raster(sample.labels, ids, **georeference(image, clip))
                advance()


def _check_one_kind(kind_of: Mapping[str, _Kind]) -> None:
    usual, _ = Counter(kind_of.values()).most_common(1)[0]
    for file, kind in kind_of.items():
        if kind != usual:
            raise DataError(
                f'{file} has {kind}, but most images have {usual}. One data set holds images of one kind: restore the '
                'file, or remove it together with its mask.'
            )


def _unknown_colours(encoder: MaskEncoder, mask: DatasetReader) -> str:
    _, unknown, _ = encoder.survey(mask)
    return (
        f'{mask.name} has colours that are no class: '
        f'{encoder.describe_unknown(unknown, mask.width * mask.height)} of the pixels. Expected: {encoder.known}. '
        'If they are slightly off, --tolerance N takes them for the nearest class, up to N away in each channel.'
    )
