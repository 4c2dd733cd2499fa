"""Cut a city of CITY-OSM into clips: OUT/img_dir/{train,val} and OUT/ann_dir/{train,val}."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mmrs.preparation.converters.city_osm import CITIES, CityConversion, city_archive
from mmrs.preparation.converters.cli import (
    add_random_splits,
    clip_options,
    published_parser,
    random_splits,
)
from mmrs.utils.errors import report_errors

EXAMPLES = """examples:
  # 70 % of the images to train, 30 % to val
  python tools/dataset_converters/city_osm.py downloads/CITY-OSM --city paris -o data/city_osm_paris
  python tools/dataset_converters/city_osm.py downloads/CITY-OSM --city chicago -o data/city_osm_chicago
  # the published lists of clips
  python tools/dataset_converters/city_osm.py downloads/CITY-OSM --city paris -o data/paris_lists \\
      --split-list train=train.txt val=val.txt
"""


@report_errors
def main(argv: Sequence[str] | None = None) -> None:
    parser = published_parser(__doc__, EXAMPLES, clip_size=512)
    add_random_splits(parser)
    parser.add_argument('--city', choices=CITIES, required=True, help='which city to convert')
    args = parser.parse_args(argv)
    options = dict(splits=random_splits(args), **clip_options(args))
    conversion = CityConversion(city_archive(args.city), args.path, args.out, **options)
    conversion.run(args.workers, args.dry_run, args.overwrite)


if __name__ == '__main__':
    sys.exit(main())
