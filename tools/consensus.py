#!/usr/bin/env python
"""Make one mask of several: of annotators, models or years."""

from __future__ import annotations

import argparse
import sys

from mmrs.apis.comparison import output_console
from mmrs.apis.consensus import make_consensus
from mmrs.utils.arguments import add_overwrite
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # three people's masks of one tile, with ids that a table names
  python tools/consensus.py tile.tif anna.tif ben.tif carla.tif --classes classes.yaml -o tile_consensus.tif

  # maps of three models, which name their classes
  python tools/consensus.py city.tif maps_a/city.tif maps_b/city.tif maps_c/city.tif -o city_consensus.tif

  # polygons of two digitisers, of which the field `kind` says the class; gaps are filled
  python tools/consensus.py city.tif anna.gpkg ben.geojson --classes classes.yaml --label-attribute kind --complete \\
      -o city_consensus.tif

It writes NAME.tif, NAME_confidence.tif (the share of the annotators' weight that is behind the class), and the report
NAME.json and NAME.md.

exit code: 0 if the consensus was written, 2 if the command cannot work, 130 after Ctrl-C
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Make one mask of several masks of an image. What all agree on stays; elsewhere annotators count '
        'by how consistent they are with themselves, and borders follow the edges of the image. Rasters of any size '
        'are read by window.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('image', metavar='IMAGE', help='the image that the masks are of')
    parser.add_argument(
        'masks',
        nargs='+',
        metavar='MASK',
        help='two or more: rasters of ids or colours on the grid of the image, or polygons',
    )
    parser.add_argument('-o', '--out', required=True, metavar='NAME.tif', help='GeoTIFF to write')
    parser.add_argument(
        '--bands', type=int, nargs='+', metavar='N', help='bands of the image that count (default: all)'
    )
    parser.add_argument(
        '--classes',
        metavar='FILE',
        help='table of the classes, ids and colours (default: those that a mask names itself)',
    )
    parser.add_argument('--reduce-zero-label', action='store_true', help='0 is not annotated, 1 the first class')
    parser.add_argument('--label-attribute', metavar='FIELD', help='field of polygons with their class, name or id')
    parser.add_argument('--label-class', metavar='NAME', help='class of all polygons')
    parser.add_argument('--label-layer', metavar='NAME', help='layer of the vector files')
    parser.add_argument('--label-background', metavar='NAME', help='class outside polygons (default: not annotated)')
    parser.add_argument(
        '--smoothness',
        type=float,
        default=0.3,
        metavar='LAMBDA',
        help='what a border costs where the image has no edge; 0 for a vote (default: 0.3)',
    )
    parser.add_argument(
        '--complete',
        action='store_true',
        help='give pixels that nobody annotated a class too, by what the others look like',
    )
    parser.add_argument(
        '--resume', action='store_true', help='continue a consensus that was begun with the same inputs'
    )
    add_overwrite(parser, 'replace the files of an earlier consensus')
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> int:
    args = vars(parse_args(argv))
    make_consensus(**args).print(output_console())
    print(f'consensus: {args["out"]}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
