"""segformer_r18 with an auxiliary head that learns the distance from the boundaries of the classes.

docs/methods.md gives it to other networks. It takes part in training alone.
"""

_base_ = './segformer_r18.py'

network = dict(
    auxiliary_head=dict(
        type='EfficientSegformerHead',
        in_channels=None,
        in_index=[0, 1, 2, 3],
        channels=64,
        num_classes=None,
        norm_cfg=dict(type='SyncBN', momentum=0.03),
        align_corners=False,
        loss_decode=dict(type='SignedDistanceLoss', truncation=10, loss_weight=0.1),
    ),
)
