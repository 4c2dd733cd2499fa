"""600 iterations of pre-training, for a CPU."""

_base_ = './pretraining.py'

train_cfg = dict(max_iters=600, val_interval=300)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=31, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, begin=0, end=601, by_epoch=False),
]
