#!/usr/bin/env python
"""Write the card of a checkpoint: what it was trained on, how it scored, who may use it."""

from __future__ import annotations

import argparse
import sys

from mmrs.apis.card import write_card
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # beside the last checkpoint of a run, with the scores of a test
  python tools/test.py work_dirs/mine/mine.py work_dirs/mine/iter_4000.pth --metrics scores.json
  python tools/card.py work_dirs/mine --scores scores.json --rule 'last iteration' --licence 'CC BY 4.0' \\
      --data-licence 'images: CC BY-SA 4.0, labels: our own'

predict.py reads it: it says where a raster has other bands, units or pixels than the images that were trained on.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write NAME.card.md beside a checkpoint: classes, statistics of the training images, start '
        'weights, scores with the rule by which the checkpoint was chosen, licences. predict.py reads its head.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('run', metavar='RUN', help='work dir of a run (its last checkpoint), or a checkpoint in it')
    parser.add_argument('--scores', nargs='+', default=[], metavar='FILE', help='what test.py wrote: metrics.json')
    parser.add_argument('--rule', help='how the checkpoint was chosen; needed with --scores')
    parser.add_argument('--licence', help='of the weights')
    parser.add_argument('--data-licence', help='of the images and labels that were trained on')
    parser.add_argument('--note', help='what else users should know')
    parser.add_argument('--overwrite', action='store_true', help='replace the card')
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    print(write_card(**vars(parse_args(argv))))


if __name__ == '__main__':
    sys.exit(main())
