from mmrs.apis.evaluate import evaluate
from mmrs.apis.export import export_onnx
from mmrs.apis.inference import Prediction, SegInferencer, init_model
from mmrs.apis.raster_scores import evaluate_raster, evaluate_rasters
from mmrs.apis.train import train

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
