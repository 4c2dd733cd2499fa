"""Cut GID-5 (GF-2 satellite images) into clips: OUT/img_dir/{train,val} and OUT/ann_dir/{train,val}."""

import sys

from mmrs.preparation.converters.cli import (
    add_random_splits,
    clip_options,
    convert_clips,
    published_parser,
    random_splits,
)
from mmrs.preparation.converters.gid import BANDS, GID, SCALINGS, GIDConversion

EXAMPLES = """examples:
  # red, green, blue; 70 % of the images to train, 30 % to val
  python tools/dataset_converters/gid.py downloads/GID -o data/gid
  # all four bands, 16-bit images as they are
  python tools/dataset_converters/gid.py downloads/GID -o data/gid_nirrgb --bands nirrgb --scaling none
  # the published lists of clips
  python tools/dataset_converters/gid.py downloads/GID -o data/gid_lists --split-list train=train.txt val=val.txt
"""


def main() -> int:
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
    args = parser.parse_args()

    def make() -> GIDConversion:
        options = dict(bands=args.bands, scaling=args.scaling, **clip_options(args))
        return GIDConversion(GID, args.path, args.out, splits=random_splits(args), **options)

    return convert_clips(make, args)


if __name__ == '__main__':
    sys.exit(main())
