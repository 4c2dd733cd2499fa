#!/usr/bin/env python
"""Evaluate a checkpoint."""

from __future__ import annotations

import argparse
import sys

from mmrs.apis import evaluate
from mmrs.utils.arguments import add_cfg_options, add_class_prior, add_launcher, add_trust
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # scores and confusion matrix
  python tools/test.py configs/st_dasegnet/potsdam2vaihingen.py work_dirs/potsdam2vaihingen/iter_40000.pth

  # with flips and three sizes; label maps and pictures too
  python tools/test.py configs/st_dasegnet/potsdam2vaihingen.py work_dirs/potsdam2vaihingen/iter_40000.pth \\
      --tta --out predictions/vaihingen --show-dir pictures/vaihingen

  # LoveDA: a submission for the test server, predictions/loveda/submission.zip
  python tools/test.py configs/st_dasegnet/loveda-rural2urban.py work_dirs/loveda-rural2urban/iter_40000.pth \\
      --format-only --out predictions/loveda

  # on two GPUs
  tools/dist_test.sh configs/st_dasegnet/potsdam2vaihingen.py work_dirs/potsdam2vaihingen/iter_40000.pth 2
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Evaluate a checkpoint: IoU, F1, accuracy and precision of each class, their means, overall '
        'accuracy, confusion matrix.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='configuration file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder for log and scores (default: work_dirs/NAME-OF-THE-CONFIG)')
    parser.add_argument(
        '--out',
        metavar='DIR',
        help='write the predicted label maps: GeoTIFF where the image is georeferenced, PNG elsewhere',
    )
    parser.add_argument('--show-dir', metavar='DIR', help='write pictures of image, ground truth and prediction')
    parser.add_argument('--show-interval', type=int, default=1, metavar='N', help='a picture of every N-th image only')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument(
        '--format-only',
        action='store_true',
        help='no labels and no scores: write a submission for the test server of the data set to --out',
    )
    parser.add_argument('--metrics', metavar='FILE', help='write the scores to this file (default: in the work dir)')
    parser.add_argument('--overwrite', action='store_true', help='write into folders that are not empty')
    add_class_prior(parser)
    add_trust(parser)
    add_cfg_options(parser)
    add_launcher(parser)
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    evaluate(**vars(parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main())
