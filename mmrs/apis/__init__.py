from mmrs.apis.evaluate import evaluate
from mmrs.apis.inference import init_model, predict_array
from mmrs.apis.train import train

__all__ = ['evaluate', 'init_model', 'predict_array', 'train']
