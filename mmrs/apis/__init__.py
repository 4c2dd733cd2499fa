"""What a script or a notebook calls; each name is imported when it is first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmrs.apis.export import export_onnx
    from mmrs.apis.inference import Prediction, SegInferencer, init_model
    from mmrs.apis.raster_scores import evaluate_raster, evaluate_rasters
    from mmrs.apis.testing import evaluate
    from mmrs.apis.training import train

__all__ = [
    'Prediction',
    'SegInferencer',
    'evaluate',
    'evaluate_raster',
    'evaluate_rasters',
    'export_onnx',
    'init_model',
    'train',
]

_MODULES = dict(
    Prediction='inference',
    SegInferencer='inference',
    evaluate='testing',
    evaluate_raster='raster_scores',
    evaluate_rasters='raster_scores',
    export_onnx='export',
    init_model='inference',
    train='training',
)


def __getattr__(name: str) -> Any:
    # Whoever predicts needs no code that trains or scores, and the other way round.
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_MODULES[name]}'), name)
