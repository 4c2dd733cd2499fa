#!/usr/bin/env python
"""Recommend a checkpoint for images that nobody has labelled."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmrs.apis.recommendation import Recommendation
from mmrs.evaluation.label_free.choice import MARGIN
from mmrs.utils.arguments import seconds
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # what would be trained, how long does it take, and how much memory?
  python tools/recommend.py --task own_data --network segformer_efficientnet-lite0 --dry-run

  # train for two hours at most, then say which checkpoint to take; the same command goes on later
  python tools/recommend.py --task own_data --network segformer_efficientnet-lite0 --budget 2h

  # other methods, the cheap one first, and a schedule of one's own
  python tools/recommend.py --task dubai --network segformer_mit-b0 --schedule adamw_40k --methods dacs mic st_dasegnet

No label of the target is read. The exit status is 1 if no candidate can be recommended.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train a network on the labels of the source, then adapt it to the target, by cheap means before '
        'dear ones, as long as its maps of the target get more consistent. Recommend the first network unless another '
        "one's maps are clearly more consistent and none of its classes has died.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--task', required=True, metavar='NAME', help='data of both domains: a name or a file')
    parser.add_argument('--network', required=True, metavar='NAME', help='a name or a file, as of train.py')
    parser.add_argument('--schedule', metavar='NAME', help="a name or a file (default: the network's)")
    parser.add_argument(
        '--methods', nargs='+', default=['dacs'], metavar='NAME',
        help='folders of configs, or files of methods, in the order in which they are tried (default: dacs)',
    )  # fmt: skip
    parser.add_argument(
        '--taus', nargs='+', type=float, default=[0.0, 1.0], metavar='X',
        help='strengths of prior-neutral training; plain training is always tried (default: 0 1)',
    )  # fmt: skip
    parser.add_argument(
        '--strengths', nargs='*', type=float, default=[0.5, 1.0], metavar='X',
        help='of corrections to equal shares, which cost no training (default: 0.5 1)',
    )  # fmt: skip
    parser.add_argument(
        '--statistics', nargs='*', type=float, default=[0.5, 1.0], metavar='X',
        help="weights of the target's statistics of batch normalisation, which cost none either (default: 0.5 1)",
    )  # fmt: skip
    parser.add_argument('--budget', type=seconds, metavar='TIME', help='for trainings: 2h, 90m (default: no limit)')
    parser.add_argument(
        '--patience', type=int, default=2, metavar='N',
        help='end after as many trainings without a more consistent candidate (default: 2)',
    )  # fmt: skip
    parser.add_argument('--seed', type=int, default=0, help='of trainings, and of the images looked at (default: 0)')
    parser.add_argument(
        '--margin', type=float, default=MARGIN, metavar='X', help=f'how much better is clearly (default: {MARGIN})'
    )
    parser.add_argument('--number', type=int, default=40, metavar='N', help='images to look at (default: 40)')
    parser.add_argument('--size', type=int, default=512, metavar='PX', help='side of their crops (default: 512)')
    parser.add_argument('--device', help='of predictions: cpu, cuda:1, ... (default: a GPU if there is one)')
    parser.add_argument(
        '-o', '--out', type=Path, default=Path('work_dirs/recommendation'), metavar='DIR',
        help='folder for runs and results (default: work_dirs/recommendation)',
    )  # fmt: skip
    parser.add_argument('--overwrite', action='store_true', help='train anew the runs whose settings have changed')
    parser.add_argument(
        '--dry-run', action='store_true', help='train a few iterations of each, and say what all would take'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override all configs, as in train.py'
    )
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> int:
    args = vars(parse_args(argv))
    dry_run = args.pop('dry_run')
    recommendation = Recommendation(**args)
    if dry_run:
        recommendation.estimate()
        return 0
    recommended = recommendation.run()
    print(recommended.text, end='')
    return int(recommended.choice.verdict == 'none')


if __name__ == '__main__':
    sys.exit(main())
