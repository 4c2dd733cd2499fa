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
from mmrs.utils.config_types import check_types
from mmrs.utils.errors import ConfigError
from mmrs.utils.files import new_directory
from mmrs.visualization.panels import class_colours, compose, overlay, striped, to_display, write_picture
from mmrs.visualization.prediction_hooks import window_name

__all__ = ['browse_dataset', 'draw_training_sample']


def draw_training_sample(sample: Mapping[str, Any], meta: Mapping[str, Any]) -> np.ndarray:
    """Draw what a pipeline yields: one domain, or source and target side by side.

    Of a pair, which has no labels, there is a third picture: squares of both in turn, in which edges that do not run on
    from one to the next show by how much the images are apart. Pixels that do not count in training are hatched.

    Args:
        sample: ``dict(inputs, data_samples)``, or such a dict under each of ``source`` and ``target``.
        meta: Classes and palette of the data set.

    Returns:
        ``(H, W, 3)``, uint8. The legend has the share of each class among the labelled pixels.
    """
    if 'inputs' not in sample and not any('gt_sem_seg' in part['data_samples'] for part in sample.values()):
        return _draw_pair(sample)
    colours = class_colours(meta)
    row: list[tuple[str, np.ndarray]] = []
    counts = np.zeros(len(colours))
    for domain, part in ({'': sample} if 'inputs' in sample else sample).items():
        title, picture = _titled(domain, part)
        row.append((title, picture))
        if 'gt_sem_seg' in part['data_samples']:
            labels = part['data_samples'].gt_sem_seg.data.squeeze().numpy()
            # Where evaluation resizes images, the label maps keep their own size.
            below = np.asarray(Image.fromarray(picture).resize(labels.shape[::-1]))
            row.append((f'{domain} labels'.strip(), overlay(below, labels, colours)))
            counts += np.bincount(labels.ravel(), minlength=256)[: len(colours)]
    names = meta.get('classes') or ()
    if counts.sum():
        names = [f'{name} {share:.0f} %' for name, share in zip(names, 100 * counts / counts.sum())]
    return compose([row], names, colours)


def _titled(domain: str, part: Mapping[str, Any]) -> tuple[str, np.ndarray]:
    picture = to_display(part['inputs'].permute(1, 2, 0).numpy())
    return f'{domain} {picture.shape[1]} x {picture.shape[0]}, {window_name(part["data_samples"])}'.strip(), picture


def _draw_pair(sample: Mapping[str, Any]) -> np.ndarray:
    titled = [_titled(domain, part) for domain, part in sample.items()]
    valid = [_valid_map(part) for part in sample.values()]
    row = [(title, _hatched(picture, own)) for (title, picture), own in zip(titled, valid)]
    both, composite = valid[0] & valid[1], _checkerboard(titled[0][1], titled[1][1])
    return compose([[*row, (f'squares of both, {100 * both.mean():.3g} % count', _hatched(composite, both))]])


def _valid_map(part: Mapping[str, Any]) -> np.ndarray:
    found = part['data_samples'].get('valid_map')
    return np.ones(part['inputs'].shape[1:], bool) if found is None else found.data[0].numpy()


def _checkerboard(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squares of two pictures ``(H, W, 3)`` in turn, eight along the longer side, the first one top left."""
    row, column = np.ogrid[: first.shape[0], : first.shape[1]]
    side = -(-max(first.shape) // 8)
    return np.where(((row // side + column // side) % 2 == 0)[..., None], first, second)


def _hatched(picture: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return striped(picture, valid, (90, 150, 150), 100)


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
    check_types(config, model=False)
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
            write_picture(path, drawn, overwrite)
        written.append(path)
    return written
