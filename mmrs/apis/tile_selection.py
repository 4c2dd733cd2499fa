"""Which tiles of a target to label next."""

from __future__ import annotations

import csv
import functools
import io
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from mmengine.config import Config
from mmengine.dataset import BaseDataset

from mmrs.apis.class_prior import PriorOptions
from mmrs.apis.target_images import TargetImages, cut, model_and_images
from mmrs.evaluation.label_free import observe
from mmrs.evaluation.tile_choice import COSTS, CRITERIA, UNCERTAINTIES, Chosen, TileLook, Tiles
from mmrs.geo.cutting import cut_raster
from mmrs.geo.footprints import move, window_footprints
from mmrs.geo.grids import RasterGrid
from mmrs.geo.headers import read_headers
from mmrs.geo.windows import Window, partition
from mmrs.prediction.geopackage import new_polygon_layer
from mmrs.prediction.tile_layer import write_tile_layer
from mmrs.utils.errors import ConfigError, DataError, OutputError, require_file, require_number, require_one_of, some
from mmrs.utils.files import write_text
from mmrs.utils.progress import progress_bar, quiet_log
from mmrs.visualization.panels import PAPER, class_colours, colour_labels, compose, striped, to_display, write_picture

__all__ = ['NUMBER', 'Tile', 'TileSelection']

#: How many tiles, where neither number nor budget says.
NUMBER = 20
_SUFFIXES = ('.gpkg', '.csv')
#: The grey of stripes where there is no data, beside that of paper.
_NO_DATA = 225
_PICTURE = 512


@dataclass(frozen=True)
class Tile:
    """An image, or a window of a raster.

    Attributes:
        dataset: That reads it.
        index: There.
        path: Of the file.
        name: The file's path in the folder of its data set's images.
        window: x0, y0, x1, y1 in pixels of the file, x1 and y1 outside; None: all of it.
        grid: Of the file.
    """

    dataset: BaseDataset
    index: int
    path: str
    name: str
    window: Window | None
    grid: RasterGrid

    @property
    def whole_window(self) -> Window:
        """The window, also where it is all of the file."""
        return self.window or (0, 0, self.grid.width, self.grid.height)

    @property
    def cut_name(self) -> str:
        """Of the window as a file of its own."""
        place = '' if self.window is None else f'_{self.window[0]}_{self.window[1]}'
        return f'{os.path.splitext(self.name)[0]}{place}.tif'

    @property
    def shape(self) -> shapely.Polygon:
        """Where it lies, in the CRS of the file."""
        return window_footprints(self.grid, np.array([self.whole_window]))[0]


@dataclass(frozen=True)
class TileSelection:
    """Chooses tiles of a target to label, by what a trained network says of them.

    Args:
        config: Configuration of the checkpoint.
        checkpoint: Its weights.
        targets: Rasters, folders, or names of `OF_CONFIG`; see :class:`TargetImages`.
        out: ``NAME.gpkg``, or ``NAME.csv`` where images have no CRS; see :meth:`run` for what stands beside it.
        k: How many; by default `NUMBER`, or as many as `budget` allows.
        criterion: Name of `CRITERIA`.
        uncertainty: Names of `UNCERTAINTIES`, whose mean counts.
        budget: What the tiles may cost together.
        cost: Name of `COSTS`.
        labelled: Earlier results, ``NAME.csv``, or lists of names, ``NAME.txt``: tiles that have labels already.
        size: Side of a window in pixels; by default that of the sliding test, else `WINDOW`.
        number: Tiles that are looked at, drawn by the seed; by default all.
        min_data: Share of a tile's pixels with data from which on it is a candidate, above 0 to 1.
        class_prior: Shares of the classes that the map is corrected to, see :class:`PriorOptions`; None: none.
        prior_strength: Likewise.
        source_shares: Likewise.
        seed: Of what is drawn.
        overwrite: Replace what an earlier call has written.
        device: ``'cpu'``, ``'cuda:1'``, ...; by default a GPU if there is one.
        cfg_options: Dotted keys and values that override the configuration.
        trust_checkpoint: Unpickle the checkpoint fully if need be, which can run any code.

    Raises:
        ConfigError: An option cannot work.
        OutputError: Something that would be written exists.
    """

    config: str | Path | Config
    checkpoint: str | Path
    targets: Sequence[str]
    out: str | Path
    k: int | None = None
    criterion: str = 'balanced'
    uncertainty: Sequence[str] = ('entropy',)
    budget: float | None = None
    cost: str = 'pixels'
    labelled: Sequence[str | Path] = ()
    size: int | None = None
    number: int | None = None
    min_data: float = 0.5
    class_prior: str | None = 'uniform'
    prior_strength: float | None = None
    source_shares: str | Path | None = None
    seed: int = 0
    overwrite: bool = False
    device: str | None = None
    cfg_options: Mapping[str, Any] | None = None
    trust_checkpoint: bool = False

    def __post_init__(self) -> None:
        require_one_of('criterion', self.criterion, CRITERIA)
        require_one_of('cost', self.cost, COSTS)
        for name in self.uncertainty:
            require_one_of('uncertainty', name, UNCERTAINTIES)
        if not self.uncertainty:
            raise ConfigError(f'uncertainty is empty; one of {", ".join(UNCERTAINTIES)} was expected')
        for name in ('k', 'size', 'number'):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), at_least=1, whole=True)
        require_number('seed', self.seed, at_least=0, whole=True)
        require_number('min_data', self.min_data, above=0, at_most=1)
        if self.budget is not None:
            require_number('budget', self.budget, above=0)
        PriorOptions(self.class_prior, self.prior_strength, self.source_shares)
        for path in self.labelled:
            require_file(path, 'a result of select_tiles.py, NAME.csv, or a list of names, NAME.txt')
        if Path(self.out).suffix.lower() not in _SUFFIXES:
            raise ConfigError(f'out is {self.out}; a name that ends in .gpkg, or in .csv, was expected')
        files = [self._beside(suffix) for suffix in ('.csv', '.txt')] + [Path(self.out)]
        taken = [
            *(path for path in files if path.exists()),
            *(p for p in [self._folder] if p.is_dir() and any(p.iterdir())),
        ]
        if taken and not self.overwrite:
            raise OutputError(f'{taken[0]} exists already; choose another name with -o, or pass --overwrite')

    # What is done ----------------------------------------------------------------------------------------------------

    def plan(self) -> str:
        """What :meth:`run` would do, after a look at all that it needs. Nothing is written."""
        _, images = self._load()
        tiles = self._tiles(images)
        wanted = f'as many as {self.budget:g} {self.cost} allow' if self._wanted is None else f'{self._wanted}'
        return (
            f'{len(tiles)} tiles of {len({tile.path for tile in tiles})} images would be looked at, of which '
            f'{wanted} would be chosen by {self.criterion}; would write {self.out}'
        )

    def look(self, facts: Collection[str] | None = None) -> tuple[list[Tile], Tiles]:
        """All tiles, and what the network says of them. Nothing is written.

        Args:
            facts: What is wanted beside the map, of `FEATURES` and `GRADIENTS`; by default what the criterion needs.

        Raises:
            ConfigError: The network does not suit the criterion, or there are fewer tiles than wanted.
            CheckpointError: The checkpoint cannot be read or does not fit.
            DataError: Images are missing or cannot be read.
        """
        model, images = self._load()
        tiles = self._tiles(images)
        return tiles, self._table(model, images.size, tiles, facts)

    def choose(self) -> tuple[list[Tile], list[Chosen]]:
        """All tiles, and which of them are chosen. Nothing is written.

        Raises:
            DataError: No tile has data.
            UserError: As :meth:`look`.
        """
        tiles, table = self.look()
        return tiles, self._chosen(table)

    def run(self) -> list[dict[str, Any]]:
        """Choose, and write what is needed to label the tiles.

        Beside `out`, ``NAME.gpkg``, stand ``NAME.csv``, a table of the tiles with reasons; ``NAME.txt``, the names of
        the images to label, for a training; ``NAME/pictures``, each tile beside its map; where tiles are windows of
        rasters, ``NAME/images``, each cut out; and ``NAME_labels.gpkg``, a layer of polygons to draw into, which is
        never replaced.

        Returns:
            The rows of the table, in the order in which the tiles were chosen.

        Raises:
            OutputError: Something cannot be written.
            UserError: As :meth:`choose`.
        """
        model, images = self._load()
        tiles = self._tiles(images)
        table = self._table(model, images.size, tiles)
        chosen = self._chosen(table)
        self._clear()
        colours = class_colours(model.dataset_meta)
        cuts = any(tile.window for tile in tiles)
        rows = [self._row(rank, own, tiles[own.index], table, cuts) for rank, own in enumerate(chosen, 1)]
        # First, so that the next call knows which pictures an interrupted one has left.
        write_text(_csv(rows), self._beside('.csv'), overwrite=True)
        for own, row in zip(progress(chosen, 'pictures'), rows):
            tile = tiles[own.index]
            look, sample = self._look(model, images.size, tile, ())
            picture = _drawn(f'{row["rank"]}. {row["name"]}', sample, look.labels, table.classes, colours)
            write_picture(row['picture'], picture, overwrite=True)
            if cuts:
                cut_raster(tile.path, tile.whole_window, Path(row['cut']), overwrite=True)
        write_text(''.join(f'{row["name"]}\n' for row in rows), self._beside('.txt'), overwrite=True)
        if self._places:
            crs = tiles[chosen[0].index].grid.crs
            shapes = [move(tiles[own.index].shape, tiles[own.index].grid.crs, crs) for own in chosen]
            write_tile_layer(Path(self.out), shapes, {key: [row[key] for row in rows] for key in rows[0]}, crs, True)
            if not self.labels.exists():
                with new_polygon_layer(self.labels, crs, table.classes, colours):
                    pass
        return rows

    @property
    def labels(self) -> Path:
        """The layer to draw polygons into."""
        return Path(self.out).with_name(f'{Path(self.out).stem}_labels.gpkg')

    # Tiles -----------------------------------------------------------------------------------------------------------

    @property
    def _wanted(self) -> int | None:
        return NUMBER if self.k is None and self.budget is None else self.k

    @property
    def _places(self) -> bool:
        return Path(self.out).suffix.lower() == '.gpkg'

    def _load(self) -> tuple[Any, TargetImages]:
        model, images = model_and_images(
            self.config,
            self.checkpoint,
            self.targets,
            self.size,
            self.device,
            self.cfg_options,
            self.trust_checkpoint,
        )
        if self.class_prior is not None:
            prior = PriorOptions(self.class_prior, self.prior_strength, self.source_shares)
            try:
                prior.apply(model, model.cfg, model.dataset_meta['classes'])
            except ConfigError as error:
                raise ConfigError(f'{error}; or leave the map as it is with --class-prior none') from error
        return model, images

    def _tiles(self, images: TargetImages) -> list[Tile]:
        """Those that are looked at, in an order that does not depend on that of the targets."""
        places = images.tiles()
        infos = [dataset.get_data_info(i) for dataset, i in places]
        grids = {header.path: header.grid for header in read_headers(sorted({own['img_path'] for own in infos}), False)}
        folders = [_folder_of(dataset) for dataset, _ in places]
        base = os.path.commonpath(folders) if folders else ''
        found: dict[tuple[str, Window], Tile] = {}
        for (dataset, i), info in zip(places, infos):
            path = info['img_path']
            name = os.path.relpath(os.path.abspath(path), base)
            tile = Tile(dataset, i, path, name, _window(info, grids[path]), grids[path])
            found.setdefault((os.path.abspath(path), tile.whole_window), tile)
        tiles = [found[key] for key in sorted(found)]
        if self._places:
            for tile in tiles:
                if tile.grid.crs is None or not tile.grid.is_georeferenced:
                    raise ConfigError(
                        f'{tile.path} has no CRS, so that a GeoPackage cannot say where its tiles are: choose a table, '
                        f'-o {Path(self.out).with_suffix(".csv")}'
                    )
        if self.number is not None and self.number < len(tiles):
            drawn = np.random.default_rng(self.seed).permutation(len(tiles))[: self.number]
            tiles = [tiles[i] for i in sorted(drawn.tolist())]
        return tiles

    def _table(self, model: Any, size: int, tiles: Sequence[Tile], facts: Collection[str] | None = None) -> Tiles:
        labelled = self._labelled(tiles)
        if self._wanted is not None and self._wanted > len(tiles) - labelled.sum():  # said before hours of looking
            raise ConfigError(
                f'k is {self._wanted}, but there are {len(tiles) - labelled.sum()} tiles without labels; smaller ones '
                '(--size) are more'
            )
        wanted = CRITERIA[self.criterion].uses if facts is None else facts
        looks = [self._look(model, size, tile, wanted)[0] for tile in progress(tiles, 'tiles')]
        candidates = np.array([own.pixels >= max(1, self.min_data * own.labels.size) for own in looks], bool)
        return Tiles.of(looks, candidates, labelled, model.dataset_meta['classes'])

    def _chosen(self, table: Tiles) -> list[Chosen]:
        budget = math.inf if self.budget is None else self.budget
        return CRITERIA[self.criterion](table, self.seed).choose(self._wanted, budget)

    def _look(self, model: Any, size: int, tile: Tile, facts: Collection[str]) -> tuple[TileLook, dict[str, Any]]:
        """What the network says of a tile, and the tile."""
        with quiet_log():
            sample = tile.dataset[tile.index]
        height, width = sample['inputs'].shape[-2:]
        look = TileLook(model, (height, width), len(model.dataset_meta['classes']), self.uncertainty, self.cost, facts)
        # Features of overlapping windows cannot be told apart.
        slides = facts and (model.cfg.model.get('test_cfg') or {}).get('mode') == 'slide'
        parts = partition((height, width), (size, size)) if slides else [(0, 0, width, height)]
        for part, seen in zip(parts, observe(model, (cut(sample, part) for part in parts))):
            look.update(seen, part)
        return look, sample

    def _labelled(self, tiles: Sequence[Tile]) -> np.ndarray:
        """Which tiles have labels already."""
        found = np.zeros(len(tiles), bool)
        for path in map(Path, self.labelled):
            own = _of_table(path, tiles) if path.suffix.lower() == '.csv' else _of_list(path, tiles)
            if not own.any():
                raise DataError(
                    f'{path} (--labelled) names none of the {len(tiles)} tiles, which are '
                    f'{some([own.name for own in tiles], 2)}; the CSV or TXT of an earlier choice among the same '
                    'images was expected'
                )
            found |= own
        return found

    # Files -----------------------------------------------------------------------------------------------------------

    def _beside(self, suffix: str) -> Path:
        return Path(self.out).with_suffix(suffix)

    @property
    def _folder(self) -> Path:
        return Path(self.out).with_suffix('')

    def _clear(self) -> None:
        """Remove the pictures and cut images that an earlier call has written: a training would read those."""
        table = self._beside('.csv')
        if not table.is_file():
            return
        for row in _read_csv(table):
            for path in (row.get('picture'), row.get('cut')):
                if path and self._folder.absolute() in Path(path).parents:
                    Path(path).unlink(missing_ok=True)

    def _row(self, rank: int, own: Chosen, tile: Tile, table: Tiles, cuts: bool) -> dict[str, Any]:
        folder, (x0, y0, x1, y1) = self._folder.absolute(), tile.whole_window
        picture = folder / 'pictures' / f'{rank:03d}_{Path(tile.cut_name).stem}.jpg'
        shares = {f'share_{name}': float(share) for name, share in zip(table.classes, table.shares[own.index])}
        return dict(
            rank=rank,
            name=tile.cut_name if cuts else tile.name,
            reason=own.reason,
            value=own.value,
            uncertainty=float(table.uncertainty[own.index]),
            cost=int(table.costs[own.index]),
            **dict(x0=x0, y0=y0, x1=x1, y1=y1),
            **shares,
            image=os.path.abspath(tile.path),
            cut=str(folder / 'images' / tile.cut_name) if cuts else '',
            picture=str(picture),
        )


def progress(items: Sequence[Any], what: str) -> Iterator[Any]:
    """The items, with a bar."""
    with progress_bar() as bar:
        yield from bar.track(items, len(items), description=what)


def _folder_of(dataset: BaseDataset) -> str:
    folder = os.path.abspath(dataset.data_prefix['img_path'])
    return os.path.dirname(folder) if os.path.isfile(folder) else folder


def _window(info: Mapping[str, Any], grid: RasterGrid) -> Window | None:
    """The window of a sample in pixels of the file, which may have been resampled; None where it is all of it."""
    if 'window' not in info:
        return None
    shape = info['grid_shape']
    if tuple(info['window']) == (0, 0, shape[1], shape[0]):
        return None
    x, y = grid.width / shape[1], grid.height / shape[0]
    x0, y0, x1, y1 = (round(place * scale) for place, scale in zip(info['window'], (x, y, x, y)))
    return x0, y0, x1, y1


def _of_list(path: Path, tiles: Sequence[Tile]) -> np.ndarray:
    names = {line.strip() for line in _text(path).splitlines() if line.strip()}
    return np.array([bool(names & {own.name, os.path.splitext(own.name)[0], own.cut_name}) for own in tiles])


def _of_table(path: Path, tiles: Sequence[Tile]) -> np.ndarray:
    known: dict[str, list[Window]] = {}
    try:
        for row in _read_csv(path):
            x0, y0, x1, y1 = (int(row[key]) for key in ('x0', 'y0', 'x1', 'y1'))
            known.setdefault(os.path.abspath(row['image']), []).append((x0, y0, x1, y1))
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f'{path}: a table of select_tiles.py, with image, x0, y0, x1, y1, was expected') from error
    return np.array(
        [any(_meet(own.whole_window, other) for other in known.get(os.path.abspath(own.path), ())) for own in tiles]
    )


def _meet(first: Window, second: Window) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'{path} cannot be read as text: {error}') from error


def _read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(_text(path))))


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f'{value:.6g}' if isinstance(value, float) else value for key, value in row.items()})
    return text.getvalue()


def _drawn(
    title: str, sample: Mapping[str, Any], labels: np.ndarray, classes: Sequence[str], colours: Sequence[Sequence[int]]
) -> np.ndarray:
    """An image beside its map."""
    image, valid = sample['inputs'].numpy().transpose(1, 2, 0), labels != 255
    stripe = functools.partial(striped, valid=valid, greys=(PAPER[0], _NO_DATA), number=64)
    shares = np.bincount(labels[valid], minlength=len(classes)) / max(valid.sum(), 1)
    names = [f'{name}  {100 * share:.0f} %' for name, share in zip(classes, shares)]
    panels = [(title, stripe(to_display(image))), ('current map', stripe(colour_labels(labels, colours)))]
    return compose([panels], names, colours, size=_PICTURE, ignored=False)
