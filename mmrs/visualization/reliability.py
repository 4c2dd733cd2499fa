from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmrs.utils.files import atomic_path
from mmrs.visualization.curves import LINE_COLOURS
from mmrs.visualization.histograms import require_picture_format

__all__ = ['plot_reliability']


def plot_reliability(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, float]]],
    path: str | Path,
    overwrite: bool = False,
) -> None:
    """Draw reliability diagrams side by side: accuracy over confidence, and below them the shares of the pixels.

    Args:
        panels: By the title of a diagram, and by the name of a line in it: shares of the pixels, mean confidence and
            accuracy in bins of equal width, ``(bins,)`` each, NaN where there is no pixel; and the calibration error.
            All from 0 to 1.
        path: Picture to write; the suffix says in which format.
        overwrite: Replace the picture where it exists.

    Raises:
        ConfigError: The suffix names no picture format.
        OutputError: The picture exists.
    """
    from matplotlib.figure import Figure  # slow to import, and rarely needed

    require_picture_format(path)
    figure = Figure((0.6 + 3.9 * len(panels), 5.2), layout='constrained')
    axes = figure.subplots(2, len(panels), squeeze=False, sharex=True, sharey='row', height_ratios=[3, 1])
    for column, (title, lines) in enumerate(panels.items()):
        above, below = axes[:, column]
        above.plot([0, 100], [0, 100], color='0.6', linewidth=1, linestyle='--')
        for colour, (name, (share, confidence, accuracy, error)) in zip(LINE_COLOURS, lines.items()):
            known = np.isfinite(accuracy)
            label = f'{name}: ECE {100 * error:.1f} %'
            above.plot(100 * confidence[known], 100 * accuracy[known], 'o-', color=colour, markersize=4, label=label)
            _plot_shares(below, 100 * share, colour)
        above.set_title(title, fontsize=12, loc='left')
        above.legend(frameon=False, fontsize=10, loc='upper left')
        below.set_xlabel('confidence, %')
    axes[0, 0].set_ylabel('accuracy, %')
    axes[1, 0].set_ylabel('% of the pixels')
    axes[0, 0].set(xlim=(0, 100), ylim=(0, 100))
    for own in axes.flat:
        own.spines[['top', 'right']].set_visible(False)
    with atomic_path(path, overwrite) as temporary:
        figure.savefig(temporary, dpi=120)


def _plot_shares(axes: Any, share: np.ndarray, colour: str) -> None:
    edges = np.linspace(0, 100, len(share) + 1)
    axes.stairs(share, edges, color=colour, fill=True, alpha=0.25)
    axes.stairs(share, edges, color=colour, linewidth=1.6)
