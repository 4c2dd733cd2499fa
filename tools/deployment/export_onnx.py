#!/usr/bin/env python
"""Export a model to ONNX."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmrs.apis.export import OPSET, TOLERANCE, export_onnx
from mmrs.utils.arguments import add_cfg_options, add_class_prior, add_trust
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  python tools/deployment/export_onnx.py configs/st_dasegnet/potsdam2vaihingen.py \\
      work_dirs/potsdam2vaihingen/iter_40000.pth -o potsdam2vaihingen.onnx

  # maps from it
  python tools/predict.py configs/st_dasegnet/potsdam2vaihingen.py potsdam2vaihingen.onnx scene.tif -o maps \\
      --backend onnx
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Export the part of a model that predicts to ONNX, for images of any size, with the normalisation '
        'inside and classes and bands in its metadata. The file is kept if onnxruntime computes what PyTorch does.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='configuration file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('-o', '--out', type=Path, required=True, metavar='FILE', help='ONNX file to write')
    parser.add_argument(
        '--opset', type=int, default=OPSET, metavar='N', help='version of the ONNX operators (default: %(default)s)'
    )
    parser.add_argument(
        '--tolerance',
        type=float,
        default=TOLERANCE,
        metavar='X',
        help='how far onnxruntime may be from PyTorch, in probabilities and in logits (default: %(default)s)',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace FILE')
    add_class_prior(parser)
    add_trust(parser)
    add_cfg_options(parser)
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    differences = export_onnx(**vars(args))
    text = ', '.join(f'{name} {value:.1e}' for name, value in differences.items())
    print(f'{args.out}: {args.out.stat().st_size / 1e6:.1f} MB; onnxruntime differs from PyTorch by at most: {text}')


if __name__ == '__main__':
    sys.exit(main())
