#!/usr/bin/env python
"""Measure how much of what a change of camera costs feature regression wins back."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmrs.apis.comparison import output_console
from mmrs.studies.camera_study import TOLERANCES, CameraStudy, Configs
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # the table of docs/feature_regression.md, on the folder that docs/datasets.md makes of Dubai
  python tools/analysis_tools/camera_study.py -o work_dirs/camera_study

  # one strength, without misalignment, one seed; what would be trained?
  python tools/analysis_tools/camera_study.py -o work_dirs/short --strengths 1 --shifts 0 --seeds 0 --dry-run

The same command goes on where an interrupted one stopped. Commands with different --seeds may run side by side in one
folder; another one with all seeds then only prints the table.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Change the camera of a labelled image set in simulation, and compare: the network trained on the '
        'images as they are, feature regression with several tolerances to misalignment, and fine-tuning with labels.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('-o', '--out', type=Path, required=True, metavar='DIR', help='folder for runs, table, picture')
    parser.add_argument('--strengths', type=float, nargs='+', default=[0.5, 1.0, 2.0], help='default: 0.5 1 2')
    parser.add_argument('--shifts', type=float, nargs='+', default=[0.0, 4.0, 8.0], help='pixels; default: 0 4 8')
    parser.add_argument('--tolerances', nargs='+', default=TOLERANCES, help=f'default: {" ".join(TOLERANCES)}')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1], help='default: 0 1')
    parser.add_argument('--configs', type=Path, nargs=3, metavar=('REFERENCE', 'REGRESSION', 'FINE_TUNED'),
                        help="configurations; default: Dubai's")  # fmt: skip
    parser.add_argument('--dry-run', action='store_true', help='only say what is to be done')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override all configurations')
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    configs = Configs(*args.configs) if args.configs else Configs()
    console = output_console()
    study = CameraStudy(
        args.out, args.strengths, args.shifts, args.tolerances, args.seeds, args.cfg_options, configs, console
    )
    study.run(args.dry_run)
    console.print(study.table())
    if args.dry_run:
        return
    console.print(f'table: {study.save()}', soft_wrap=True)
    if 0 in args.shifts:
        for strength in args.strengths:
            console.print(f'picture: {study.draw(strength)}', soft_wrap=True)


if __name__ == '__main__':
    sys.exit(main())
