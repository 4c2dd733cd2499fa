#!/usr/bin/env python
"""Draw the curves of training runs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mmrs.utils.errors import ConfigError, report_errors
from mmrs.visualization.curves import plot_curves, read_scalars

EXAMPLES = """\
examples:
  # loss, scores and share of confident pixels of two runs
  python tools/analysis_tools/plot_curves.py work_dirs/source_only work_dirs/st_dasegnet -o curves.png

  # every adversarial loss of one run, unsmoothed
  python tools/analysis_tools/plot_curves.py work_dirs/st_dasegnet -o gan.pdf --keys 'loss_adv*' 'loss_disc*' --smooth 1

  # what has been logged?
  python tools/analysis_tools/plot_curves.py work_dirs/st_dasegnet --list
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw losses and scores of training runs, all runs in one picture.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('runs', nargs='+', metavar='WORK_DIR_OR_JSON', help='work dirs, or scalars.json files')
    parser.add_argument('-o', '--out', metavar='FIG', help='picture to write (.png, .pdf, .svg)')
    parser.add_argument('--keys', nargs='+', metavar='KEY', help="what to draw; patterns such as 'decode.*' are fine")
    parser.add_argument('--names', nargs='+', metavar='NAME', help='a name for each run (default: its folder)')
    parser.add_argument('--smooth', type=int, metavar='N', help='mean over N logged values (default: 1/20 of them)')
    parser.add_argument('--title', default='', help='title of the picture')
    parser.add_argument('--list', action='store_true', help='print what has been logged, and draw nothing')
    parser.add_argument('--overwrite', action='store_true', help='replace the picture where it exists')
    args = parser.parse_args(argv)
    if not args.list and not args.out:
        parser.error('-o FIG is needed')
    return args


def run_names(runs: list[str]) -> list[str]:
    """Short names of runs: the part of their paths behind what they have in common."""
    paths = [Path(run).resolve() for run in runs]
    # WORK_DIR/TIME/vis_data/scalars.json
    folders = [path.parents[2] if path.suffix == '.json' and len(path.parents) > 2 else path for path in paths]
    common = os.path.commonpath([folder.parent for folder in folders])
    return [os.path.relpath(folder, common) for folder in folders]


@report_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    names = args.names or run_names(args.runs)
    if len(names) != len(args.runs):
        raise ConfigError(f'--names has {len(names)} names for {len(args.runs)} runs')
    if len(set(names)) != len(names):
        raise ConfigError(f'two runs have the same name ({", ".join(names)}): give others with --names')
    runs = {name: read_scalars(run) for name, run in zip(names, args.runs)}
    if args.list:
        for name, curves in runs.items():
            print(f'{name}: {", ".join(f"{key} ({len(steps)})" for key, (steps, _) in curves.items())}')
        return
    keys = plot_curves(runs, args.out, args.keys, args.smooth, args.title, args.overwrite)
    print(f'{args.out}: {", ".join(keys)} of {", ".join(names)}')


if __name__ == '__main__':
    sys.exit(main())
