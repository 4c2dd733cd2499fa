"""600 iterations from random initialisation, for a CPU."""

train_cfg = dict(type='IterBasedTrainLoop', max_iters=600, val_interval=150)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-4, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={'pos_block': dict(decay_mult=0.0), 'norm': dict(decay_mult=0.0)}),
)
part_lr = 1e-4  # of parts that a method trains with an optimizer of their own, such as discriminators
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=41, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=601, by_epoch=False),
]
