#!/usr/bin/env python
"""Probe the features of a backbone."""

from __future__ import annotations

import argparse
import sys

from mmrs.apis.calibration import SPLITS
from mmrs.apis.comparison import markdown_table
from mmrs.apis.probe import probe
from mmrs.utils.arguments import add_cfg_options, add_trust
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # a pre-training against the start that it had, by 10 labelled images
  python tools/analysis_tools/probe.py configs/source_only/method.py --task landsat2sentinel --network segformer_r18 \\
      --checkpoints random work_dirs/contrast/iter_4000.pth
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train a linear classifier on frozen features of some labelled images and score it on others: what '
        'a pre-training is worth, in seconds. It tells starts apart, and says nothing of how well a network does that '
        'is trained on from there.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='configuration with labels: a file, or a method with --task and --network')
    parser.add_argument('--task', metavar='NAME', help='with the file of a method: the data')
    parser.add_argument('--network', metavar='NAME', help='likewise: the network')
    parser.add_argument(
        '--checkpoints', nargs='+', default=['random'], metavar='FILE',
        help="checkpoints whose backbone is the network's; random: a random start, init: the weights that the "
        'configuration names (default: random)',
    )  # fmt: skip
    parser.add_argument(
        '--data', choices=SPLITS, default='val',
        help='whose labelled images; train: of two domains, the source (default: %(default)s)',
    )  # fmt: skip
    parser.add_argument(
        '--tiles', type=int, default=10, metavar='N', help='images to learn from (default: %(default)s)'
    )
    parser.add_argument('--number', type=int, default=50, metavar='N', help='images to score on (default: %(default)s)')
    parser.add_argument('--pixels', type=int, default=1000, metavar='N', help='of each image (default: %(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0], metavar='N', help='which images (default: 0)')
    parser.add_argument('--device', help='cpu, cuda:1, ... (default: a GPU if there is one)')
    add_trust(parser)
    add_cfg_options(parser)
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    args = vars(parse_args(argv))
    checkpoints, seeds, options = args.pop('checkpoints'), args.pop('seeds'), args.pop('cfg_options') or {}
    rows = []
    for name in checkpoints:
        own = {**options, **({'model.backbone.init_cfg': None} if name == 'random' else {})}
        file = None if name in ('random', 'init') else name
        for seed in seeds:
            found = probe(checkpoint=file, seed=seed, cfg_options=own, **args)
            numbers = (f'{found["mIoU"]:.1f}', f'{found["accuracy"]:.1f}', f'{found["seconds"]:.0f}')
            rows.append([name, str(seed), str(found['tiles']), str(found['images']), *numbers])
    print(markdown_table(['start', 'seed', 'learnt from', 'scored on', 'mIoU', 'accuracy', 'seconds'], rows))


if __name__ == '__main__':
    sys.exit(main())
