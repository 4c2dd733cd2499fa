"""The synthetic pairs on a CPU: one season and camera to another, with a small ResNet from random initialisation.

Both steps took six minutes of one processor's time:

    python tools/dataset_converters/synthetic_pairs.py -o data/synthetic_pairs
    python tools/train.py configs/feature_regression/demo.py
"""

_base_ = [
    '../_base_/tasks/synthetic_pairs.py',
    '../_base_/networks/segformer_r18.py',
    './method.py',
    '../_base_/schedules/adamw_600.py',
]

reference_config = '{{ fileDirname }}/../source_only/demo_pairs.py'

# The student starts from a trained network: half as long and at half the rate of the reference.
train_cfg = dict(max_iters=300, val_interval=50)
optim_wrapper = dict(optimizer=dict(lr=3e-4))
param_scheduler = [dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=301, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=50), logger=dict(interval=25))
