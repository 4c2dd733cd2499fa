"""The synthetic pair on a CPU: the two-branch network with its two source losses alone."""

_base_ = '../st_dasegnet/demo.py'

model = dict(discriminator=None, self_training=None)
custom_hooks = []
optim_parts = dict(discriminator=None)
trains_on = 'source'
optim_wrapper = dict(optimizer=dict(lr=3e-4))
train_cfg = dict(max_iters=400, val_interval=400)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=41, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=401, by_epoch=False),
]
load_from = None
