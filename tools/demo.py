#!/usr/bin/env python
"""See the method work: synthetic data, training with and without adaptation, test, table and pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmrs.apis.demo import DATA, GAP, Demo
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # everything with one seed; a second call prints the same table within seconds
  python tools/demo.py

  # mean and spread of three seeds
  python tools/demo.py --seeds 0 1 2

  # a narrower gap between the two domains, in folders of its own
  python tools/demo.py --gap 0.5
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Make a synthetic Potsdam and Vaihingen, train source-only and ST-DASegNet on them, test both on '
        'Vaihingen, and print their scores. What is done already is not done again.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--gap', type=float, default=GAP, help='domain gap, 0 to 1.5 (default: %(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0], metavar='K', help='seeds (default: 0)')
    parser.add_argument(
        '-o', '--out', type=Path, metavar='DIR', help='folder for the results (default: work_dirs/demo[_gap_GAP])'
    )
    parser.add_argument(
        '--data', type=Path, metavar='DIR', help=f'folder for the synthetic pair (default: {DATA}[_gap_GAP])'
    )
    parser.add_argument('--overwrite', action='store_true', help='make anew what was made with other settings')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override both configs, as in train.py'
    )
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    suffix = '' if args.gap == GAP else f'_gap_{args.gap:g}'
    Demo(
        out=args.out or Path(f'work_dirs/demo{suffix}'),
        data=args.data or DATA.with_name(DATA.name + suffix),
        gap=args.gap,
        seeds=args.seeds,
        cfg_options=args.cfg_options,
        overwrite=args.overwrite,
    ).run()


if __name__ == '__main__':
    sys.exit(main())
