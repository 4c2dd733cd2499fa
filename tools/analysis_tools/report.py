#!/usr/bin/env python
"""A page about one or more runs: one HTML file that needs no other and no network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmrs.apis.report import write_report
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # the network that was trained on the source first, which the others are compared with
  python tools/analysis_tools/report.py work_dirs/source_only work_dirs/dacs -o report.html

  # three seeds of each, shown together, with the choice that was made without labels
  python tools/analysis_tools/report.py work_dirs/runs/*/seed_* -o report.html \\
      --selection work_dirs/selection/selection.json

A section whose data are missing is left out, with the reason. Confusion matrices are those of metrics.json, which
tools/test.py CONFIG CHECKPOINT --work-dir RUN writes.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write a page about runs: differing settings, curves, scores over seeds, criteria without labels, '
        'areas, confusion matrices, maps with a slider, where maps disagree, domain gap, time and memory.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'runs', nargs='+', type=Path, metavar='RUN',
        help='work dir, or a checkpoint in it; the first is the reference, runs that differ in their seeds are a group',
    )  # fmt: skip
    parser.add_argument('-o', '--out', type=Path, required=True, metavar='FILE.html', help='page to write')
    parser.add_argument('--selection', type=Path, metavar='FILE', help='selection.json of select_checkpoint.py')
    parser.add_argument('--names', nargs='+', metavar='NAME', help='for the groups (default: their folders)')
    parser.add_argument(
        '--tiles', type=int, default=4, metavar='N',
        help='places that are shown, drawn by the seed, and as many of the largest disagreement (default: 4)',
    )  # fmt: skip
    parser.add_argument(
        '--number', type=int, default=40, metavar='N', help='images of the target that are mapped (default: 40)'
    )
    parser.add_argument('--size', type=int, default=512, metavar='PX', help='side of their crops (default: 512)')
    parser.add_argument('--seed', type=int, default=0, help='which images, and where in them (default: 0)')
    parser.add_argument('--device', help='cpu, cuda:1, ... (default: a GPU if there is one)')
    parser.add_argument('--overwrite', action='store_true', help='replace FILE.html where it exists')
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    for title, reason in write_report(**vars(args)).items():
        print(f'left out: {title}: {reason}')
    print(args.out)


if __name__ == '__main__':
    sys.exit(main())
