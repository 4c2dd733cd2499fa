#!/usr/bin/env python
"""Measure how well criteria without labels choose among the runs of the trials."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmrs.studies.selection_study import SelectionStudy
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # all runs that trials.py has left, which keep their checkpoints with
  #   --cfg-options default_hooks.checkpoint.interval=75 default_hooks.checkpoint.max_keep_ckpts=8
  python tools/analysis_tools/selection_study.py --pairs gid5 dubai

  # a first look
  python tools/analysis_tools/selection_study.py --pairs gid5 --seeds 0 --number 20

What is known of a checkpoint is kept: the same command goes on where it was interrupted.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Judge all checkpoints of the trials, and their variants, without labels and with them.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--runs', type=Path, default=Path('work_dirs/trials'), metavar='DIR', help='of trials.py')
    parser.add_argument('--pairs', nargs='+', default=['gid5', 'dubai'], metavar='NAME', help='(default: gid5 dubai)')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], metavar='K', help='(default: 0 1 2)')
    parser.add_argument('--number', type=int, default=40, metavar='N', help='images for criteria (default: 40)')
    parser.add_argument(
        '-o',
        '--out',
        type=Path,
        default=Path('work_dirs/selection_study'),
        metavar='DIR',
        help='for tables and records',
    )
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    print(SelectionStudy(**vars(parse_args(argv))).run(), end='')


if __name__ == '__main__':
    sys.exit(main())
