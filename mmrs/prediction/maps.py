"""What a prediction is written as."""

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import torch
from torch import Tensor

from mmrs.geo.classes import Colour
from mmrs.geo.qgis import MAGMA, VIRIDIS, colour_ramp, palette
from mmrs.geo.rasters import open_raster
from mmrs.utils.errors import ConfigError, require_one_of

#: Of maps of 8 bits: the value of pixels without data. What lies between 0 and 1 is stored as 0 to `STEPS`.
NODATA = 255
STEPS = 254

#: Rasters that can be had beside the labels.
EXTRA_LAYERS = ('probabilities', 'confidence', 'entropy')
DTYPES = ('uint8', 'float16')

#: Tag of the map files that holds, as JSON, all that the map depends on.
FINGERPRINT_TAG = 'MMRS_SETTINGS'


def read_fingerprint(path: Path) -> dict[str, Any]:
    """What a finished map depends on; empty where it does not say.

    Raises:
        DataError: The file cannot be read.
    """
    with open_raster(path, quiet=True) as raster:
        found = json.loads(raster.tags().get(FINGERPRINT_TAG, '{}'))
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class MapLayer:
    """One output raster of a prediction.

    Attributes:
        name: `labels`: see :func:`labels_of`. `probabilities`: a band for each
            class. `confidence`: the largest probability. `entropy`: of the probabilities, divided by its largest
            possible value, so that it is 0 where one class is certain and 1 where all are equally probable.
        suffix: Of the file name, before its extension.
        dtype: Type of the values. As `uint8`, 0 to 254 stand for 0 to 1; as `float16` they are stored as they are.
        bands: Descriptions of the bands.
        classes: Names of the classes.
        palette: Their colours, RGB.
        threshold: See :func:`labels_of`.
    """

    name: str
    suffix: str
    dtype: str
    bands: tuple[str, ...]
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    threshold: float | None = None

    def path(self, target: Path) -> Path:
        """Its file, beside the label map `target`."""
        return target.with_name(f'{target.stem}{self.suffix}{target.suffix}')

    @property
    def categorical(self) -> bool:
        """Whether the values are class indices."""
        return self.name == 'labels'

    @property
    def nodata(self) -> float:
        """Value of the pixels without data."""
        return NODATA if self.dtype == 'uint8' else math.nan

    @property
    def scale(self) -> float:
        """What a stored value is to be multiplied by."""
        return 1 if self.categorical or self.dtype != 'uint8' else 1 / STEPS

    @property
    def renderer(self) -> Element:
        """How QGIS shows it: classes by their colours, else the first band from 0 to 1 by a ramp of its own."""
        if self.categorical:
            return palette(self.classes, self.palette)
        return colour_ramp(MAGMA if self.name == 'entropy' else VIRIDIS)

    def encode(self, probabilities: Tensor, shown: np.ndarray) -> np.ndarray:
        """The values to store.

        Args:
            probabilities: Of the classes, `(K, H, W)`, float32, on the CPU. They are not changed.
            shown: The pixels that have data, `(H, W)`, bool; the others become nodata.

        Returns:
            An array `(bands, H, W)` of the layer's type.
        """
        if self.categorical:
            values = labels_of(probabilities, self.threshold)[None]
        else:
            if self.name == 'probabilities':
                values = probabilities
            elif self.name == 'confidence':
                values = probabilities.amax(0, keepdim=True)
            else:
                values = (
                    torch.special.entr(probabilities).sum(0, keepdim=True).div_(math.log(max(len(self.classes), 2)))
                )
            values = (values * STEPS).round_().to(torch.uint8) if self.dtype == 'uint8' else values.to(torch.float16)
        stored = values.numpy()
        np.copyto(stored, self.nodata, where=~shown, casting='unsafe')
        return stored


def labels_of(probabilities: Tensor, threshold: float | None = None) -> Tensor:
    """Class indices `(H, W)`, uint8, for probabilities `(K, H, W)`.

    Args:
        probabilities: Of the classes.
        threshold: None for the most probable class, the first of several. Else, of two classes, the second one where
            its probability is above.
    """
    if threshold is not None:
        return (probabilities[1] > threshold).to(torch.uint8)
    # Four times as fast as `argmax`, which says the same.
    return probabilities.max(0).indices.to(torch.uint8)


def map_layers(
    classes: Sequence[str],
    palette: Sequence[Colour],
    extra: Collection[str] = (),
    dtype: str = 'uint8',
    threshold: float | None = None,
) -> list[MapLayer]:
    """The rasters to write: the labels, then those that are asked for besides.

    Args:
        classes: Names of the classes.
        palette: A colour for each, RGB from 0 to 255.
        extra: Of `EXTRA_LAYERS`.
        dtype: Their type, of `DTYPES`; the labels are uint8.
        threshold: See :func:`labels_of`.

    Raises:
        ConfigError: A name is unknown, or so many classes do not fit.
    """
    for name in extra:
        require_one_of('extra', name, EXTRA_LAYERS)
    require_one_of('dtype', dtype, DTYPES)
    if not 1 <= len(classes) <= NODATA:
        raise ConfigError(
            f'the model has {len(classes)} classes; a label map holds 1 to {NODATA}, for {NODATA} means no data'
        )
    if len(palette) != len(classes):
        raise ConfigError(f'the model has {len(classes)} classes, but {len(palette)} colours; give one for each class')
    names, colours = tuple(classes), tuple((int(r), int(g), int(b)) for r, g, b in palette)
    bands = dict(labels=('class',), probabilities=names)
    return [
        MapLayer(
            name,
            '' if name == 'labels' else f'_{name}',
            'uint8' if name == 'labels' else dtype,
            bands.get(name, (name,)),
            names,
            colours,
            threshold,
        )
        for name in ('labels', *EXTRA_LAYERS)
        if name in ('labels', *extra)
    ]
