"""What class priors do to the areas of the classes on maps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrs.apis.comparison import markdown_table
from mmrs.apis.inference import SegInferencer
from mmrs.prediction.areas import class_areas
from mmrs.utils.errors import ConfigError, DataError, some
from mmrs.utils.files import write_text

__all__ = ['compare_priors']

#: Folder of the maps with the prior that the model has learned.
PLAIN = 'learned'


def compare_priors(
    config: str | Path,
    checkpoint: str | Path,
    inputs: Sequence[str | os.PathLike],
    out: str | Path,
    priors: Sequence[str],
    prior_strength: float | None = None,
    source_shares: str | Path | None = None,
    **settings: Any,
) -> str:
    """Predict rasters with the prior that a model has learned and with others, each in a folder of its own.

    Maps that are there already are kept.

    Args:
        config: A configuration.
        checkpoint: Weights.
        inputs: Rasters, and folders of rasters.
        out: Folder of the maps' folders, and of the table, ``areas.md``.
        priors: Of :class:`PriorOptions`, as are the next two.
        prior_strength: Likewise.
        source_shares: Likewise.
        **settings: More of :class:`SegInferencer`'s.

    Returns:
        The table: for each class its share of the area, in percent, and in brackets its share in the prior.

    Raises:
        ConfigError: Two tables have one name, or what :class:`SegInferencer` raises.
        DataError: A raster cannot be predicted.
    """
    names = [Path(prior).stem for prior in priors]
    if twice := [name for name in (PLAIN, *names) if (PLAIN, *names).count(name) > 1]:
        raise ConfigError(f'priors: the name {twice[0]} is there twice, and each prior has a folder of its name')
    found: dict[str, dict[str, float]] = {}
    records: dict[str, dict[str, Any]] = {}
    for name, prior in zip((PLAIN, *names), (None, *priors)):
        options: dict[str, Any] = {}
        if prior is not None:
            options = dict(class_prior=prior, prior_strength=prior_strength, source_shares=source_shares)
        inferencer = SegInferencer(config, checkpoint, **settings, **options)
        report = inferencer.predict_rasters(inputs, Path(out) / name, resume=True)
        if report.failed:
            raise DataError(some(list(report.failed.values()), 1))
        found[name], records[name] = _shares(report.maps), inferencer.class_prior or {}
    # All of them say the same of what was learned.
    shown = {PLAIN: records[names[0]]['trained'], **{name: records[name]['wanted'] for name in names}}
    rows = [
        [own, *(f'{found[name][own]:.1f} ({100 * shown[name][own]:.1f})' for name in shown)] for own in found[PLAIN]
    ]
    table = markdown_table(['class', *shown], rows)
    write_text(table, Path(out) / 'areas.md', overwrite=True)
    return table


def _shares(maps: Sequence[Path]) -> dict[str, float]:
    """Percent of the area of maps by class; of their pixels where one has no place."""
    names, pixels, metres = zip(*map(class_areas, maps))
    amounts: Any = np.sum(metres, axis=0)
    if not np.isfinite(amounts).all():
        amounts = np.sum(pixels, axis=0)
    return dict(zip(names[0], (100 * amounts / amounts.sum()).tolist()))
