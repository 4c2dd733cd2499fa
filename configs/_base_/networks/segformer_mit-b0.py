"""SegFormer with MiT-B0 (arXiv 2105.15203)."""

default_schedule = 'adamw_40k'

network = dict(
    type='EncoderDecoder',
    # ImageNet's statistics, in the order R, G, B; near-infrared images use them as they stand, as the paper does.
    data_preprocessor=dict(
        type='DomainAdaptationDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]
    ),
    backbone=dict(
        type='EfficientMiT',
        in_channels=None,  # the bands of the task
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/segformer/mit_b0_20220624-7e0fe6dd.pth',
        ),
        embed_dims=32,
        num_layers=[2, 2, 2, 2],
        num_heads=[1, 2, 5, 8],
        patch_sizes=[7, 3, 3, 3],
        sr_ratios=[8, 4, 2, 1],
        out_indices=(0, 1, 2, 3),
        qkv_bias=True,
        drop_path_rate=0.1,
    ),
    decode_head=dict(
        type='EfficientSegformerHead',
        in_channels=None,
        in_index=[0, 1, 2, 3],
        channels=256,
        dropout_ratio=0.1,
        num_classes=None,
        norm_cfg=dict(type='SyncBN'),  # plain BN in a single process
        align_corners=False,
        loss_decode=dict(type='PixelMeanCrossEntropyLoss', class_weight='task.class_weight'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(1024, 1024), stride=(768, 768)),
)
