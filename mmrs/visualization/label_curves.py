"""Scores by the number of labelled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrs.utils.files import atomic_path
from mmrs.visualization.curves import LINE_COLOURS

__all__ = ['plot_label_curves']


def plot_label_curves(curves: Mapping[str, Mapping[int, Sequence[float]]], path: str | Path, title: str = '') -> None:
    """Draw scores over numbers of labelled images: a line of means for each method, and bars of standard deviations.

    Args:
        curves: Scores in percent of each seed, by method and number. A method that knows 0 alone is a dashed line with
            its deviation as a band.
        path: Picture, which is replaced; the suffix says in which format.
        title: Title.
    """
    from matplotlib.figure import Figure  # slow to import, and rarely needed

    figure = Figure((6.4, 4.4), layout='constrained')
    axis = figure.subplots()
    numbers = sorted({number for own in curves.values() for number in own if number > 0})
    for colour, (name, own) in zip(LINE_COLOURS * len(curves), curves.items()):
        known = sorted(own)
        means = np.array([np.mean(own[number]) for number in known])
        deviations = np.array([np.std(own[number], ddof=1) if len(own[number]) > 1 else 0.0 for number in known])
        if known == [0]:
            axis.axhline(means[0], color=colour, linestyle='--', linewidth=1.4, label=name)
            axis.axhspan(means[0] - deviations[0], means[0] + deviations[0], color=colour, alpha=0.12, linewidth=0)
        else:
            style: Any = dict(color=colour, linewidth=1.6, marker='o', markersize=4, capsize=3)
            axis.errorbar(known, means, deviations, label=name, **style)
    axis.set_xscale('log')
    axis.set_xticks(numbers, [str(number) for number in numbers])
    axis.minorticks_off()
    axis.set_xlabel('labelled images of the target')
    axis.set_ylabel('mIoU (%)')
    axis.set_title(title, fontsize=10, loc='left')
    axis.grid(alpha=0.3)
    axis.spines[['top', 'right']].set_visible(False)
    axis.legend(frameon=False)
    with atomic_path(path, overwrite=True) as temporary:
        figure.savefig(temporary, dpi=120)
