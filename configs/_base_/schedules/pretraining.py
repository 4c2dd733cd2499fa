"""Pre-training: 4000 iterations of AdamW, a warm-up of 5 %, and down to 0 on a cosine.

For a shorter or longer one, set max_iters and the ends of both schedules: the warm-up's to 1 + 5 % of it, the other to
1 + all of it.
"""

train_cfg = dict(type='IterBasedTrainLoop', max_iters=4000, val_interval=500)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    # For up to 64 windows in all processes; 1e-3 for 256.
    optimizer=dict(type='AdamW', lr=5e-4, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={key: dict(decay_mult=0.0) for key in ('pos_block', 'pos_embed', 'cls_token', 'norm')},
    ),
)
part_lr = 1e-4  # of parts that a method trains with an optimizer of their own, such as discriminators
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=201, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, begin=0, end=4001, by_epoch=False),
]
