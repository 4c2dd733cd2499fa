#!/usr/bin/env python
"""Measure training time, memory, inference latency and the throughput of raster prediction of a configuration."""

from __future__ import annotations

import argparse
import sys

from mmrs.studies.benchmark import BenchmarkSettings, benchmark, format_report
from mmrs.studies.prediction_benchmark import benchmark_prediction
from mmrs.utils.arguments import Options, add_axes, add_cfg_options
from mmrs.utils.errors import report_errors, require

EXAMPLES = """\
examples:
  # seconds per step, peak memory and latency with the config's batch and crop size
  python tools/analysis_tools/benchmark.py configs/st_dasegnet/potsdam2vaihingen.py

  # beside the same model of stock modules, trained as the authors' release does, on two CPU threads
  python tools/analysis_tools/benchmark.py configs/st_dasegnet/demo.py --stock --batch-size 2 --crop-size 256 \\
      --threads 2 --cfg-options model.decode_head.channels=256

  # with activations that are computed again instead of kept, beside the same without
  python tools/analysis_tools/benchmark.py configs/st_dasegnet/demo.py --against model.backbone.with_cp=True

  # several networks side by side
  python tools/analysis_tools/benchmark.py configs/source_only/method.py --task dubai \\
      --networks segformer_mit-b0 dinov2_vit-s14

  # from a raster to its map: megapixels per second, and how long the model waits for windows
  python tools/analysis_tools/benchmark.py configs/st_dasegnet/demo.py --predict 4096
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measure training time, peak memory and inference latency on random images and weights, on the '
        'first GPU or else on the CPU.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='configuration file')
    beside = parser.add_mutually_exclusive_group()
    beside.add_argument(
        '--stock', action='store_true', help='measure the model in its stock form too, alternately, and print ratios'
    )
    beside.add_argument(
        '--against',
        nargs='+',
        action=Options,
        metavar='KEY=VALUE',
        help='measure the configuration with these options too, alternately, and print ratios of that to the rest',
    )
    beside.add_argument(
        '--networks', nargs='+', metavar='NAME', help='measure these networks alternately, in place of a --network'
    )
    parser.add_argument(
        '--predict',
        type=int,
        metavar='PX',
        help='measure the prediction of a raster of PX x PX pixels instead, as tools/predict.py does it',
    )
    parser.add_argument('--adapt', choices=('bn',), help='with --predict: as predict.py --adapt')
    parser.add_argument(
        '--batch-size',
        type=int,
        metavar='N',
        help="images per domain (default: the config's); with --predict windows (default: 4)",
    )
    parser.add_argument('--crop-size', type=int, metavar='PX', help="training images (default: the config's)")
    parser.add_argument('--inference-size', type=int, default=512, metavar='PX', help='predicted image (default: 512)')
    parser.add_argument('--iters', type=int, default=10, metavar='N', help='timed repetitions (default: 10)')
    parser.add_argument('--threads', type=int, metavar='N', help="CPU threads (default: torch's choice)")
    add_axes(parser)
    add_cfg_options(parser)
    return parser.parse_args(argv)


@report_errors
def main(argv: list[str] | None = None) -> None:
    options = vars(parse_args(argv))
    stock, against, networks, size = (options.pop(name) for name in ('stock', 'against', 'networks', 'predict'))
    adapt = options.pop('adapt')
    require(adapt is None or size is not None, '--adapt', adapt, 'nothing, as there is no --predict,')
    axes = {name: value for name in ('task', 'network', 'schedule') if (value := options.pop(name))}
    if axes:
        options['config'] = dict(config=options['config'], **axes)
    if size is not None:
        require(not networks, '--networks', networks, 'no --networks beside --predict (one --network at a time)')
        named = {key: options[key] for key in ('config', 'threads', 'cfg_options')}
        print(benchmark_prediction(size=size, adapt=adapt == 'bn', batch_size=options['batch_size'] or 4, **named))
        return
    print(format_report(benchmark(BenchmarkSettings(**options), stock, against, networks or ())))


if __name__ == '__main__':
    sys.exit(main())
