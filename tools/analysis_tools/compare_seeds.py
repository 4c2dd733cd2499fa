#!/usr/bin/env python
"""Train configurations with several seeds and compare their last iterations."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmrs.apis.compare import Entry, compare, plot_comparison
from mmrs.apis.comparison import output_console
from mmrs.utils.arguments import add_axes
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # adaptation against source-only training on the synthetic pair, each adaptation from the source-only run of its seed
  python tools/analysis_tools/compare_seeds.py configs/source_only/demo.py \\
      configs/st_dasegnet/demo.py:source_only_demo/iter_400.pth --seeds 0 1 2 -o work_dirs/comparison

  # what would be trained, and what is done already?
  python tools/analysis_tools/compare_seeds.py configs/st_dasegnet/dubai.py --seeds 0 1 2 -o work_dirs/dubai --dry-run

  # shorter runs, with the mean curves of each configuration
  python tools/analysis_tools/compare_seeds.py configs/source_only/dubai.py configs/st_dasegnet/dubai.py \\
      --seeds 0 1 -o work_dirs/short --curves work_dirs/short/curves.png --cfg-options train_cfg.max_iters=100

  # methods on a task and a network, without files of their own
  python tools/analysis_tools/compare_seeds.py configs/source_only/method.py configs/st_dasegnet/method.py \\
      --task trial_dubai --network segformer_efficientnet-lite0 -o work_dirs/dubai_lite0

The same command goes on where an interrupted one stopped. Scores are those of the last iteration, never of the best
one: to choose by target scores takes target labels.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train configurations with several seeds, one run after the other, and print mean and spread of '
        'their scores at the last iteration.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'configs',
        nargs='+',
        metavar='CONFIG[:CHECKPOINT]',
        help='configuration file, and what to start from: a file, or RUN/FILE for FILE of the run with the same seed '
        'of an earlier configuration; RUN is FOLDER_NAME for configs/FOLDER/NAME.py, and with --task and --network '
        'FOLDER_NAME_TASK_NETWORK',
    )
    add_axes(parser)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='K', help='seeds (default: 0 1 2)')
    parser.add_argument(
        '-o', '--out', type=Path, required=True, metavar='DIR', help='folder for runs, comparison.json, comparison.md'
    )
    parser.add_argument('--curves', type=Path, metavar='FIG', help='draw the curves (an earlier picture is replaced)')
    parser.add_argument('--overwrite', action='store_true', help='train anew the runs whose settings have changed')
    parser.add_argument('--dry-run', action='store_true', help='say what would be trained, and train nothing')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override all configs, as in train.py'
    )
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    axes = dict(task=args.task, network=args.network, schedule=args.schedule)
    entries = [Entry.parse(text, args.cfg_options, **axes) for text in args.configs]
    comparison = compare(entries, args.seeds, args.out, args.dry_run, args.overwrite)
    if args.dry_run:
        return 0
    console = output_console()
    console.print(comparison.table())
    for note in comparison.notes():
        console.print(note, highlight=False)
    for path in comparison.save(args.out):
        console.print(str(path), highlight=False, soft_wrap=True)
    if args.curves and any(comparison.values.values()):
        plot_comparison(comparison, args.out, args.curves)
        console.print(str(args.curves), highlight=False, soft_wrap=True)
    return 1 if comparison.failed else 0


if __name__ == '__main__':
    sys.exit(main())
