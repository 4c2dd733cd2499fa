"""Potsdam RGB to Vaihingen IRRG, MMSegmentation's split: DAFormer with MiT-B5, as UDA_for_RS trains it."""

_base_ = [
    '../_base_/tasks/potsdam-rgb2vaihingen_standard.py',
    '../_base_/networks/daformer_mit-b5.py',
    './method.py',
    '../_base_/schedules/daformer_40k.py',
]

# UDA_for_RS: a short run at a higher rate, with a fast teacher that is sure from 0.7 on, and no rare classes
# sampled. Its warm-up takes 1500 of the 4000 iterations. 4001: MMEngine divides by `end - begin - 1`.
rare_class_sampling = None
train_dataloader = dict(batch_size=4)
model = dict(self_training=dict(threshold=0.7))
custom_hooks = [dict(type='TeacherEMAHook', decay=0.9)]
optim_wrapper = dict(optimizer=dict(lr=1e-4))
train_cfg = dict(max_iters=4000, val_interval=400)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1501, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=4001, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=1000))
