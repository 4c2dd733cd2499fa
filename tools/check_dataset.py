#!/usr/bin/env python
"""Check data sets before anything is trained on them."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

from mmrs.apis.check_dataset import check_dataset, plot_report, print_report, save_report
from mmrs.apis.comparison import output_console
from mmrs.utils.arguments import add_axes, add_cfg_options
from mmrs.utils.errors import DataError, OutputError, report_errors
from mmrs.visualization.histograms import require_picture_format

EXAMPLES = """\
examples:
  # every data set of a configuration: source, target, validation, test
  python tools/check_dataset.py configs/st_dasegnet/own_data.py

  # two folders in the standard layout, as two domains, with a picture of their shift
  python tools/check_dataset.py data/source data/target --figure shift.png

  # GeoTIFFs and masks as they were published; 200 of the images; for a script
  python tools/check_dataset.py downloads/S1 --labels downloads/Labels --classes classes.yaml \\
      --image-suffix _S1.tif --label-suffix _Label.tif -n 200 --json report.json

exit code: 0 without errors, 1 with errors in the data, 2 if nothing could be checked
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Read every image and label map of data sets, and report what is wrong with them: missing or '
        'unreadable files, sizes and places that do not fit, ids that are no class, empty and duplicate images, images '
        'in both training and evaluation; and how the domains differ in their bands and classes.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'paths',
        nargs='+',
        metavar='PATH_OR_CONFIG',
        help='a configuration; or folders, one for each domain: in the standard layout (img_dir, ann_dir, '
        'classes.yaml) or of images',
    )
    add_axes(parser)
    parser.add_argument('--labels', metavar='DIR', help='label maps or colour masks of a folder of images')
    parser.add_argument('--classes', metavar='FILE', help='table of classes (default: classes.yaml in the folder)')
    parser.add_argument('--image-suffix', metavar='TEXT', help='end of the names of images (default: all formats)')
    parser.add_argument('--label-suffix', metavar='TEXT', help='end of the names of label maps')
    parser.add_argument(
        '-n', '--sample', type=int, metavar='N', help='check N images of each data set, drawn at random'
    )
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of that draw (default: 0)')
    parser.add_argument('--all', action='store_true', help='show all findings, not five of each kind')
    parser.add_argument('--json', metavar='FILE', help='write the report there; - for stdout, and nothing else')
    parser.add_argument('--figure', metavar='FILE', help='draw the histograms and class shares of the domains')
    parser.add_argument('--overwrite', action='store_true', help='replace FILE where it exists')
    parser.add_argument('--workers', type=int, metavar='N', help='number of threads (default: one per processor)')
    add_cfg_options(parser)
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    for path in (args.json, args.figure):
        if path not in (None, '-') and Path(path).exists() and not args.overwrite:
            raise OutputError(f'{path} exists already; choose another name, or pass --overwrite')
    if args.figure:
        require_picture_format(args.figure)
    with redirect_stdout(sys.stderr):  # what data sets log is no part of the report
        report = check_dataset(
            args.paths,
            args.labels,
            args.classes,
            args.image_suffix,
            args.label_suffix,
            args.cfg_options,
            args.sample,
            args.seed,
            args.workers,
            dict(task=args.task, network=args.network, schedule=args.schedule),
        )
    if args.json:
        save_report(report, args.json, args.overwrite)
    if args.json != '-':
        print_report(report, output_console(), None if args.all else 5)
    if args.figure:
        try:
            plot_report(report, args.figure, args.overwrite)
        except DataError as error:  # what is wrong with the bands stands in the report already
            if not report.number('error'):
                raise
            print(f'error: {error}', file=sys.stderr)
    return 1 if report.number('error') else 0


if __name__ == '__main__':
    sys.exit(main())
