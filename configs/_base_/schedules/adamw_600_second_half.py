"""The second half of 600 iterations, from the weights and at the rate that the first half has ended with."""

_base_ = './adamw_600_first_half.py'

optim_wrapper = dict(optimizer=dict(lr=1.5e-4))
param_scheduler = [dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=301, by_epoch=False)]
