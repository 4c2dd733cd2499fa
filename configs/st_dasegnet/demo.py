"""The synthetic pair on a CPU: ST-DASegNet with EfficientNet-Lite0 from ImageNet weights.

It starts from a source-only checkpoint half-way through its run, so that both have had as many iterations in the end.
"""

_base_ = [
    '../_base_/tasks/synthetic.py',
    '../_base_/networks/segformer_efficientnet-lite0.py',
    './method.py',
    '../_base_/schedules/adamw_600_pretrained.py',
]

# After so few iterations hardly a pixel reaches the paper's confidence of 0.975, and its teacher, a mean over a
# thousand iterations, is still what the network was at first.
model = dict(self_training=dict(weight=1.0, threshold=0.8, rare_threshold=0.6))
custom_hooks = [dict(type='TeacherEMAHook', decay=0.99)]
train_cfg = dict(max_iters=200, val_interval=200)
optim_wrapper = dict(optimizer=dict(lr=3e-4))
param_scheduler = [dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=201, by_epoch=False)]
load_from = 'work_dirs/source_only_demo/iter_200.pth'
default_hooks = dict(checkpoint=dict(interval=200), logger=dict(interval=20))
