"""DeepLabV3+'s schedule: 40 000 iterations of SGD, polynomial decay."""

train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=1000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(custom_keys={'decode_head': dict(lr_mult=2.0)}),
)
part_lr = 2.5e-4  # of parts that a method trains with an optimizer of their own, such as discriminators
# 40001: MMEngine divides by `end - begin - 1`, the paper's runs by 40 000.
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=1e-5, begin=0, end=40001, by_epoch=False)]
