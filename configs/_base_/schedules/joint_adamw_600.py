"""600 iterations from random initialisation, for a CPU: AdamW for the students, Adam for the discriminators."""

_base_ = './adamw_600.py'

optim_wrapper = dict(
    _delete_=True,
    constructor='JointOptimWrapperConstructor',
    segmentor=dict(
        optimizer=dict(type='AdamW', lr=6e-4, betas=(0.9, 0.999), weight_decay=0.01, fused=True),
        paramwise_cfg=dict(custom_keys={'pos_block': dict(decay_mult=0.0), 'norm': dict(decay_mult=0.0)}),
    ),
    discriminator=dict(optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.99), fused=True)),
)
