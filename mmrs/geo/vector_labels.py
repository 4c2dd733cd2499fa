"""Which classes the polygons of a data set are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmrs.geo.apart import describe_gap, guess_reason
from mmrs.geo.classes import IGNORE_INDEX
from mmrs.geo.grids import describe_bounds, describe_crs, move_bounds, overlap, write_crs
from mmrs.geo.headers import RasterHeader
from mmrs.geo.vectors import VectorLayer, class_of, id_of, open_layer
from mmrs.utils.errors import ConfigError, DataError, require_one_of


@dataclass(frozen=True)
class VectorLabels:
    """How polygons become labels; see `RasterDataset`, whose arguments these are with `label_` in front."""

    attribute: str | None = None
    class_name: str | None = None
    layer: str | None = None
    background: str | None = None

    def __post_init__(self) -> None:
        if self.attribute is not None and self.class_name is not None:
            raise ConfigError('label_attribute and label_class exclude each other; give one')

    def burning(self, index_of_name: Mapping[str, int], index_of_id: Mapping[int, int]) -> dict[str, Any]:
        """Arguments of `burn_labels`, from the training index by the name and by the id of a class."""
        by_value: dict[Any, int] = {**index_of_id, **index_of_name}
        return dict(
            index_of_value=by_value if self.class_name is None else {None: index_of_name[self.class_name]},
            background=IGNORE_INDEX if self.background is None else index_of_name[self.background],
            layer=self.layer,
            attribute=self.attribute,
        )

    def check(
        self,
        pairs: Sequence[tuple[RasterHeader, str]],
        index_of_name: Mapping[str, int],
        index_of_id: Mapping[int, int],
    ) -> None:
        """Raises a `UserError` where images and the vector files of their labels cannot be used together."""
        if self.attribute is None and self.class_name is None:
            raise ConfigError(
                f'{pairs[0][1]}: which class is a polygon of? Give label_attribute, the field that names it, or '
                'label_class, the class of all.'
            )
        for option, name in (('label_class', self.class_name), ('label_background', self.background)):
            if name is not None:
                require_one_of(option, name, index_of_name)
        by_value: dict[Any, int] = {**index_of_id, **index_of_name}
        for path in sorted({path for _, path in pairs}):
            values = Counter(self._open(path).values() if self.attribute is not None else ())
            unknown = [value for value in values if class_of(value, by_value) is None]
            if unknown:
                found = ', '.join(f'{value!r} ({values[value]} polygons)' for value in unknown[:8])
                raise DataError(
                    f'{path}: {self.attribute} is {found}, which is no class of the data set. Expected: '
                    f'{", ".join(index_of_name)}, or their ids as whole numbers, which text may hold without leading '
                    'zeros. Correct the field, or the classes.'
                )
            for value in sorted(value for value in values if isinstance(value, str) and value in index_of_name):
                if index_of_id.get(id_of(value), index_of_name[value]) != index_of_name[value]:
                    raise DataError(
                        f'{path}: {self.attribute} is the text {value!r} ({values[value]} polygons), which is the name '
                        'of one class and the id of another. Rename that class, or make the field one of whole numbers.'
                    )
        apart = [(image, path) for image, path in pairs if not _meet(image, self._open(path))]
        # Where all else is background, an image without any polygon is a fact; where it is ignored, a waste.
        if apart and (self.background is None or len(apart) == len(pairs)):
            image, path = apart[0]
            layer = self._open(path)
            _, gap = describe_gap(layer.bounds, layer.crs, image.grid)
            why = guess_reason(layer.bounds, layer.crs, image.grid)
            raise DataError(
                f'The polygons of {path} lie outside the image {image.path}: they cover '
                f'{describe_bounds(layer.bounds)} ({describe_crs(layer.crs)}, {layer.count} polygons), the image '
                f'{describe_bounds(image.grid.bounds)} ({describe_crs(image.grid.crs)})'
                f'{gap and f"; they lie {gap} of it"}. {why and f"{why} "}Pair the right files, correct '
                'the CRS of one, or choose the images that have polygons by ann_file or, where all else is one class, '
                'set label_background.'
            )

    def _open(self, path: str) -> VectorLayer:
        return open_layer(path, self.layer, self.attribute)


def _meet(image: RasterHeader, layer: VectorLayer) -> bool:
    if image.grid.crs is None:
        raise DataError(
            f'{image.path} has no CRS, so that the polygons of {layer.path} ({describe_crs(layer.crs)}) have no place '
            f'on it. {write_crs(image.path)}.'
        )
    return overlap(image.grid.bounds, move_bounds(layer.bounds, layer.crs, image.grid.crs))
