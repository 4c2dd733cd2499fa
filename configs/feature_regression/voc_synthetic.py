"""PASCAL VOC 2012 under a synthetic camera change, feature regression with DeepLabV3+ ResNet-50.

The paper's experiment (arXiv 1805.04141) as far as it is known: its transformations and its network are not.
"""

_base_ = [
    '../_base_/tasks/voc_synthetic.py',
    '../_base_/networks/deeplabv3plus_r50.py',
    './method.py',
    '../_base_/schedules/sgd_40k.py',
]

reference_config = dict(
    config='{{ fileDirname }}/../source_only/method.py', task='voc_synthetic', network='deeplabv3plus_r50'
)
