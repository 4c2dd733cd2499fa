"""Cut the ISPRS Potsdam data set into clips: OUT/img_dir/{train,val} and OUT/ann_dir/{train,val}."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mmrs.preparation.converters.cli import convert_isprs
from mmrs.preparation.converters.isprs import POTSDAM
from mmrs.utils.errors import report_errors

EXAMPLES = """examples:
  # the archives as downloaded (3_Ortho_IRRG.zip, 5_Labels_all_noBoundary.zip): 2904 training, 1694 validation clips
  python tools/dataset_converters/potsdam.py downloads/Potsdam -o data/potsdam_irrg
  # the RGB images (2_Ortho_RGB.zip)
  python tools/dataset_converters/potsdam.py downloads/Potsdam -o data/potsdam_rgb --bands rgb
  # the clips of MMSegmentation's converter: 3456 and 2016
  python tools/dataset_converters/potsdam.py downloads/Potsdam -o data/potsdam_irrg_standard --split standard
  # everything up to the edge, label colours slightly off allowed, only counting
  python tools/dataset_converters/potsdam.py downloads/Potsdam -o data/potsdam_irrg --edge shift --tolerance 9 --dry-run
"""


@report_errors
def main(argv: Sequence[str] | None = None) -> None:
    convert_isprs(argv, POTSDAM, __doc__, EXAMPLES, bands=('irrg', 'rgb'))


if __name__ == '__main__':
    sys.exit(main())
