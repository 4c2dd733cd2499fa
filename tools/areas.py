#!/usr/bin/env python
"""Measure the classes of a map, by districts or parcels, with intervals."""

from __future__ import annotations

import argparse
import sys

from mmrs.apis.areas import measure_areas
from mmrs.apis.comparison import output_console
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # the whole map
  python tools/areas.py maps/town.tif -o areas.csv

  # by districts, whose names are in the field `name`; as a table and as polygons with areas
  python tools/areas.py maps/town.tif --polygons districts.gpkg --polygon-attribute name -o areas.csv areas.gpkg

  # areas that the errors of the map are taken out of, with 95 % intervals; samples.csv has mapped classes as rows and
  # reference classes as columns, and counts samples that were drawn at random from each mapped class
  python tools/areas.py maps/town.tif --polygons districts.gpkg --confusion samples.csv -o areas.csv

  # the same from the scores of several labelled rasters; and expected areas from calibrated probabilities
  python tools/evaluate_raster.py maps labels --out scores
  python tools/areas.py maps/all.vrt --confusion scores/metrics.json -o areas.csv
  python tools/areas.py maps/town.tif --probabilities maps/town_probabilities.tif -o areas.csv
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Areas of the classes of a map in square metres and hectares: mapped, expected by probabilities, '
        'and adjusted by what reference data says of its errors, with intervals (Olofsson et al. 2014). Maps of any '
        'size are read by window.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('map_', metavar='MAP', help='label map of tools/predict.py, or a mosaic of such maps (VRT)')
    parser.add_argument('-o', '--out', nargs='+', default=[], metavar='OUT', help='FILE.csv, FILE.gpkg or both')
    parser.add_argument('--polygons', metavar='FILE', help='districts or parcels, in any CRS (default: all of the map)')
    parser.add_argument('--polygon-layer', metavar='NAME', help='layer of that file, where it has several')
    parser.add_argument('--polygon-attribute', metavar='FIELD', help='names the polygons (default: numbers from 1)')
    parser.add_argument(
        '--confusion', metavar='FILE', help='sample counts (CSV), or metrics.json of evaluate_raster.py: adjusted areas'
    )
    parser.add_argument(
        '--probabilities', metavar='FILE.tif', help='of predict.py --extra probabilities: expected areas'
    )
    parser.add_argument(
        '--level', type=float, default=0.95, metavar='SHARE', help='confidence of the intervals (default: %(default)s)'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace files that exist')
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> int:
    args = vars(parse_args(argv))
    measure_areas(**args).print(output_console())
    for path in args['out']:
        print(path)
    return 0


if __name__ == '__main__':
    sys.exit(main())
