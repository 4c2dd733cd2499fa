"""Several data sets as one."""

from collections.abc import Sequence
from typing import Any

from mmengine.dataset import ConcatDataset as MMEngineConcatDataset

from mmrs.datasets.class_names import class_names, match_classes
from mmrs.registry import DATASETS


@DATASETS.register_module()
class ConcatDataset(MMEngineConcatDataset):
    """MMEngine's, for data sets that need not have their classes in the same order, nor under the same ids.

    The order, and the palette, are the first one's. A class has no counterpart here if it has none in any of them.

    Args:
        datasets: Data sets, or their configurations.
        lazy_init: Whether to leave the listing of files for later.
        ignore_keys: Meta information, further than classes and palette, that may differ.

    Raises:
        ConfigError: The names of their classes differ.
    """

    def __init__(
        self, datasets: Sequence[Any], lazy_init: bool = False, ignore_keys: str | Sequence[str] | None = None
    ) -> None:
        ignored = [ignore_keys] if isinstance(ignore_keys, str) else list(ignore_keys or ())
        # What the ids in the files mean is each data set's own affair.
        own = ('classes', 'palette', 'label_map', 'reduce_zero_label', 'no_counterpart')
        super().__init__(datasets, lazy_init, [*ignored, *own])
        absent = set.intersection(*({*part.metainfo.get('no_counterpart', ())} for part in self.datasets))
        self._metainfo['no_counterpart'] = tuple(name for name in class_names(self) if name in absent)
        for i, part in enumerate(self.datasets[1:], 1):
            match_classes(part, class_names(self), f'data set {i} of a ConcatDataset', 'data set 0')
