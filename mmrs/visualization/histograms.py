from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrs.geo.statistics_bands import BandStatistics
from mmrs.utils.errors import ConfigError
from mmrs.utils.files import atomic_path
from mmrs.visualization.curves import LINE_COLOURS

__all__ = ['histogram_edges', 'plot_domains', 'require_picture_format']

_BINS = 100


def histogram_edges(domains: Sequence[BandStatistics], band: int, bins: int = _BINS) -> np.ndarray:
    """Edges of bins that suit a band of all domains, `(at most bins + 1,)`.

    They reach from the 0.1 % to the 99.9 % quantile of the domain that goes furthest. Whole numbers get bins that hold
    equally many of them, so that no comb appears in the histogram.

    Args:
        domains: Statistics of the domains, with valid pixels.
        band: Index from 0.
        bins: Number of bins, at most.
    """
    low = min(statistics.quantile(0.001)[band] for statistics in domains)
    high = max(statistics.quantile(0.999)[band] for statistics in domains)
    if all(statistics.is_exact for statistics in domains):
        width = math.ceil((high - low + 1) / bins)
        return low - 0.5 + width * np.arange(math.ceil((high - low + 1) / width) + 1)
    return np.linspace(low, high if high > low else low + 1, bins + 1)


def require_picture_format(path: str | Path) -> None:
    """Raises ConfigError where the suffix of a picture to write names no format of pictures."""
    from matplotlib.figure import Figure

    if Path(path).suffix.lstrip('.').lower() not in Figure().canvas.get_supported_filetypes():
        raise ConfigError(f'{path}: the suffix names no picture format; .png, .pdf or .svg was expected')


def plot_domains(
    domains: Mapping[str, BandStatistics],
    path: str | Path,
    shares: Mapping[str, np.ndarray] | None = None,
    classes: Sequence[str] = (),
    shifts: np.ndarray | None = None,
    overwrite: bool = False,
) -> None:
    """Draw the histograms of the bands of all domains over one another, and the class shares side by side.

    Args:
        domains: Statistics by the name of the domain; all with the same number of bands.
        path: Picture to write; the suffix says in which format.
        shares: Share of each class, `(K,)`, 0 to 1, by the name of the domain; domains without labels are left out.
        classes: Names of the classes.
        shifts: Shift of each band, `(C,)`, for the titles (see `wasserstein_shift`).
        overwrite: Replace the picture where it exists.

    Raises:
        ConfigError: The suffix names no picture format.
        OutputError: The picture exists.
    """
    from matplotlib.figure import Figure  # slow to import, and rarely needed

    require_picture_format(path)
    number = len(next(iter(domains.values())).count)
    colours = dict(zip(domains, itertools.cycle(LINE_COLOURS)))
    columns = min(number, 4)
    rows = math.ceil(number / columns) + bool(shares)
    figure = Figure((max(4.2 * columns, 7), 3.2 * rows + 0.4), layout='constrained')
    grid = figure.add_gridspec(rows, columns)
    for band in range(number):
        axes = figure.add_subplot(grid[divmod(band, columns)])
        known = {name: statistics for name, statistics in domains.items() if statistics.count[band]}
        edges = histogram_edges(list(known.values()), band) if known else np.array([0, 1])
        for name, statistics in known.items():
            density = statistics.histogram(band, edges) / statistics.count[band] / np.diff(edges)
            axes.stairs(density, edges, color=colours[name], fill=True, alpha=0.25)
            axes.stairs(density, edges, color=colours[name], linewidth=1.6)
            axes.axvline(statistics.mean[band], color=colours[name], linewidth=1.2, linestyle='--')
        shift = '' if shifts is None else f', shift {shifts[band]:.2f} σ'
        axes.set_title(f'band {band + 1}{shift}', fontsize=12, loc='left')
        dtypes = sorted({dtype for statistics in known.values() for dtype in statistics.dtypes})
        axes.set_xlabel(f'value ({", ".join(dtypes)})')
        if not band % columns:
            axes.set_ylabel('density of the pixels')
        axes.set_yticks([])
        axes.spines[['top', 'right', 'left']].set_visible(False)
    if shares:
        _plot_shares(figure.add_subplot(grid[rows - 1, :]), shares, classes, colours)
    handles = [figure.axes[0].plot([], [], color=colours[name], linewidth=6)[0] for name in domains]
    handles.append(figure.axes[0].plot([], [], color='0.3', linewidth=1.2, linestyle='--')[0])
    figure.legend(
        handles, [*domains, 'mean'], loc='outside upper center', ncols=len(handles), frameon=False, fontsize=12
    )
    with atomic_path(path, overwrite) as temporary:
        figure.savefig(temporary, dpi=120)


def _plot_shares(
    axes: Any, shares: Mapping[str, np.ndarray], classes: Sequence[str], colours: Mapping[str, str]
) -> None:
    # Two classes are not to fill the picture.
    width = 0.8 / len(shares) * min(1, len(classes) / 5)
    for i, (name, own) in enumerate(shares.items()):
        places = np.arange(len(classes)) + (i - (len(shares) - 1) / 2) * width
        bars = axes.bar(places, 100 * own, width, color=colours[name], alpha=0.85)
        axes.bar_label(bars, fmt='%.1f', fontsize=9)
    axes.set_xticks(range(len(classes)), [name.replace('_', ' ') for name in classes])
    axes.tick_params(axis='x', length=0)
    axes.set_ylabel('% of the labelled pixels')
    axes.set_title('classes', fontsize=12, loc='left')
    axes.spines[['top', 'right']].set_visible(False)
