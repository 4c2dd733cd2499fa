#!/usr/bin/env python
"""Choose a checkpoint for a target without labels."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmrs.apis.selection import DEFAULT_CRITERIA, Selection, find_candidates
from mmrs.evaluation.label_free.choice import MARGIN
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # the network that was trained on the source first, then runs that adapted it
  python tools/analysis_tools/select_checkpoint.py work_dirs/source_only work_dirs/dacs work_dirs/mic

  # the checkpoints of a run, each also corrected to equal shares, and with the target's batch normalisation
  python tools/analysis_tools/select_checkpoint.py work_dirs/dacs --strengths 0.5 1 --statistics 0.5 1

Candidates are judged by crops of the training images, no labels of the target are read. What is known of a candidate is
kept in DIR, for the next call. The exit status is 1 if no candidate can be recommended.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Rank checkpoints by how consistent their maps of the target are, without its labels, and take '
        'another one than the least adapted only if it is clearly better and none of its classes has died.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'runs', nargs='+', type=Path, metavar='RUN',
        help='folder of a run, or a checkpoint in it; the last checkpoint of the first is the least adapted candidate',
    )  # fmt: skip
    parser.add_argument(
        '--criteria', nargs='+', default=list(DEFAULT_CRITERIA), metavar='NAME',
        help=f'the first chooses, the others are shown (default: {" ".join(DEFAULT_CRITERIA)})',
    )  # fmt: skip
    parser.add_argument(
        '--strengths', nargs='+', type=float, default=[], metavar='S',
        help='of corrections to equal shares that are candidates too, 0 to 1 (default: none)',
    )  # fmt: skip
    parser.add_argument(
        '--statistics', nargs='+', type=float, default=[], metavar='W',
        help="weights of the target's statistics of batch normalisation that are candidates too (default: none)",
    )  # fmt: skip
    parser.add_argument(
        '--margin', type=float, default=MARGIN, metavar='X', help=f'how much better is clearly (default: {MARGIN})'
    )
    parser.add_argument('--number', type=int, default=40, metavar='N', help='images of either domain (default: 40)')
    parser.add_argument('--size', type=int, default=512, metavar='PX', help='side of their crops (default: 512)')
    parser.add_argument('--seed', type=int, default=0, help='which images, and where in them (default: 0)')
    parser.add_argument('--device', help='cpu, cuda:1, ... (default: a GPU if there is one)')
    parser.add_argument(
        '-o', '--out', type=Path, default=Path('work_dirs/selection'), metavar='DIR',
        help='folder for table and records (default: work_dirs/selection)',
    )  # fmt: skip
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> int:
    args = vars(parse_args(argv))
    candidates = find_candidates(args.pop('runs'), args.pop('strengths'), args.pop('statistics'))
    selection = Selection(candidates, records=args.pop('out'), **args)
    judged = selection.judge()
    choice, reasons = selection.choose(judged)
    text = f'{selection.table(judged, choice, reasons)}\n{selection.sentence(judged, choice, reasons)}\n'
    selection.save(judged, choice, reasons, text)
    print(text, end='')
    return int(choice.verdict == 'none')


if __name__ == '__main__':
    sys.exit(main())
