"""Make synthetic pairs: OUT/source and OUT/target show the same towns in two seasons, through two cameras."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmrs.preparation.synthetic.pairs import write_pairs
from mmrs.utils.arguments import add_overwrite
from mmrs.utils.errors import report_errors

EXAMPLES = """examples:
  %(prog)s -o data/synthetic_pairs                       # what configs/feature_regression/demo.py reads
  %(prog)s -o data/wide --gap 1 --seed 3                 # a wider gap, other towns
  %(prog)s -o data/tiny --towns 4 2 2 --size 256
"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('-o', '--out', required=True, type=Path, help='folder of the two data sets')
    parser.add_argument('--gap', type=float, default=0.75, help='domain gap, 0 to 1.5 (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of every random choice (default: %(default)s)')
    parser.add_argument(
        '--towns',
        type=int,
        nargs=3,
        default=(48, 8, 16),
        metavar=('TRAIN', 'VAL', 'TEST'),
        help='number of pairs (default: 48 8 16)',
    )
    parser.add_argument(
        '--size', type=int, default=512, metavar='PX', help='image size at 12.5 cm (default: %(default)s)'
    )
    parser.add_argument('--workers', type=int, help='processes (default: one per core, at most 8)')
    add_overwrite(parser, 'replace pairs of other settings')
    return parser.parse_args(argv)


@report_errors
def main(argv: Sequence[str] | None = None) -> None:
    write_pairs(**vars(parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main())
