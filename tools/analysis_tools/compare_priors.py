#!/usr/bin/env python
"""Compare what class priors do to the areas of the classes on maps."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmrs.studies.compare_priors import compare_priors
from mmrs.utils.arguments import add_cfg_options, add_trust
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # shares that are right, those that are equal, and some that are wrong
  python tools/analysis_tools/compare_priors.py work_dirs/mine/mine.py work_dirs/mine/iter_4000.pth scene.tif \\
      -o work_dirs/priors --priors right.yaml uniform wrong.yaml
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Predict rasters with the class prior that a model has learned and with others, and write a table '
        'of the share of each class of the area: DIR/areas.md.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='configuration file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='raster, or folder of rasters')
    parser.add_argument('-o', '--out', type=Path, required=True, metavar='DIR', help='folder for maps and table')
    parser.add_argument('--priors', nargs='+', required=True, metavar='PRIOR', help='as --class-prior of predict.py')
    parser.add_argument('--prior-strength', type=float, metavar='S', help='0 to 1; default: 0.5')
    parser.add_argument('--source-shares', metavar='FILE', help="table of the source's shares; default: counted")
    parser.add_argument('--window', type=int, metavar='PX', help='side of a window, as in predict.py')
    parser.add_argument('--device', help='cpu, cuda:1, ... (default: a GPU if there is one)')
    add_trust(parser)
    add_cfg_options(parser)
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    print(compare_priors(**vars(parse_args(argv))))


if __name__ == '__main__':
    sys.exit(main())
