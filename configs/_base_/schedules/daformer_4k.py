"""UDA_for_RS's schedule: DAFormer's at a higher rate, in a tenth of the iterations, 1500 of which warm up."""

_base_ = './daformer_40k.py'

optim_wrapper = dict(optimizer=dict(lr=1e-4))
train_cfg = dict(max_iters=4000, val_interval=400)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1501, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=4001, by_epoch=False),
]
