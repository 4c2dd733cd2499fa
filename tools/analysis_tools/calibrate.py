#!/usr/bin/env python
"""Calibrate the probabilities of a checkpoint."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from mmrs.apis.calibration import SPLITS, calibrate
from mmrs.apis.comparison import markdown_table
from mmrs.evaluation.calibration import METHODS
from mmrs.utils.arguments import add_cfg_options, add_overwrite, add_trust
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # by labelled images of the source that training did not have
  python tools/analysis_tools/calibrate.py CONFIG CHECKPOINT --data val -o calibration.json \\
      --cfg-options val_dataloader.dataset.data_root=data/held_out

  # by the training images, as there are no others; how well it does on labelled images of the target, with a picture
  python tools/analysis_tools/calibrate.py CONFIG CHECKPOINT --target test -o calibration.json --picture reliability.png

  # maps with probabilities that are calibrated
  python tools/predict.py CONFIG CHECKPOINT scenes -o maps --extra probabilities --calibrated calibration.json
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Scale the logits of a model so that its probabilities say how often it is right, by labelled '
        'images of the source. Figures of the source are of images that their scaling was not fitted to.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='configuration file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('-o', '--out', required=True, metavar='FILE.json', help='file for predict.py --calibrated')
    parser.add_argument(
        '--method', choices=METHODS, default=METHODS[0],
        help='one number for all classes, or a factor and an offset for each (default: %(default)s)',
    )  # fmt: skip
    parser.add_argument(
        '--data', choices=SPLITS, default='train',
        help='images with labels of the source; train: the source of the training (default: %(default)s)',
    )  # fmt: skip
    parser.add_argument(
        '--target', choices=SPLITS[1:], help='images with labels of the target, for the report alone (default: none)'
    )
    parser.add_argument('--number', type=int, default=100, metavar='N', help='images of either (default: %(default)s)')
    parser.add_argument('--pixels', type=int, default=5000, metavar='N', help='of each image (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='which images, pixels and halves (default: %(default)s)')
    parser.add_argument('--picture', metavar='FILE', help='reliability diagrams')
    parser.add_argument('--device', help='cpu, cuda:1, ... (default: a GPU if there is one)')
    add_overwrite(parser, 'replace files that exist')
    add_trust(parser)
    add_cfg_options(parser)
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    print(report(calibrate(**vars(args))))
    print(f'{args.out}: for predict.py --calibrated')


def report(found: dict[str, Any]) -> str:
    """What a calibration is worth, as tables."""
    percent = ('ece', 'ece_equal_mass', 'classwise_ece', 'confidence', 'accuracy')
    rows = [
        [domain, when, *(f'{100 * found[domain][when][key]:.1f}' for key in percent),
         *(f'{found[domain][when][key]:.3f}' for key in ('nll', 'brier'))]
        for domain in ('source', 'target') if isinstance(found.get(domain), dict)
        for when in ('before', 'after')
    ]  # fmt: skip
    header = ['images', 'calibration', 'ECE %', 'equal mass', 'classwise', 'confidence', 'accuracy', 'NLL', 'Brier']
    lines = [f'{name}: {found["scale"][name]:.3f} * logit {found["offset"][name]:+.3f}' for name in found['classes']]
    if found['method'] == 'temperature':
        lines = [f'temperature {1 / found["scale"][found["classes"][0]]:.3f}']
    return markdown_table(header, rows) + '\n' + '\n'.join(lines)


if __name__ == '__main__':
    sys.exit(main())
