"""Convert LandCoverNet's Sentinel-2 chips: OUT/img_dir/{train,val} and OUT/ann_dir/{train,val}."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mmrs.preparation.converters.cli import (
    add_split_lists,
    published_parser,
    split_arguments,
    split_lists,
)
from mmrs.preparation.converters.landcovernet import RGB, SCALINGS, TILES, LandCoverNetConversion
from mmrs.preparation.converters.splits import FixedSplits, Splits
from mmrs.utils.errors import report_errors

EXAMPLES = """examples:
  # red, green, blue in 8 bits; training tiles 35JNN, 35JQG, 35KKP, validation tiles 35LMC, 35MNT
  python tools/dataset_converters/landcovernet.py downloads/LandCoverNet -o data/landcovernet
  # brighter, and only labels that the annotators agreed on
  python tools/dataset_converters/landcovernet.py downloads/LandCoverNet -o data/sure --bounds 0 2000 --min-consensus 60
  # near infrared too, 16 bits as they are
  python tools/dataset_converters/landcovernet.py downloads/LandCoverNet -o data/nir --scaling none \\
      --bands B04 B03 B02 B08
  # the same chips in two seasons, under the same names: pairs
  python tools/dataset_converters/landcovernet.py downloads/LandCoverNet -o data/landcovernet_january --date 20180115
  python tools/dataset_converters/landcovernet.py downloads/LandCoverNet -o data/landcovernet_august --date 20180815
  # other tiles
  python tools/dataset_converters/landcovernet.py downloads/LandCoverNet -o data/two --split train=35JNN val=35LMC
"""


@report_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = published_parser(__doc__, EXAMPLES)
    parser.add_argument(
        '--bands', nargs='+', default=RGB, metavar='BAND', help=f'bands in this order (default: {" ".join(RGB)})'
    )
    parser.add_argument(
        '--scaling',
        choices=SCALINGS,
        default=SCALINGS[0],
        help='to 8 bits between fixed reflectances, between the 2nd and 98th percentile of each tile, or between the '
        'extremes of each image; or keep 16 bits (default: %(default)s)',
    )
    parser.add_argument(
        '--bounds',
        nargs=2,
        type=float,
        default=(0, 3000),
        metavar=('LOW', 'HIGH'),
        help='values that become 0 and 255 (reflectance); 10000 is a reflectance of 1 (default: 0 3000)',
    )
    parser.add_argument(
        '--min-consensus', type=float, default=0, metavar='N', help='ignore labels of a lower score, 0 to 100'
    )
    parser.add_argument(
        '--date', metavar='YYYYMMDD', help='of each chip only the image nearest to this date, named after the chip'
    )
    parser.add_argument(
        '--max-days', type=int, default=45, metavar='N', help='how far from it the image may be (default: %(default)s)'
    )
    parser.add_argument(
        '--split', nargs='+', action='extend', metavar='NAME=TILE,...', help='the tiles of each split (default: above)'
    )
    add_split_lists(parser)
    args = parser.parse_args(argv)
    splits: Splits = FixedSplits(TILES)
    if args.split_list:
        splits = split_lists(args)
    elif args.split:
        tiles = split_arguments('--split', 'NAME=TILE,...', args.split)
        splits = FixedSplits({name: tuple(text.split(',')) for name, text in tiles.items()})
    conversion = LandCoverNetConversion(
        args.path,
        args.out,
        bands=args.bands,
        scaling=args.scaling,
        bounds=tuple(args.bounds),
        min_consensus=args.min_consensus,
        splits=splits,
        date=args.date,
        max_days=args.max_days,
        allow_missing=args.allow_missing,
    )
    conversion.run(args.workers, args.dry_run, args.overwrite)


if __name__ == '__main__':
    sys.exit(main())
