"""HRDA on EfficientNet-Lite0: for runs of minutes on a CPU."""

_base_ = './daformer_efficientnet-lite0.py'

network = dict(
    backbone=dict(type='MultiResolution', base='EfficientNetLite', detail_size=None, stride=4),
    decode_head=dict(type='HRDAHead', base='DAFormerHead', attention=dict(fusion='conv1'), detail_weight=0.1),
)
