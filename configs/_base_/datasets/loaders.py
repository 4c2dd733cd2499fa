"""Loaders and evaluators of every task, and how a data set in the standard layout is used. A task adds data sets."""

_base_ = './pipelines.py'

# As labelled training images, as unlabelled target, for evaluation.
labelled = dict(
    data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'), pipeline=_base_.source_pipeline
)
unlabelled = dict(data_prefix=dict(img_path='img_dir/train'), pipeline=_base_.target_pipeline)
evaluation = dict(
    data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'), pipeline=_base_.test_pipeline, test_mode=True
)

# The batch size belongs to the method.
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='IoUMetric')
test_evaluator = val_evaluator
