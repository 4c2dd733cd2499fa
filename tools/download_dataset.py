#!/usr/bin/env python
"""Download a data set, or say where to get it."""

from __future__ import annotations

import argparse
import sys

from mmrs.preparation.download import download
from mmrs.preparation.sources import SOURCES, describe
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # where a data set is, its terms, and which converter follows
  python tools/download_dataset.py potsdam

  # LoveDA: 9.6 GB; the same command continues after an interruption
  python tools/download_dataset.py loveda -o data/loveda

  # only what training and validation need
  python tools/download_dataset.py loveda -o data/loveda --splits train val
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Download a data set, check it and unpack it. Without -o: say where to get it.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('name', choices=SOURCES, metavar='NAME', help=f'one of {", ".join(SOURCES)}')
    parser.add_argument('-o', '--out', metavar='DIR', help='folder for the data set')
    parser.add_argument('--splits', nargs='+', metavar='SPLIT', help='only these archives: for LoveDA train, val, test')
    parser.add_argument('--keep-archives', action='store_true', help='keep the downloaded archives')
    parser.add_argument('--dry-run', action='store_true', help='only say what would be done')
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.out is None:
        print(describe(args.name))
    else:
        download(**vars(args))


if __name__ == '__main__':
    sys.exit(main())
