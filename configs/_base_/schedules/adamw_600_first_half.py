"""The first half of 600 iterations: training that an adaptation goes on from, see adamw_600_second_half.py."""

_base_ = './adamw_600_pretrained.py'

train_cfg = dict(max_iters=300, val_interval=300)
