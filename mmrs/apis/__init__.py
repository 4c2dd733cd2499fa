from mmrs.apis.inference import init_model, predict_array
from mmrs.apis.test import test
from mmrs.apis.train import train

__all__ = ['init_model', 'predict_array', 'test', 'train']
