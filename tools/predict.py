#!/usr/bin/env python
"""Predict rasters: from a checkpoint to georeferenced maps."""

from __future__ import annotations

import argparse
import sys

import torch.distributed

from mmrs.apis import SegInferencer
from mmrs.apis.inference import BACKENDS
from mmrs.prediction.mapping import MapReport
from mmrs.prediction.maps import DTYPES, EXTRA_LAYERS
from mmrs.prediction.window_grid import BLENDS
from mmrs.utils.arguments import add_cfg_options, add_class_prior, add_trust, report_once
from mmrs.utils.errors import report_errors

EXAMPLES = """\
examples:
  # one raster to one map, which opens in QGIS in the right place
  python tools/predict.py work_dirs/mine/mine.py work_dirs/mine/iter_4000.pth ortho.tif -o map.tif

  # a folder of rasters, with confidence, polygons of at least 25 square metres, and pictures; after a stop the same
  # command with --resume goes on
  python tools/predict.py work_dirs/mine/mine.py work_dirs/mine/iter_4000.pth orthos -o maps \\
      --extra confidence --vector areas.gpkg --min-area 25 --simplify 1 --quicklook

  # only in the polygons of a GeoPackage; the model was trained at 0.5 m, whatever the rasters have
  python tools/predict.py work_dirs/mine/mine.py work_dirs/mine/iter_4000.pth orthos -o maps --aoi town.gpkg --gsd 0.5

  # on four GPUs (on several machines that see the same folders: torchrun --nnodes ... on each of them)
  torchrun --standalone --nproc_per_node 4 tools/predict.py \\
      work_dirs/mine/mine.py work_dirs/mine/iter_4000.pth orthos -o maps

exit code: 0 if all went well, 1 if some rasters failed, 2 if the command cannot work, 130 after Ctrl-C
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Predict rasters of any size, window by window. Each becomes NAME.tif: a Cloud-Optimised GeoTIFF '
        'of class indices (255: no data) with the CRS, the transform and the size of the raster, and with the names '
        'and colours of the classes.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='configuration file')
    parser.add_argument('checkpoint', help='checkpoint file; with --backend onnx the exported .onnx file')
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='raster (GeoTIFF, VRT, ...), or folder of rasters')
    parser.add_argument('-o', '--out', required=True, help='folder for the maps; for a single raster also MAP.tif')

    how = parser.add_argument_group('how to predict')
    how.add_argument(
        '--window', type=int, metavar='PX', help="side of a window (default: the sliding test's, else 512)"
    )
    how.add_argument(
        '--overlap', type=float, default=0.25, metavar='SHARE', help='of neighbours (default: %(default)s)'
    )
    how.add_argument(
        '--blend', choices=BLENDS, default='cosine', help='weights where windows overlap (default: %(default)s)'
    )
    how.add_argument('--batch-size', type=int, default=4, metavar='N', help='windows at a time (default: %(default)s)')
    how.add_argument('--bands', type=int, nargs='+', metavar='B', help='bands to read, from 1 (default: as trained)')
    how.add_argument('--gsd', type=float, metavar='M', help="metres per pixel as trained (default: the test set's gsd)")
    how.add_argument('--tta', action='store_true', help='average over four flips of each window')
    how.add_argument('--amp', action='store_true', help='compute in bfloat16 where that is safe')
    how.add_argument(
        '--calibrated', metavar='FILE.json', help='calibrate probabilities: of analysis_tools/calibrate.py'
    )
    how.add_argument('--backend', choices=BACKENDS, default='torch', help='what runs the model')
    how.add_argument('--device', help='cpu, cuda:1, ... (default: a GPU if there is one)')

    where = parser.add_argument_group('where to predict')
    bounds = ('XMIN', 'YMIN', 'XMAX', 'YMAX')
    where.add_argument('--bbox', type=float, nargs=4, metavar=bounds, help='only there; the map is cut to it')
    where.add_argument('--bbox-crs', metavar='CRS', help="of --bbox, as EPSG:4326 (default: each raster's own)")
    where.add_argument('--aoi', metavar='FILE', help='only in the polygons of a GeoPackage or GeoJSON file')
    where.add_argument('--aoi-layer', metavar='NAME', help='layer of that file, where it has several')

    what = parser.add_argument_group('what to write')
    what.add_argument('--extra', nargs='+', choices=EXTRA_LAYERS, default=[], help='further rasters, NAME_EXTRA.tif')
    what.add_argument(
        '--dtype', choices=DTYPES, default='uint8', help='of these (default: %(default)s, 0 to 254 for 0 to 1)'
    )
    what.add_argument('--quicklook', action='store_true', help='NAME_quicklook.png: image and map side by side')
    what.add_argument('--vector', metavar='FILE.gpkg', help='polygons of all maps')
    what.add_argument('--min-area', type=float, default=0.0, metavar='M2', help='of a polygon, in square metres')
    what.add_argument('--simplify', type=float, default=0.0, metavar='M', help='tolerance of the outlines, in metres')
    what.add_argument('--vrt', metavar='FILE.vrt', help='virtual mosaic of all maps')
    what.add_argument('--areas', metavar='FILE.csv', help='pixels, square metres and share of each class in each map')
    what.add_argument('--project', metavar='FILE.qgs', help='project for QGIS: rasters, maps and polygons')
    what.add_argument('--resume', action='store_true', help='keep finished maps, continue half-done ones')
    what.add_argument('--overwrite', action='store_true', help='replace maps that exist')
    what.add_argument('--dry-run', action='store_true', help='only say what would be done')

    scene = parser.add_argument_group('follow each raster, without labels (docs/source_free.md)')
    scene.add_argument(
        '--adapt', choices=('bn', 'prior', 'tent'),
        help='before each raster is predicted, from the checkpoint on: bn, statistics of batch normalisation follow '
        'it; prior, shares of the classes do (see --prior-strength); tent, after bn, predictions become surer',
    )  # fmt: skip
    scene.add_argument(
        '--adapt-weight', type=float, metavar='W', help='of the raster in bn and tent, 0 to 1 (default: 0.5)'
    )
    scene.add_argument(
        '--continual', action='store_true',
        help='each raster goes on where the one before it ended, in the order of the names, not from the checkpoint',
    )  # fmt: skip
    add_class_prior(parser)
    add_trust(parser)
    add_cfg_options(parser)
    report_once(parser)
    args = parser.parse_args(argv)
    if args.vector is None and (args.min_area or args.simplify):
        parser.error('--min-area and --simplify are for polygons: --vector FILE.gpkg')
    if args.bbox is None and args.bbox_crs is not None:
        parser.error('--bbox-crs is the CRS of --bbox XMIN YMIN XMAX YMAX')
    if args.aoi is None and args.aoi_layer is not None:
        parser.error('--aoi-layer is the layer of --aoi FILE')
    if args.backend != 'onnx' and args.checkpoint.lower().endswith('.onnx'):
        parser.error(f'{args.checkpoint} is a model in ONNX format: pass --backend onnx')
    return args


_MODEL = (
    'config',
    'checkpoint',
    'device',
    'backend',
    'cfg_options',
    'window',
    'overlap',
    'blend',
    'batch_size',
    'bands',
    'tta',
    'amp',
    'trust_checkpoint',
    'class_prior',
    'prior_strength',
    'source_shares',
    'calibrated',
    'adapt',
    'adapt_weight',
    'continual',
)


@report_errors
def main(argv: list[str] | None = None) -> int:
    args = vars(parse_args(argv))
    inferencer = SegInferencer(**{name: args.pop(name) for name in _MODEL})
    report = inferencer.predict_rasters(**args)
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        say(report)
    return 1 if report.failed else 0


def say(report: MapReport) -> None:
    for path in report.maps:
        print(f'{path}{" (finished before)" * (path in report.skipped)}')
    if report.outside:
        print(f'outside of the area, left out: {", ".join(report.outside)}')
    for error in report.failed.values():
        print(f'error: {error}', file=sys.stderr)


if __name__ == '__main__':
    sys.exit(main())
