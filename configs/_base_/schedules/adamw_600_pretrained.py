"""600 iterations from pretrained weights, for a CPU: half the rate of those from random ones, and the heads faster."""

_base_ = './adamw_600.py'

optim_wrapper = dict(
    optimizer=dict(lr=3e-4),
    paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=10 / 3), auxiliary_head=dict(lr_mult=10 / 3))),
)
