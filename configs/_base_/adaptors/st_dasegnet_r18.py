"""ST-DASegNet on a narrow ResNetV1c-18 with SegFormer's head: learns from random initialisation on a CPU."""

_base_ = '../models/segformer_r18.py'

model = dict(
    type='STDASegNet',
    neck=dict(
        type='DomainDisentangledNeck', in_channels=[32, 64, 128, 256], variant='ds2', reduction=8, min_channels=8
    ),
    decode_head=dict(in_channels=[32, 64, 128, 288]),  # the neck widens the last stage by 256 / 8
    # 1 strided convolution: a crop of 256 px leaves a last map of 8 px.
    discriminator=dict(type='PatchDiscriminator', in_channels=256, num_conv=1),
    gan_loss=dict(type='GANLoss', gan_type='vanilla', loss_weight=0.005),
    self_training=dict(teacher='decoder_only', weight=0.25, threshold=0.975, rare_threshold=0.8),
)

custom_hooks = [dict(type='TeacherEMAHook', decay=0.999)]
