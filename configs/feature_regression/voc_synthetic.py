"""PASCAL VOC 2012 under a synthetic camera change, feature regression with DeepLabV3+ ResNet-50.

The paper's experiment (arXiv 1805.04141) as far as it is known: its transformations and its network are not.
"""

_base_ = [
    '../_base_/datasets/voc_synthetic.py',
    '../_base_/adaptors/feature_regression_r50.py',
    '../_base_/schedules/sgd_40k.py',
    '../_base_/regression_runtime.py',
]

reference_config = '{{ fileDirname }}/../source_only/voc_synthetic.py'

model = dict(decode_head=dict(num_classes=21))
train_dataloader = dict(batch_size=8)  # per process
