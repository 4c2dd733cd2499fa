"""Make the demo pair: synthetic Potsdam and Vaihingen scenes in the ISPRS archives' own layout."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmrs.preparation.synthetic.archives import (
    check_replaceable,
    describe,
    is_current,
    plan_tiles,
    write_isprs_archives,
)
from mmrs.utils.arguments import add_overwrite
from mmrs.utils.errors import report_errors

EXAMPLES = """examples:
  %(prog)s -o data/synthetic                      # the medium gap
  %(prog)s -o data/wide --gap 1 --seed 3          # the widest gap, other scenes
  %(prog)s -o data/tiny --potsdam-tiles 1 1 --vaihingen-areas 1 1 --potsdam-size 640 --vaihingen-size 512
  tools/dataset_converters/potsdam.py data/synthetic -o data/potsdam_irrg     # then convert as if it were real
"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('-o', '--out', required=True, type=Path, help='folder of the archives')
    parser.add_argument('--gap', type=float, default=0.5, help='domain gap, 0 to 1.5 (default: %(default)s, medium)')
    parser.add_argument('--seed', type=int, default=0, help='seed of every random choice (default: %(default)s)')
    parser.add_argument(
        '--potsdam-tiles', type=int, nargs=2, default=(7, 3), metavar=('TRAIN', 'VAL'), help='tiles (default: 7 3)'
    )
    parser.add_argument(
        '--vaihingen-areas', type=int, nargs=2, default=(8, 4), metavar=('TRAIN', 'VAL'), help='areas (default: 8 4)'
    )
    parser.add_argument(
        '--potsdam-size', type=int, default=1536, metavar='PX', help='tile size at 5 cm (default: %(default)s)'
    )
    parser.add_argument(
        '--vaihingen-size', type=int, default=1024, metavar='PX', help='area size at 9 cm (default: %(default)s)'
    )
    parser.add_argument('--workers', type=int, help='processes (default: one per core, at most 8)')
    add_overwrite(parser, 'replace another synthetic pair in the folder')
    parser.add_argument('--dry-run', action='store_true', help='say what would be written, write nothing')
    return parser.parse_args(argv)


@report_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    pair = dict(
        gap=args.gap,
        seed=args.seed,
        potsdam_tiles=tuple(args.potsdam_tiles),
        vaihingen_areas=tuple(args.vaihingen_areas),
        potsdam_size=args.potsdam_size,
        vaihingen_size=args.vaihingen_size,
    )
    if args.dry_run:
        tiles = plan_tiles(**pair)
        manifest = describe(tiles, args.gap, args.seed)
        if is_current(args.out, manifest):
            print(f'{args.out} already holds this pair: nothing to do')
            return
        check_replaceable(args.out, manifest, args.overwrite)
        for tile in tiles:
            for archive, member in tile.members():
                print(f'{args.out / archive}: {member} ({tile.subset}, {tile.size} x {tile.size} px)')
        return
    written = write_isprs_archives(args.out, **pair, workers=args.workers, overwrite=args.overwrite)
    print(f'{args.out}: {"written" if written else "already holds this pair"}')


if __name__ == '__main__':
    sys.exit(main())
