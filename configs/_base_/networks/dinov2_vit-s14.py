"""DINOv2 ViT-S/14 (arXiv 2304.07193), a simple feature pyramid (arXiv 2203.16527) and SegFormer's head.

Weights: https://huggingface.co/facebook/dinov2-small, Apache-2.0. The whole backbone trains;
`--cfg-options model.backbone.frozen=True` keeps it as it is, `model.backbone.lora.rank=8` trains low-rank parts of it.
Other sizes: docs/backbones.md.
"""

default_schedule = 'adamw_40k'

network = dict(
    type='EncoderDecoder',
    # ImageNet's statistics, in the order R, G, B, as in pretraining.
    data_preprocessor=dict(
        type='DomainAdaptationDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]
    ),
    backbone=dict(
        type='PlainViT',
        in_channels=None,  # the bands of the task
        init_cfg=dict(type='Pretrained', checkpoint='hf-hub://facebook/dinov2-small'),
        patch_size=14,
        embed_dims=384,
        depth=12,
        num_heads=6,
        pos_grid=37,  # of images of 518 px
        out_indices=(2, 5, 8, 11),
        pyramid=dict(channels=128, scales=(4, 2, 1, 0.5)),  # strides 3.5, 7, 14, 28
        frozen=False,
        lora=None,
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
    # About the size of the images in pretraining.
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(384, 384)),
)
