"""ST-DASegNet on DeepLabV3+ ResNet-50 (arXiv 2301.05526)."""

_base_ = '../models/deeplabv3plus_r50.py'

model = dict(
    type='STDASegNet',
    neck=dict(
        type='DomainDisentangledNeck', in_channels=[256, 512, 1024, 2048], variant='ds2', reduction=8, min_channels=8
    ),
    decode_head=dict(in_channels=2304),  # the neck widens the last stage by 2048 / 8
    discriminator=dict(type='PatchDiscriminator', in_channels=2048, num_conv=3),
    gan_loss=dict(type='GANLoss', gan_type='vanilla', loss_weight=0.005),
    self_training=dict(teacher='decoder_only', weight=0.25, threshold=0.975, rare_threshold=0.8),
)

custom_hooks = [dict(type='TeacherEMAHook', decay=0.999)]
