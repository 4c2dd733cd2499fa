"""Pre-training without labels on the images of both domains, for any task and network (docs/pretraining.md).

    python tools/train.py configs/pretraining/contrast.py --task landsat2sentinel --network segformer_r18

Any method starts from its checkpoint: --cfg-options load_from=CHECKPOINT.
"""

_base_ = '../_base_/default_runtime.py'

default_schedule = 'pretraining'

adaptor = dict(
    type='Contrast',
    # Two views differ by what is drawn for them, and by nothing else.
    backbone=dict(drop_path_rate=0.0),
    views=dict(
        kinds=dict(same=1.0),  # of pairs also other: another date or sensor
        # The ground sampling distance changes by up to 1.6, for it carries information.
        area=(0.4, 1.0),
        aspect=4 / 3,
        colours=dict(gain=1.25, gamma=1.25),
    ),
    global_loss=dict(loss='nt_xent', temperature=0.5),
    local_loss=dict(temperature=0.2, points=64),
)

# The task's images, windows and crops, without what labels would need; this many of each domain.
without_labels = dict(batch_size=8)

custom_hooks = [dict(type='CollapseWatchHook')]
