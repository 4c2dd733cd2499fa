"""LoveDA rural beside satellite images (arXiv 2301.05526): everything at 1024 px, crops of 416 px."""

_base_ = './loveda.py'

crop_size = (416, 416)

source_pipeline = [
    dict(type='LoadRasterImage'),
    dict(type='LoadRasterAnnotations'),
    dict(type='RandomResize', scale=(1024, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackRasterInputs'),
]
target_pipeline = [
    dict(type='LoadRasterImage'),
    dict(type='Resize', scale=crop_size, keep_ratio=False),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackRasterInputs'),
]
# Chips of 256 px are enlarged as in training. Annotations behind the resizing: they keep their own size.
test_pipeline = [
    dict(type='LoadRasterImage'),
    dict(type='Resize', scale=(1024, 1024), keep_ratio=True),
    dict(type='LoadRasterAnnotations'),
    dict(type='PackRasterInputs'),
]

satellite_labelled = dict(_base_.labelled, pipeline=source_pipeline)
satellite_unlabelled = dict(_base_.unlabelled, pipeline=target_pipeline)
satellite_evaluation = dict(_base_.evaluation, pipeline=test_pipeline)
rural_labelled = dict(pipeline=source_pipeline)
rural_unlabelled = dict(pipeline=target_pipeline)
rural_evaluation = dict(pipeline=test_pipeline)

# The release gives three weights of pseudo-labels for four classes.
task = dict(pseudo_class_weight=None)
train_dataloader = dict(batch_size=3)  # per process
