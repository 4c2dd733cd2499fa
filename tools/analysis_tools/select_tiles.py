#!/usr/bin/env python
"""Choose the tiles of a target to label next."""

from __future__ import annotations

import argparse
import sys

from mmrs.apis.comparison import markdown_table
from mmrs.apis.tile_selection import NUMBER, TileSelection
from mmrs.evaluation.tile_choice import COSTS, CRITERIA, UNCERTAINTIES
from mmrs.utils.arguments import add_cfg_options, add_class_prior, add_overwrite, add_trust
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # twenty windows of a folder of GeoTIFFs, with a layer for QGIS, pictures, and the windows cut out
  python tools/analysis_tools/select_tiles.py CONFIG CHECKPOINT scenes -k 20 -o tiles.gpkg

  # the unlabelled images of the configuration: a table and a list of names
  python tools/analysis_tools/select_tiles.py CONFIG CHECKPOINT config:target -k 10 -o tiles.csv

  # as many tiles as have about 300 polygons to draw; what was labelled before is complemented
  python tools/analysis_tools/select_tiles.py CONFIG CHECKPOINT scenes --budget 300 --cost polygons \\
      --labelled first.csv -o second.gpkg

  # what every choice has to be better than
  python tools/analysis_tools/select_tiles.py CONFIG CHECKPOINT scenes -k 20 --criterion random --seed 1 -o random.gpkg

The map is corrected to equal shares of the classes by half; --class-prior none leaves it as it is. No label of the
target is read. How to label the tiles and train with them: docs/select_tiles.md.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Choose the tiles of a target to label next, by what a trained network says of them.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='configuration of the checkpoint')
    parser.add_argument('checkpoint', help='the current network')
    parser.add_argument(
        'targets', nargs='+', metavar='TARGET',
        help='raster or folder of rasters; config:target or config:test, the images of the configuration',
    )  # fmt: skip
    parser.add_argument(
        '-o', '--out', required=True, metavar='NAME.gpkg',
        help='layer of the tiles; NAME.csv for images without a CRS. Table, list, pictures stand beside it',
    )  # fmt: skip
    how = parser.add_argument_group('choice')
    how.add_argument('-k', type=int, metavar='N', help=f'how many tiles (default: {NUMBER}, or what the budget allows)')
    how.add_argument(
        '--criterion', choices=CRITERIA, default='balanced',
        help='balanced: unsure tiles, unlike each other, of all classes; or one of these alone; gradient: tiles that '
        'sum up the target (default: %(default)s)',
    )  # fmt: skip
    how.add_argument(
        '--uncertainty', nargs='+', choices=UNCERTAINTIES, default=['entropy'],
        help='of the map; flip: how much of it changes when the tile is flipped, for two more passes; the mean of '
        'several (default: entropy)',
    )  # fmt: skip
    how.add_argument('--budget', type=float, metavar='X', help='what the tiles may cost together')
    how.add_argument(
        '--cost', choices=COSTS, default='pixels', help='what the budget counts, by the current map (default: pixels)'
    )
    how.add_argument(
        '--labelled', nargs='+', default=[], metavar='FILE',
        help='NAME.csv of earlier choices, or lists of image names: what has labels already',
    )  # fmt: skip
    tiles = parser.add_argument_group('tiles')
    tiles.add_argument(
        '--size', type=int, metavar='PX', help="side of a raster's windows (default: the sliding test's, else 512)"
    )
    tiles.add_argument('--number', type=int, metavar='N', help='look at so many, drawn at random (default: all)')
    tiles.add_argument(
        '--min-data', type=float, default=0.5, metavar='X', help='share of a tile that has data (default: 0.5)'
    )
    add_class_prior(parser)
    parser.set_defaults(class_prior='uniform')
    run = parser.add_argument_group('run')
    run.add_argument('--seed', type=int, default=0, help='of what is drawn (default: 0)')
    run.add_argument('--device', help='cpu, cuda:1, ... (default: a GPU if there is one)')
    run.add_argument('--dry-run', action='store_true', help='look at all that is needed, and say what would be done')
    add_overwrite(run, 'replace the files of an earlier choice, but for drawn labels')  # type: ignore[arg-type]
    add_trust(parser)
    add_cfg_options(parser)
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    args = vars(parse_args(argv))
    dry_run = args.pop('dry_run')
    if args['class_prior'] == 'none':
        args['class_prior'] = None
    selection = TileSelection(**args)
    if dry_run:
        print(selection.plan())
        return
    rows = selection.run()
    shown = [[str(row['rank']), row['name'], f'{row["cost"]:,}', row['reason']] for row in rows]
    print(markdown_table(['', 'tile', args['cost'], 'why'], shown))
    print(f'{args["out"]}: {len(rows)} tiles, {sum(row["cost"] for row in rows):,} {args["cost"]}')


if __name__ == '__main__':
    sys.exit(main())
