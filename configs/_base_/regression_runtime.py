"""The runtime of feature regression: held-out pairs, for which no label is needed, pick the checkpoint."""

_base_ = './default_runtime.py'

default_hooks = dict(checkpoint=dict(save_best='regression/loss', rule='less'))
