"""SegFormer's schedule: 40 000 iterations of AdamW, linear warm-up, linear decay."""

train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=1000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys={'pos_block': dict(decay_mult=0.0), 'norm': dict(decay_mult=0.0), 'head': dict(lr_mult=10.0)}
    ),
)
part_lr = 1e-5  # of parts that a method trains with an optimizer of their own, such as discriminators
# The two factors multiply. 801 and 40001: MMEngine divides by `end - begin - 1`, the paper's runs by 800 and 40 000.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=801, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=40001, by_epoch=False),
]
