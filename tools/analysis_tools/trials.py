#!/usr/bin/env python
"""Train methods on real pairs of domains, in runs of minutes on a CPU, and tabulate what they gain."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmrs.studies.trials import PAIRS, STARTS, Trials
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # what would be trained, and about how long does it take?
  python tools/analysis_tools/trials.py --dry-run

  # source-only training and ST-DASegNet from ImageNet weights on all pairs, seeds 0 to 2
  python tools/analysis_tools/trials.py

  # what the classes' shares do: in training, and after it
  python tools/analysis_tools/trials.py --pairs dubai gid5 --starts imagenet random --taus 0 0.5 1 --strengths 0 0.5 1

  # what labels of a few target images bring: 1 to 10 of them, drawn by the seed; tables, and a picture of the curves
  python tools/analysis_tools/trials.py --pairs dubai gid5 --labels 1 2 5 10 \
      --methods source_only dacs source_and_labelled mean_teacher few_labels

  # a method of your own (configs/NAME/method.py) against source-only training
  python tools/analysis_tools/trials.py --methods source_only NAME --pairs gid5 --seeds 0

The same command goes on with the run that an interrupted one was at, and trains only what is not there yet. A table has
the rows that were asked for, with all seeds that are there. Scores are those of the last iteration: to choose by target
scores takes target labels.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    several = dict(nargs='+', metavar='NAME')
    parser.add_argument('--pairs', default=list(PAIRS), help=f'of {", ".join(PAIRS)} (default: all)', **several)
    parser.add_argument(
        '--methods', default=['source_only', 'st_dasegnet'], **several,
        help='files of configs/trials, or folders of configs; the others are compared with the first '
        '(default: source_only st_dasegnet)',
    )  # fmt: skip
    parser.add_argument('--starts', default=['imagenet'], help=f'of {", ".join(STARTS)} (default: imagenet)', **several)
    parser.add_argument(
        '--taus', type=float, nargs='+', default=[0.0], metavar='X',
        help='strengths of prior-neutral training, 0 to 1 (default: 0)',
    )  # fmt: skip
    parser.add_argument(
        '--strengths', type=float, nargs='+', default=[0.0], metavar='X',
        help='strengths of the correction to equal shares after training, 0 to 1 (default: 0)',
    )  # fmt: skip
    parser.add_argument(
        '--labels', type=int, nargs='+', default=[], metavar='K',
        help="numbers of labelled target images, for methods that learn from them; drawn from half of the target's "
        'images, and all methods are scored on the other half (default: a trial without)',
    )  # fmt: skip
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='K', help='seeds (default: 0 1 2)')
    parser.add_argument(
        '--downloads', type=Path, default=Path('downloads'), metavar='DIR',
        help="folder of the publishers' files: dubai, gid5, csmask (default: downloads); see docs/datasets.md",
    )  # fmt: skip
    parser.add_argument(
        '-o', '--out', type=Path, default=Path('work_dirs/trials'), metavar='DIR', help='folder for runs and tables'
    )
    parser.add_argument('--overwrite', action='store_true', help='train anew the runs whose settings have changed')
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='convert the pairs, say what would be trained and for how long',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override all configs, as in train.py'
    )
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    args = vars(parse_args(argv))
    dry_run = args.pop('dry_run')
    trials = Trials(**args)
    if dry_run:
        trials.estimate()
        return
    for path in trials.run():
        if path.suffix == '.md':
            print(path.read_text(encoding='utf-8'))
        print(path)


if __name__ == '__main__':
    sys.exit(main())
