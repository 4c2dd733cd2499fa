"""Potsdam RGB to Vaihingen IRRG, MMSegmentation's split: DAFormer with MiT-B5, as UDA_for_RS trains it."""

_base_ = [
    '../_base_/tasks/potsdam-rgb2vaihingen_standard.py',
    '../_base_/networks/daformer_mit-b5.py',
    './method.py',
    '../_base_/schedules/daformer_4k.py',
]

# UDA_for_RS: a fast teacher that is sure from 0.7 on, and no rare classes sampled.
rare_class_sampling = None
train_dataloader = dict(batch_size=4)
model = dict(self_training=dict(threshold=0.7))
custom_hooks = [dict(type='TeacherEMAHook', decay=0.9)]
default_hooks = dict(checkpoint=dict(interval=1000))
