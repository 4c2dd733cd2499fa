#!/usr/bin/env python
"""Measure what it gains to choose the tiles that are labelled, against labelling random ones."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmrs.evaluation.tile_choice import CRITERIA
from mmrs.studies.tile_study import METHOD, TileStudy
from mmrs.studies.trials import PAIRS
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # what would be trained, and about how long does it take?
  python tools/analysis_tools/tile_study.py --dry-run

  # five random draws and each criterion, 5 and 10 tiles, on Dubai and GID-5
  python tools/analysis_tools/tile_study.py

  # a first look
  python tools/analysis_tools/tile_study.py --pairs dubai --criteria balanced --numbers 5 --draws 2

The same command goes on with the run that an interrupted one was at, and trains only what is not there yet. The network
that chooses has learned from the source alone. A third of the target's images is held out, the same for all: there
everything is scored, and nothing is chosen.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    names = [name for name in CRITERIA if name != 'random']
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--pairs',
        nargs='+',
        default=['dubai', 'gid5'],
        metavar='NAME',
        help=f'of {", ".join(PAIRS)} (default: dubai gid5)',
    )
    parser.add_argument(
        '--criteria', nargs='+', default=names, metavar='NAME', help=f'of {", ".join(names)} (default: all)'
    )
    parser.add_argument(
        '--numbers', nargs='+', type=int, default=[5, 10], metavar='K', help='of tiles to label (default: 5 10)'
    )
    parser.add_argument('--draws', type=int, default=5, metavar='N', help='random choices of each (default: 5)')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], metavar='K', help='of trainings (default: 0)')
    parser.add_argument(
        '--method', default=METHOD, metavar='NAME', help='what learns from the tiles (default: %(default)s)'
    )
    parser.add_argument(
        '--held-out', type=float, default=1 / 3, metavar='X', help='share of images for the scores (default: a third)'
    )
    parser.add_argument(
        '--downloads', type=Path, default=Path('downloads'), metavar='DIR', help='as of trials.py (default: downloads)'
    )
    parser.add_argument(
        '-o', '--out', type=Path, default=Path('work_dirs/tile_study'), metavar='DIR', help='folder for runs and tables'
    )
    parser.add_argument(
        '--device', help='of the network that chooses: cpu, cuda:1, ... (default: a GPU if there is one)'
    )
    parser.add_argument('--overwrite', action='store_true', help='train anew the runs whose settings have changed')
    parser.add_argument('--dry-run', action='store_true', help='say what would be trained and for how long')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override all configs, as in train.py'
    )
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    args = vars(parse_args(argv))
    dry_run = args.pop('dry_run')
    study = TileStudy(**args)
    if dry_run:
        study.estimate()
        return
    for path in study.run():
        if path.suffix == '.md':
            print(path.read_text(encoding='utf-8'))
        print(path)


if __name__ == '__main__':
    sys.exit(main())
