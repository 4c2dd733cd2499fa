"""DAFormer (arXiv 2111.14887) on any network: DACS, a slower teacher, and more of the rare classes.

Its network and schedule are `--network daformer_mit-b5`, whose default schedule is `daformer_40k`.
"""

_base_ = '../_base_/default_runtime.py'

adaptor = dict(
    type='DACS',
    self_training=dict(threshold=0.968),
    mixing=dict(augmentation=dict(jitter=0.2)),
    # The paper keeps features of countable objects near ImageNet's. Seen from above, hardly any fills a cell of 32 px:
    # a car has 36 x 90 px at 5 cm. For RGB images, and buildings as class 1: dict(classes=[1])
    feature_distance=None,
)

# The temperature follows from the number of classes.
rare_class_sampling = dict(min_pixels=3000)

custom_hooks = [dict(type='TeacherEMAHook', decay=0.999)]
