"""ST-DASegNet (arXiv 2301.05526) on any network: two students, a disentangling neck, discriminators and teachers."""

_base_ = '../_base_/default_runtime.py'

adaptor = dict(
    type='STDASegNet',
    neck=dict(type='DomainDisentangledNeck', in_channels=None, variant='ds2', reduction=8, min_channels=8),
    discriminator=dict(type='PatchDiscriminator', in_channels=None, num_conv=None),
    gan_loss=dict(type='GANLoss', gan_type='vanilla', loss_weight=0.005),
    self_training=dict(
        teacher='decoder_only',
        weight=0.25,
        threshold=0.975,
        rare_threshold=0.8,
        class_weight='task.pseudo_class_weight',
    ),
)

custom_hooks = [dict(type='TeacherEMAHook', decay=0.999)]

# One backward pass, an optimizer for the students and one for the discriminators.
optim_parts = dict(
    segmentor=dict(
        optimizer=dict(fused=True),
        # As the paper's runs really were: SegFormer's tenfold rate for the heads matched no parameter, and the heads'
        # own normalisation layers (`bn`) do decay.
        paramwise_cfg=dict(custom_keys=dict(head=None)),
    ),
    discriminator=dict(optimizer=dict(type='Adam', betas=(0.9, 0.99), fused=True)),
)
