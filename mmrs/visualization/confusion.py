from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmrs.utils.files import atomic_path

__all__ = ['plot_confusion_matrix']


def plot_confusion_matrix(matrix: np.ndarray, classes: Sequence[str], path: str | Path, title: str = '') -> None:
    """Draw a confusion matrix, in percent of the labelled pixels of each class.

    Args:
        matrix: ``(K, K)`` counts, labels as rows.
        classes: Names.
        path: Picture to write; the suffix says in which format.
        title: Title.
    """
    from matplotlib.figure import Figure  # slow to import, and rarely needed

    matrix = np.asarray(matrix, np.float64)
    total = matrix.sum(1, keepdims=True)
    share = 100 * np.divide(matrix, total, out=np.full_like(matrix, np.nan), where=total > 0)
    side = 2.2 + 0.75 * len(classes)
    figure = Figure((side + 0.8, side), layout='constrained')
    axes = figure.add_subplot()
    shown = axes.imshow(share, cmap='Blues', vmin=0, vmax=100)
    names = [name.replace('_', ' ') for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=45, ha='right', rotation_mode='anchor')
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel('predicted')
    axes.set_ylabel('labelled')
    axes.set_title(title)
    for row, column in np.ndindex(share.shape):
        value = share[row, column]
        text = '' if np.isnan(value) else f'{value:.1f}'
        axes.text(column, row, text, ha='center', va='center', color='white' if value > 55 else 'black', fontsize=9)
    figure.colorbar(shown, ax=axes, label='% of the labelled pixels', shrink=0.8)
    with atomic_path(path, overwrite=True) as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches='tight')
