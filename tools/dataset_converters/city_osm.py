"""Cut a city of CITY-OSM into clips: OUT/img_dir/{train,val} and OUT/ann_dir/{train,val}."""

import sys

from mmrs.preparation.converters.city_osm import CITIES, CityConversion, city_archive
from mmrs.preparation.converters.cli import (
    add_random_splits,
    clip_options,
    convert_clips,
    published_parser,
    random_splits,
)

EXAMPLES = """examples:
  # 70 % of the images to train, 30 % to val
  python tools/dataset_converters/city_osm.py downloads/CITY-OSM --city paris -o data/city_osm_paris
  python tools/dataset_converters/city_osm.py downloads/CITY-OSM --city chicago -o data/city_osm_chicago
  # the published lists of clips
  python tools/dataset_converters/city_osm.py downloads/CITY-OSM --city paris -o data/paris_lists \\
      --split-list train=train.txt val=val.txt
"""


def main() -> int:
    parser = published_parser(__doc__, EXAMPLES, clip_size=512)
    add_random_splits(parser)
    parser.add_argument('--city', choices=CITIES, required=True, help='which city to convert')
    args = parser.parse_args()

    def make() -> CityConversion:
        archive = city_archive(args.city)
        return CityConversion(archive, args.path, args.out, splits=random_splits(args), **clip_options(args))

    return convert_clips(make, args)


if __name__ == '__main__':
    sys.exit(main())
