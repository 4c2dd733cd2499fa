#!/usr/bin/env python
"""Mean, standard deviation and quantiles of the bands of each domain."""

from __future__ import annotations

import argparse
import sys

from mmrs.apis.comparison import output_console
from mmrs.apis.statistics import domain_statistics, preprocessor_settings, statistics_table
from mmrs.utils.errors import report_errors
from mmrs.utils.files import write_json

EXAMPLES = """\
examples:
  # the training images of both domains, with the bands that the configuration loads
  python tools/analysis_tools/band_statistics.py configs/st_dasegnet/own_data.py

  # two folders, source and target, of which bands 4, 3 and 2 are used
  python tools/analysis_tools/band_statistics.py data/source data/target --bands 4 3 2 -o statistics.json

The numbers of each file are kept in ~/.cache/mmrs (or $MMRS_CACHE), and only files that have changed are read again.
Instead of pasting the numbers, a configuration may have mean='auto', std='auto' and the like in its data_preprocessor.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Statistics of the bands of each domain, over the pixels that hold data, without any label.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'paths',
        nargs='+',
        metavar='CONFIG_OR_PATH',
        help='a configuration, or folders: of images, or in the standard layout (then img_dir/train); the first of two '
        'is taken for the source, the second for the target',
    )
    parser.add_argument(
        '--bands', type=int, nargs='+', metavar='N', help="numbers from 1 (default: the configuration's, or all)"
    )
    parser.add_argument('-o', '--out', metavar='FILE.json', help='write the numbers there too')
    parser.add_argument('--workers', type=int, metavar='N', help='number of threads (default: one per processor)')
    parser.add_argument('--no-cache', action='store_true', help='read every file, and keep nothing')
    parser.add_argument('--overwrite', action='store_true', help='replace FILE.json where it exists')
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    domains = domain_statistics(args.paths, args.bands, args.workers, cache=not args.no_cache)
    console = output_console()
    console.print(statistics_table(domains))
    if args.out:
        write_json({name: statistics.as_dict() for name, statistics in domains.items()}, args.out, args.overwrite)
        console.print(args.out, highlight=False, soft_wrap=True)
    if len(domains) <= 2:
        settings = ', '.join(f'{name}={values}' for name, values in preprocessor_settings(domains).items())
        console.print(f'data_preprocessor = dict({settings})', highlight=False, soft_wrap=True, markup=False)


if __name__ == '__main__':
    sys.exit(main())
