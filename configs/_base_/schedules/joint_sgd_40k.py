"""ST-DASegNet's schedule with DeepLabV3+: SGD for the students, Adam for the discriminators, one backward pass."""

_base_ = './sgd_40k.py'

optim_wrapper = dict(
    _delete_=True,
    constructor='JointOptimWrapperConstructor',
    segmentor=dict(
        optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=5e-4, fused=True),
        paramwise_cfg=dict(custom_keys={'decode_head': dict(lr_mult=2.0)}),
    ),
    discriminator=dict(optimizer=dict(type='Adam', lr=2.5e-4, betas=(0.9, 0.99), fused=True)),
)
