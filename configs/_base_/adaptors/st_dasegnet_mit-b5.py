"""ST-DASegNet on SegFormer MiT-B5 (arXiv 2301.05526)."""

_base_ = '../models/segformer_mit-b5.py'

model = dict(
    type='STDASegNet',
    neck=dict(
        type='DomainDisentangledNeck', in_channels=[64, 128, 320, 512], variant='ds2', reduction=8, min_channels=8
    ),
    decode_head=dict(in_channels=[64, 128, 320, 576]),  # the neck widens the last stage by 512 / 8
    discriminator=dict(type='PatchDiscriminator', in_channels=512, num_conv=2),
    gan_loss=dict(type='GANLoss', gan_type='vanilla', loss_weight=0.005),
    self_training=dict(teacher='decoder_only', weight=0.25, threshold=0.975, rare_threshold=0.8),
)

custom_hooks = [dict(type='TeacherEMAHook', decay=0.999)]
