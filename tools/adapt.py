#!/usr/bin/env python
"""Adapt a checkpoint to a target of which there are images alone."""

from __future__ import annotations

import argparse
import sys

from mmrs.apis.adaptation import METHODS, TRAINED, WEIGHT_BEFORE_TRAINING, WEIGHTS, Adaptation, Result
from mmrs.apis.class_prior import STRENGTH
from mmrs.apis.comparison import markdown_table
from mmrs.evaluation.label_free.choice import MARGIN
from mmrs.utils.arguments import Options, add_cfg_options, add_overwrite, add_trust
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # statistics of batch normalisation in three strengths, in a minute; the best one if it is clearly more consistent
  python tools/adapt.py work_dirs/mine/mine.py work_dirs/mine/iter_4000.pth new_scene.tif -o work_dirs/new_scene.pth

  # equal shares of the classes, where the new place has others than the old one
  python tools/adapt.py work_dirs/mine/mine.py work_dirs/mine/iter_4000.pth scenes -o scenes.pth --method prior \\
      --strengths 0.5 1

  # a few minutes of training without labels; after a stop the same command with --resume goes on
  python tools/adapt.py work_dirs/mine/mine.py work_dirs/mine/iter_4000.pth scenes -o scenes.pth --method shot

  # entropy minimisation that keeps the classes diverse, on the unlabelled images of the configuration
  python tools/adapt.py work_dirs/mine/mine.py work_dirs/mine/iter_4000.pth config:target -o adapted.pth \\
      --method tent --options diversity=1

Neither images of the source nor labels of the target are read. NEW.pth belongs to the same configuration. It is written
only if its maps of the target are clearly more consistent than those of the checkpoint and no class has died. If not,
the checkpoint stays as it is and nothing is written.

exit code: 0 if NEW.pth was written, 1 if the checkpoint stays, 2 if the command cannot work, 130 after Ctrl-C
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Adapt a checkpoint to a target of which there are images alone: no source, no labels.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='configuration of the checkpoint')
    parser.add_argument('checkpoint', help='weights to adapt')
    parser.add_argument(
        'targets', nargs='+', metavar='TARGET',
        help='raster or folder of rasters; config:target or config:test, the images of the configuration',
    )  # fmt: skip
    parser.add_argument('-o', '--out', required=True, metavar='NEW.pth', help='the file to write')
    parser.add_argument(
        '--method', choices=METHODS, default='bn',
        help='bn: statistics of batch normalisation; prior: shares of the classes; the others train (default: bn)',
    )  # fmt: skip

    how = parser.add_argument_group('methods')
    statistics = how.add_mutually_exclusive_group()
    statistics.add_argument(
        '--weights', nargs='+', type=float, metavar='W',
        help="of the target's statistics, 0 to 1: each is a candidate of bn (default: "
        f'{" ".join(f"{weight:g}" for weight in WEIGHTS)}); training starts from one ({WEIGHT_BEFORE_TRAINING:g})',
    )  # fmt: skip
    statistics.add_argument(
        '--prior-images', type=float, metavar='N',
        help="instead: the source's statistics count as N images, the target's as those that are looked at",
    )  # fmt: skip
    how.add_argument(
        '--class-prior', default='uniform', metavar='PRIOR', help='of prior: as predict.py takes it (default: uniform)'
    )
    how.add_argument(
        '--strengths', nargs='+', type=float, default=(STRENGTH,), metavar='S',
        help=f'of the correction, 0 to 1: each is a candidate of prior (default: {STRENGTH:g})',
    )  # fmt: skip
    how.add_argument(
        '--source-shares', metavar='FILE',
        help="table of the classes' shares in the source's labels, of which classes are expected in the target "
        '(default: what the configuration leads to, or else what the checkpoint finds in the target)',
    )  # fmt: skip
    names = ', '.join(TRAINED)
    how.add_argument('--iterations', type=int, default=200, metavar='N', help=f'of {names} (default: 200)')
    how.add_argument('--batch-size', type=int, default=2, metavar='N', help='likewise (default: 2)')
    how.add_argument('--learning-rate', type=float, metavar='X', help="likewise (default: the publication's)")
    how.add_argument(
        '--options', nargs='+', action=Options, default={}, metavar='KEY=VALUE', help='likewise, of the adaptor'
    )

    judge = parser.add_argument_group('judgement')
    judge.add_argument('--number', type=int, default=40, metavar='N', help='windows that are looked at (default: 40)')
    judge.add_argument('--size', type=int, metavar='PX', help="their side (default: the sliding test's, else 512)")
    judge.add_argument(
        '--margin', type=float, default=MARGIN, metavar='X', help=f'how much better is clearly (default: {MARGIN})'
    )
    judge.add_argument(
        '--always', action='store_true', help='write the best candidate whatever the verdict is, which it records'
    )

    run = parser.add_argument_group('run')
    run.add_argument('--seed', type=int, default=0, help='of all that is drawn (default: 0)')
    run.add_argument('--work-dir', metavar='DIR', help='folder of a run that trains (default: NEW_run)')
    run.add_argument('--resume', action='store_true', help='go on with that run')
    run.add_argument('--device', help='cpu, cuda:1, ... (default: a GPU if there is one)')
    run.add_argument('--dry-run', action='store_true', help='look at all that is needed, and say what would be done')
    add_overwrite(run, 'replace NEW.pth, and begin a run anew')  # type: ignore[arg-type]
    add_trust(parser)
    add_cfg_options(parser)
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> int:
    args = vars(parse_args(argv))
    dry_run = args.pop('dry_run')
    adaptation = Adaptation(**args)
    if dry_run:
        print(adaptation.plan())
        return 0
    result = adaptation.run()
    print(report(result))
    return int(result.written is None)


def report(result: Result) -> str:
    """A table of the candidates, and what was done."""
    rows = []
    for i, (own, reason, dead) in enumerate(zip(result.candidates, result.reasons, result.dead)):
        taken = ('**written**' if result.written else '**stays**') if i == result.taken else ''
        rows.append([own.name, f'{own.consistency:.3f}', ', '.join(dead), reason or taken])
    table = markdown_table(['candidate', 'consistency', 'classes that died', 'note'], rows)
    gain = f'{result.choice.gain:+.3f}'
    verdict = dict(
        adapted=f'Adapted is better: {gain} in consistency.',
        kept=f'No candidate that is not out is clearly more consistent than the checkpoint (the best: {gain}).',
        none='No candidate can be recommended, the checkpoint among them: classes died in all of them.',
    )[result.choice.verdict]
    if result.written and result.choice.verdict != 'adapted':
        verdict += ' As --always asks for it:'
    done = f'{result.written} was written.' if result.written else 'Nothing was written.'
    return f'{table}\nClasses are expected by {result.expected_from}. {verdict} {done}'


if __name__ == '__main__':
    sys.exit(main())
