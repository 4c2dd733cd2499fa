"""Convert images and colour or id masks, described by a YAML file, to the standard layout.

The YAML file names the classes with their colours or ids and says where images and masks are (docs/datasets.md).
All files are checked before the first is written: masks with unknown colours stop the conversion, pairs that cannot be
used are left out and listed in OUT/report.json.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mmrs.preparation.converters.cli import converter_parser
from mmrs.preparation.converters.color_masks import Conversion
from mmrs.preparation.converters.recipe import Split, load_recipe
from mmrs.utils.errors import report_errors

EXAMPLES = """examples:
  # see which colours the masks hold and what would come out
  python tools/dataset_converters/color_masks.py downloads/dubai dubai.yaml -o data/dubai_source --dry-run
  # the tiles of one domain; splits on the command line go before those in the file
  python tools/dataset_converters/color_masks.py downloads/dubai dubai.yaml -o data/dubai_target \\
      --split 'val=Tile 4,Tile 5,Tile 6'
  # 60 % of the images of each tile for training, the others for validation
  python tools/dataset_converters/color_masks.py downloads/dubai dubai.yaml -o data/dubai_held_out \\
      --split 'train=Tile 4,Tile 5,Tile 6:0.6' --split 'val=Tile 4,Tile 5,Tile 6:0.4'
  # large rasters, in clips
  python tools/dataset_converters/color_masks.py survey survey.yaml -o data/survey --clip-size 512
"""


@report_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = converter_parser(__doc__, EXAMPLES, edge='shift')
    parser.add_argument('recipe', type=Path, metavar='YAML', help='the description of the data')
    parser.add_argument(
        '--clip-size', type=int, metavar='N', help='cut clips with sides of N pixels (default: whole images)'
    )
    parser.add_argument(
        '--split',
        action='append',
        metavar='NAME=GROUP,...[:SHARE]',
        help="a split and its groups (`*` fits any text), or its share of each group's images",
    )
    parser.add_argument('--seed', type=int, help="seed of the dealing by shares (default: the file's, or 0)")
    parser.add_argument('--allow-overlap', action='store_true', help='let an image belong to several splits')
    args = parser.parse_args(argv)
    splits = dict(map(Split.parse_argument, args.split)) if args.split else None
    Conversion(
        load_recipe(args.recipe, splits, args.seed, args.allow_overlap),
        args.path,
        args.out,
        clip_size=args.clip_size,
        stride=args.stride,
        edge=args.edge,
        tolerance=args.tolerance,
    ).run(args.workers, args.dry_run, args.overwrite)


if __name__ == '__main__':
    sys.exit(main())
