"""DeepLabV3+'s schedule: SGD, polynomial decay."""

_base_ = './loops_40k.py'

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(custom_keys={'decode_head': dict(lr_mult=2.0)}),
)
# 40001: MMEngine divides by `end - begin - 1`, the paper's runs by 40 000.
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=1e-5, begin=0, end=40001, by_epoch=False)]
