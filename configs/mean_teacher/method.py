"""Labels of the source and of a few target images, and a mean teacher on the target's other images.

The student learns what the teacher sees in a target image, on the image with other colours; nothing is pasted.
"""

_base_ = '../_base_/default_runtime.py'

adaptor = dict(
    type='FewLabels',
    self_training=dict(threshold=0.968),
    mixing=dict(share=0.0, augmentation=dict(jitter=0.25)),
)
streams = ('source', 'labelled', 'target')

custom_hooks = [dict(type='TeacherEMAHook', decay=0.99)]
