#!/usr/bin/env python
"""Draw what a configuration's pipeline yields."""

from __future__ import annotations

import argparse
import sys

from mmrs.install import install
from mmrs.utils.arguments import add_axes, add_cfg_options
from mmrs.utils.config import load_config
from mmrs.utils.errors import report_errors
from mmrs.visualization.browse import browse_dataset

EXAMPLES = """\
examples:
  # source and target as the model sees them, augmented
  python tools/analysis_tools/browse_dataset.py configs/st_dasegnet/potsdam2vaihingen.py -o pictures/train

  # the first test of a new data set: does every validation sample load?
  python tools/analysis_tools/browse_dataset.py my_config.py -o pictures/val --split val -n 100000 --dry-run
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw samples of a data set as they leave the pipeline: source and target side by side, labelled.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help="configuration file, or a method's, with --task and --network")
    add_axes(parser)
    parser.add_argument('-o', '--out-dir', required=True, metavar='DIR', help='folder for the pictures')
    parser.add_argument('-n', '--number', type=int, default=10, help='how many samples (default: 10)')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train', help='default: train')
    parser.add_argument('--dry-run', action='store_true', help='load and draw, but write nothing')
    parser.add_argument('--overwrite', action='store_true', help='write into a folder that is not empty')
    add_cfg_options(parser)
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    install()
    config = load_config(args.config, args.cfg_options, task=args.task, network=args.network, schedule=args.schedule)
    paths = browse_dataset(config, args.out_dir, args.number, args.split, args.dry_run, args.overwrite)
    print(f'{len(paths)} pictures {"not written (dry run)" if args.dry_run else "in " + args.out_dir}')


if __name__ == '__main__':
    sys.exit(main())
