#!/usr/bin/env python
"""Measure what a consensus of careless annotators is worth, on masks that are known."""

from __future__ import annotations

import argparse
import sys

from mmrs.studies.consensus_study import consensus_study
from mmrs.utils.arguments import add_overwrite
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  python tools/analysis_tools/consensus_study.py data/dubai_target/img_dir/val data/dubai_target/ann_dir/val \\
      --classes data/dubai_target/classes.yaml --every 3 --size 400 -o work_dirs/consensus_study
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Corrupt masks in three ways (borders moved, blobs of any class, classes exchanged), make one mask '
        'of the three by tools/consensus.py, and score it beside the majority vote.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('images', metavar='IMAGES', help='folder of images')
    parser.add_argument('masks', metavar='MASKS', help='folder of their masks, files of the same names')
    parser.add_argument('--classes', required=True, metavar='FILE', help='table of the classes')
    parser.add_argument('-o', '--out', required=True, metavar='DIR', help='folder for study.json and study.md')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='N', help='default: 0 1 2')
    parser.add_argument('--every', type=int, default=1, metavar='N', help='each n-th image only')
    parser.add_argument('--size', type=int, default=512, metavar='PIXELS', help='part of each image (default: 512)')
    add_overwrite(parser, 'write into a folder that is not empty')
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> int:
    print(consensus_study(**vars(parse_args(argv))), end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
