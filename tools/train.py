#!/usr/bin/env python
"""Train a model."""

from __future__ import annotations

import argparse
import sys

from mmrs.apis import train
from mmrs.utils.arguments import Options, add_axes, add_cfg_options, add_launcher, add_trust
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # ST-DASegNet, Potsdam IRRG to Vaihingen
  python tools/train.py configs/st_dasegnet/potsdam2vaihingen.py

  # any other task, network or schedule: name them; a wrong name lists those that there are
  python tools/train.py configs/st_dasegnet/method.py --task loveda-rural2urban --network deeplabv3plus_r50

  # the first one, shorter, from random initialisation, in a folder of its own
  python tools/train.py configs/st_dasegnet/potsdam2vaihingen.py --no-pretrained \\
      --work-dir work_dirs/short --cfg-options train_cfg.max_iters=2000 randomness.seed=1

  # continue an interrupted run
  python tools/train.py configs/st_dasegnet/potsdam2vaihingen.py --resume

  # make it longer: the schedule is another one then
  python tools/train.py configs/st_dasegnet/potsdam2vaihingen.py --resume --new-schedule \\
      --cfg-options train_cfg.max_iters=80000 param_scheduler.1.end=80001

  # feature regression, in two steps: first the reference on the source, then the transfer; or from a reference you have
  python tools/train.py configs/feature_regression/potsdam_rgb2irrg.py
  python tools/train.py configs/feature_regression/potsdam_rgb2irrg.py --reference work_dirs/potsdam_rgb/iter_40000.pth

  # a start for any method, without labels: then --cfg-options load_from=CHECKPOINT
  python tools/train.py configs/pretraining/contrast.py --task landsat2sentinel --network segformer_r18

  # two GPUs
  tools/dist_train.sh configs/st_dasegnet/potsdam2vaihingen.py 2
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train a model.', epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help="configuration file, or a method's, with --task and --network")
    add_axes(parser)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/NAME-OF-THE-CONFIG)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='continue from this checkpoint, or the newest whole one of this folder; without PATH, of the work dir, if '
        'there is one',
    )
    parser.add_argument(
        '--amp', action='store_true', help='automatic mixed precision: float16 on a GPU, bfloat16 on a CPU'
    )
    parser.add_argument(
        '--no-pretrained', dest='pretrained', action='store_false', help='ignore the pretrained weights of the config'
    )
    parser.add_argument('--overwrite', action='store_true', help='start anew in a work dir that holds a run already')
    add_cfg_options(parser)
    parser.add_argument(
        '--reference',
        metavar='CHECKPOINT',
        help="feature regression: the trained source model; without it the config's reference_config is trained first, "
        'in the folder reference of the work dir',
    )
    parser.add_argument(
        '--reference-options', nargs='+', action=Options, metavar='KEY=VALUE', help='override the reference_config'
    )
    parser.add_argument(
        '--new-schedule',
        action='store_true',
        help="with --resume: go on with the config's schedules and optimizer settings, as if the run had had them from "
        "the beginning, where they are not the checkpoint's",
    )
    parser.add_argument(
        '--no-preflight',
        dest='preflight',
        action='store_false',
        help='begin at once: do not look for settings that would have no effect, nor try a batch, a validation sample '
        'and a checkpoint before the first iteration',
    )
    add_trust(parser)
    add_launcher(parser)
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    train(**vars(parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main())
