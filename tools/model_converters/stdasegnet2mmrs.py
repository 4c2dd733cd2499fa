#!/usr/bin/env python
"""Convert a checkpoint of the ST-DASegNet release."""

from __future__ import annotations

import argparse
import sys

from mmrs.apis.convert import convert_st_dasegnet
from mmrs.utils.arguments import add_trust
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  python tools/model_converters/stdasegnet2mmrs.py iter_40000.pth potsdam2vaihingen.pth \\
      --config configs/st_dasegnet/potsdam2vaihingen.py
  python tools/test.py configs/st_dasegnet/potsdam2vaihingen.py potsdam2vaihingen.pth
"""


@report_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Convert a checkpoint of the ST-DASegNet release to this project. Every tensor must find its '
        'place, and every place its tensor.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('src', help='released checkpoint')
    parser.add_argument('dst', help='file to write')
    parser.add_argument('--config', required=True, help='configuration of the model')
    parser.add_argument('--overwrite', action='store_true', help='replace DST')
    add_trust(parser)
    args = parser.parse_args(argv)
    counts = convert_st_dasegnet(args.src, args.dst, args.config, args.overwrite, args.trust_checkpoint)
    for part, count in counts.items():
        print(f'{part:24} {count:5} tensors')
    print(f'{args.dst}: {sum(counts.values())} tensors')


if __name__ == '__main__':
    sys.exit(main())
