#!/usr/bin/env python
"""Show an image under each synthetic camera change and misalignment."""

from __future__ import annotations

import argparse
import sys

from mmrs.utils.errors import report_errors
from mmrs.visualization.camera_changes import CHANGES, show_camera_changes

EXAMPLES = """\
examples:
  # every change at three strengths, on 256 x 256 pixels from the middle of the image
  python tools/analysis_tools/show_camera_changes.py data/potsdam_rgb/img_dir/val/2_13_0_0_512_512.png -o grid.png

  # two of them for a slide: larger, at a certain place, a scene with near infrared in false colours
  python tools/analysis_tools/show_camera_changes.py scene.tif -o slide.png --changes camera shift --size 400 \\
      --crop 1000 400 1400 800 --bands 4 1 2
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw an image under each synthetic camera change and each kind of misalignment: a row for each, '
        'a column for each strength, with the stated values.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('image', help='image in any format that GDAL reads')
    parser.add_argument('-o', '--out', required=True, metavar='FIG', help='picture to write (.png, .jpg)')
    parser.add_argument(
        '--strengths', type=float, nargs='+', default=[0.5, 1, 2], metavar='S', help='columns (default: 0.5 1 2)'
    )
    parser.add_argument(
        '--changes', nargs='+', default=CHANGES, choices=CHANGES, metavar='NAME', help=f'rows: {", ".join(CHANGES)}'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the changes (default: 0)')
    parser.add_argument(
        '--crop', type=int, nargs=4, metavar=('X0', 'Y0', 'X1', 'Y1'), help='part to show, in pixels of the image'
    )
    parser.add_argument(
        '--bands', type=int, nargs=3, metavar='BAND', help='bands to show as red, green and blue, counted from 1'
    )
    parser.add_argument('--per-row', type=int, default=1, metavar='N', help='changes beside each other (default: 1)')
    parser.add_argument('--size', type=int, default=256, metavar='PX', help='side of each picture (default: 256)')
    parser.add_argument('--overwrite', action='store_true', help='replace the picture where it exists')
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    options = vars(parse_args(argv))
    show_camera_changes(options.pop('image'), **options)
    print(options['out'])


if __name__ == '__main__':
    sys.exit(main())
