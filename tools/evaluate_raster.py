#!/usr/bin/env python
"""Score predicted rasters against reference rasters or polygons."""

from __future__ import annotations

import argparse
import sys

from mmrs.apis.comparison import output_console
from mmrs.apis.raster_scores import evaluate_rasters, pair_rasters
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # a map of tools/predict.py and a label raster with ids from 0, on any grid
  python tools/evaluate_raster.py maps/city.tif labels/city.tif

  # two folders; the references are masks in colours; without boundaries too, as the ISPRS scores
  python tools/evaluate_raster.py maps/potsdam downloads/Potsdam/labels --label-suffix _label.tif \\
      --pred-suffix _RGB.tif --classes isprs.yaml --erode 3 --out scores/potsdam --errors-map

  # polygons, of which the field `kind` says the class
  python tools/evaluate_raster.py maps/city.tif survey.gpkg --label-attribute kind --label-background other

exit code: 0 if everything was scored, 1 if some pairs could not be, 2 if none
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Score predicted rasters against references on the same or another pixel grid: IoU, F1, precision '
        'and recall of each class, their means, overall accuracy, confusion matrix. Rasters of any size are read by '
        'window.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'paths',
        nargs='+',
        metavar='PRED LABEL',
        help='predicted raster and its reference, a raster or a vector file; several pairs; or two folders with files '
        'of the same names',
    )
    parser.add_argument('--pred-suffix', metavar='TEXT', help='end of the names of predictions (default: all formats)')
    parser.add_argument('--label-suffix', metavar='TEXT', help='end of the names of references')
    parser.add_argument(
        '--classes',
        metavar='FILE',
        help="table of the references' classes, ids and colours, and of predictions that do not name their classes "
        "(default: the predictions' own, with ids from 0)",
    )
    parser.add_argument('--reduce-zero-label', action='store_true', help='references: 0 is ignored, 1 the first class')
    parser.add_argument('--label-attribute', metavar='FIELD', help='field of polygons with their class, name or id')
    parser.add_argument('--label-class', metavar='NAME', help='class of all polygons')
    parser.add_argument('--label-layer', metavar='NAME', help='layer of the vector files')
    parser.add_argument('--label-background', metavar='NAME', help='class outside polygons (default: ignored)')
    parser.add_argument(
        '--erode',
        type=float,
        default=0,
        metavar='PIXELS',
        help='score again without what lies this near to a class boundary, in pixels of the reference (ISPRS: 3)',
    )
    parser.add_argument(
        '--missing-as-error',
        action='store_true',
        help='labelled pixels without prediction are wrong (default: they do not count)',
    )
    parser.add_argument('--out', metavar='DIR', help='write metrics.json and confusion_matrix.png')
    parser.add_argument('--errors-map', action='store_true', help='write NAME_errors.tif to DIR: 0 right, 1 wrong')
    parser.add_argument('--overwrite', action='store_true', help='write into a folder that is not empty')
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> int:
    args = vars(parse_args(argv))
    pairs = pair_rasters(args.pop('paths'), args.pop('pred_suffix'), args.pop('label_suffix'))
    report = evaluate_rasters(pairs, **args)
    report.print(output_console())
    if args['out']:
        print(f'scores: {args["out"]}')
    for name, message in report.failed.items():
        print(f'error: {name}: {message}', file=sys.stderr)
    return 1 if report.failed else 0


if __name__ == '__main__':
    sys.exit(main())
