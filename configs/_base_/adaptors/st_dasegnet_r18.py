"""ST-DASegNet on a narrow ResNetV1c-18 with SegFormer's head: learns from random initialisation on a CPU."""

# Plain BN in a single process. Batches are small and short runs are judged by their last iteration: average longer.
norm_cfg = dict(type='SyncBN', momentum=0.03)

model = dict(
    type='STDASegNet',
    data_preprocessor=dict(
        type='DomainAdaptationDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]
    ),
    backbone=dict(
        type='ResNetV1c',
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
    neck=dict(
        type='DomainDisentangledNeck', in_channels=[32, 64, 128, 256], variant='ds2', reduction=8, min_channels=8
    ),
    decode_head=dict(
        type='EfficientSegformerHead',
        in_channels=[32, 64, 128, 288],  # the neck widens the last stage by 256 / 8
        in_index=[0, 1, 2, 3],
        channels=64,
        dropout_ratio=0.1,
        num_classes=6,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='PixelMeanCrossEntropyLoss'),
    ),
    # 1 strided convolution: a crop of 256 px leaves a last map of 8 px.
    discriminator=dict(type='PatchDiscriminator', in_channels=256, num_conv=1),
    gan_loss=dict(type='GANLoss', gan_type='vanilla', loss_weight=0.005),
    self_training=dict(teacher='decoder_only', weight=0.25, threshold=0.975, rare_threshold=0.8),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)

custom_hooks = [dict(type='TeacherEMAHook', decay=0.999)]
