"""DeepLabV3+ with ResNetV1c-50, output stride 8 (arXiv 1802.02611)."""

default_schedule = 'sgd_40k'

norm_cfg = dict(type='SyncBN')  # plain BN in a single process

network = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='DomainAdaptationDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]
    ),
    backbone=dict(
        type='ResNetV1c',
        in_channels=None,  # the bands of the task
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnet50_v1c'),
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1),
        norm_cfg=norm_cfg,
        norm_eval=False,
        style='pytorch',
        contract_dilation=True,
    ),
    decode_head=dict(
        type='DepthwiseSeparableASPPHead',
        in_channels=None,
        in_index=3,
        channels=512,
        dilations=(1, 12, 24, 36),
        c1_in_channels=None,
        c1_channels=48,
        dropout_ratio=0.1,
        num_classes=None,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='PixelMeanCrossEntropyLoss', class_weight='task.class_weight'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
