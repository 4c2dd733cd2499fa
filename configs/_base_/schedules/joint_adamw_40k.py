"""ST-DASegNet's schedule with SegFormer: AdamW for the students, Adam for the discriminators, one backward pass."""

_base_ = './adamw_40k.py'

optim_wrapper = dict(
    _delete_=True,
    constructor='JointOptimWrapperConstructor',
    segmentor=dict(
        optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01, fused=True),
        # As the paper's runs really were: its tenfold rate for the heads matched no parameter, and the heads' own
        # normalisation layers (`bn`) do decay.
        paramwise_cfg=dict(custom_keys={'pos_block': dict(decay_mult=0.0), 'norm': dict(decay_mult=0.0)}),
    ),
    discriminator=dict(optimizer=dict(type='Adam', lr=1e-5, betas=(0.9, 0.99), fused=True)),
)
