#!/usr/bin/env python
"""Measure how fast windows of GeoTIFFs are read, beside plain rasterio."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.registry import init_default_scope

from mmrs.studies.window_benchmark import format_rates, make_large_raster, measure_windows
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # rasters of your own: are they stored well for reading by window?
  python tools/analysis_tools/benchmark_windows.py data/city/images

  # a generated raster of 20000 x 20000 pixels and 4 bands of uint16, with labels to train on
  python tools/analysis_tools/benchmark_windows.py data/large --make
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Read windows at random places, by a data set and by plain rasterio in turn, and print windows per '
        'second of both and the peak memory of the process.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('path', type=Path, help='a GeoTIFF or a folder of them; with --make, a folder for a new one')
    parser.add_argument('--size', type=int, default=512, metavar='PX', help='side of a window (default: %(default)s)')
    parser.add_argument('--number', type=int, default=400, metavar='N', help='windows per round (default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=3, metavar='N', help='rounds, the best counts (default: 3)')
    made = parser.add_argument_group('a generated raster')
    made.add_argument('--make', action='store_true', help='write images/scene.tif, labels/scene.tif and classes.yaml')
    made.add_argument('--side', type=int, default=20000, metavar='PX', help='width and height (default: %(default)s)')
    made.add_argument('--bands', type=int, default=4, metavar='N', help='number of bands (default: %(default)s)')
    made.add_argument(
        '--dtype', choices=('uint8', 'uint16', 'int16', 'float32'), default='uint16', help='(default: %(default)s)'
    )
    made.add_argument(
        '--compress', choices=('deflate', 'lzw', 'zstd', 'none'), default='deflate', help='(default: %(default)s)'
    )
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    init_default_scope('mmrs')
    path = args.path
    if args.make:
        path = make_large_raster(path, args.side, args.bands, args.dtype, args.compress)
    print(format_rates(measure_windows(path, args.size, args.number, args.rounds)))


if __name__ == '__main__':
    sys.exit(main())
