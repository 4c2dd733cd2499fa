"""DACS (arXiv 2007.08702) on any network: self-training on images that mix the domains."""

_base_ = '../_base_/default_runtime.py'

adaptor = dict(
    type='DACS',
    self_training=dict(threshold=0.968),
    mixing=dict(augmentation=dict(jitter=0.25)),
)

custom_hooks = [dict(type='TeacherEMAHook', decay=0.99)]
