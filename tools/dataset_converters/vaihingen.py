"""Cut the ISPRS Vaihingen data set into clips: OUT/img_dir/{train,val} and OUT/ann_dir/{train,val}."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mmrs.preparation.converters.cli import convert_isprs
from mmrs.preparation.converters.isprs import VAIHINGEN
from mmrs.utils.errors import report_errors

EXAMPLES = """examples:
  # the archives as downloaded (ISPRS_semantic_labeling_Vaihingen.zip and
  # ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip): 1296 training, 440 validation clips
  python tools/dataset_converters/vaihingen.py downloads/Vaihingen -o data/vaihingen
  # the areas and clips of MMSegmentation's converter: 344 and 398
  python tools/dataset_converters/vaihingen.py downloads/Vaihingen -o data/vaihingen_standard --split standard
  # without overlap, up to the edge, labels without eroded boundaries
  python tools/dataset_converters/vaihingen.py downloads/Vaihingen -o data/full --stride 512 --edge shift --labels full
"""


@report_errors
def main(argv: Sequence[str] | None = None) -> None:
    convert_isprs(argv, VAIHINGEN, __doc__, EXAMPLES)


if __name__ == '__main__':
    sys.exit(main())
