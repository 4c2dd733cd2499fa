"""SegFormer's head on a narrow ResNetV1c-18: learns from random initialisation on a CPU."""

default_schedule = 'adamw_600'

# Plain BN in a single process. Batches are small and short runs are judged by their last iteration: average longer.
norm_cfg = dict(type='SyncBN', momentum=0.03)

network = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='DomainAdaptationDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]
    ),
    backbone=dict(
        type='ResNetV1c',
        in_channels=None,  # the bands of the task
        depth=18,
        stem_channels=32,
        base_channels=32,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        strides=(1, 2, 2, 2),
        dilations=(1, 1, 1, 1),
        norm_cfg=norm_cfg,
        norm_eval=False,
        style='pytorch',
    ),
    decode_head=dict(
        type='EfficientSegformerHead',
        in_channels=None,
        in_index=[0, 1, 2, 3],
        channels=64,
        dropout_ratio=0.1,
        num_classes=None,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='PixelMeanCrossEntropyLoss', class_weight='task.class_weight'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
