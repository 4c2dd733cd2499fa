"""Cut GID-5 (GF-2 satellite images) into clips: OUT/img_dir/{train,val} and OUT/ann_dir/{train,val}."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mmrs.preparation.converters.cli import (
    add_random_splits,
    clip_options,
    published_parser,
    random_splits,
)
from mmrs.preparation.converters.gid import BANDS, GID, SCALINGS, GIDConversion
from mmrs.utils.errors import report_errors

EXAMPLES = """examples:
  # red, green, blue; 70 % of the images to train, 30 % to val
  python tools/dataset_converters/gid.py downloads/GID -o data/gid
  # all four bands, 16-bit images as they are
  python tools/dataset_converters/gid.py downloads/GID -o data/gid_nirrgb --bands nirrgb --scaling none
  # the published lists of clips
  python tools/dataset_converters/gid.py downloads/GID -o data/gid_lists --split-list train=train.txt val=val.txt
"""


@report_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = published_parser(__doc__, EXAMPLES, GID.clip_size)
    add_random_splits(parser)
    parser.add_argument('--bands', choices=tuple(BANDS), default='rgb', help='bands to take (default: %(default)s)')
    parser.add_argument(
        '--scaling',
        choices=SCALINGS,
        default=SCALINGS[0],
        help='16-bit images: stretch each to 8 bits between the 2nd and 98th percentile of its bands, or keep them '
        '(default: %(default)s)',
    )
    args = parser.parse_args(argv)
    options = dict(bands=args.bands, scaling=args.scaling, splits=random_splits(args), **clip_options(args))
    GIDConversion(GID, args.path, args.out, **options).run(args.workers, args.dry_run, args.overwrite)


if __name__ == '__main__':
    sys.exit(main())
