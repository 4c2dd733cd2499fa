from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from PIL import Image
from rich.progress import track

from mmrs.registry import DATASETS
from mmrs.utils.config import check_types
from mmrs.utils.errors import ConfigError
from mmrs.utils.files import atomic_path, new_directory
from mmrs.visualization.panels import class_colours, compose, overlay, to_display
from mmrs.visualization.prediction_hooks import window_name

__all__ = ['browse_dataset', 'draw_training_sample']


def draw_training_sample(sample: Mapping[str, Any], meta: Mapping[str, Any]) -> np.ndarray:
    """Draw what a pipeline yields: one domain, or source and target side by side.

    Args:
        sample: ``dict(inputs, data_samples)``, or such a dict under each of ``source`` and ``target``.
        meta: Classes and palette of the data set.

    Returns:
        ``(H, W, 3)``, uint8. The legend has the share of each class among the labelled pixels.
    """
    colours = class_colours(meta)
    row: list[tuple[str, np.ndarray]] = []
    counts = np.zeros(len(colours))
    for domain, part in ({'': sample} if 'inputs' in sample else sample).items():
        picture = to_display(part['inputs'].permute(1, 2, 0).numpy())
        name = window_name(part['data_samples'])
        size = f'{picture.shape[1]} x {picture.shape[0]}'
        row.append((f'{domain} {size}, {name}'.strip(), picture))
        if 'gt_sem_seg' in part['data_samples']:
            labels = part['data_samples'].gt_sem_seg.data.squeeze().numpy()
            # Where evaluation resizes images, the label maps keep their own size.
            below = np.asarray(Image.fromarray(picture).resize(labels.shape[::-1]))
            row.append((f'{domain} labels'.strip(), overlay(below, labels, colours)))
            counts += np.bincount(labels.ravel(), minlength=256)[: len(colours)]
    shares = 100 * counts / counts.sum() if counts.sum() else None
    return compose([row], meta.get('classes') or (), colours, shares)


def browse_dataset(
    config: Config,
    out_dir: str | Path,
    number: int = 10,
    split: str = 'train',
    dry_run: bool = False,
    overwrite: bool = False,
) -> list[Path]:
    """Draw samples of a configuration's data set as they leave its pipeline, at even distances through the set.

    Args:
        config: Configuration.
        out_dir: Folder for the pictures.
        number: How many.
        split: ``'train'``, ``'val'`` or ``'test'``.
        dry_run: Load and draw the samples, but write nothing.
        overwrite: Write into a folder that holds something.

    Returns:
        The pictures' files, also those not written in a dry run.

    Raises:
        ConfigError: The configuration has no such data set.
        OutputError: The folder holds something already.
    """
    loader = config.get(f'{split}_dataloader')
    if loader is None:
        raise ConfigError(f'config {config.filename} has no {split}_dataloader')
    check_types(config)
    init_default_scope(config.get('default_scope', 'mmrs'))
    set_random_seed((config.get('randomness') or {}).get('seed') or 0)
    dataset = DATASETS.build(loader['dataset'])
    indices = np.unique(np.linspace(0, len(dataset) - 1, min(number, len(dataset))).round().astype(int))
    out_dir = Path(out_dir) if dry_run else new_directory(out_dir, overwrite)
    width = len(str(len(dataset) - 1))
    written = []
    for index in track(indices.tolist(), description=f'{split}: {len(indices)} of {len(dataset)} samples'):
        path = out_dir / f'{split}_{index:0{width}d}.png'
        drawn = draw_training_sample(dataset[index], dataset.metainfo)
        if not dry_run:
            with atomic_path(path, overwrite) as temporary:
                Image.fromarray(drawn).save(temporary)
        written.append(path)
    return written
