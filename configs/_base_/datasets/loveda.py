"""LoveDA, rural and urban (arXiv 2301.05526): images of 1024 px, crops of 384 px. A task adds source and target."""

_base_ = './loaders.py'

crop_size = (384, 384)

source_pipeline = [
    dict(type='LoadRasterImage'),
    dict(type='LoadRasterAnnotations'),
    dict(type='RandomResize', scale=(1024, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackRasterInputs'),
]

loveda = dict(type='LoveDADataset', data_root='data/loveda')

rural_labelled = dict(
    **loveda,
    data_prefix=dict(img_path='Train/Rural/images_png', seg_map_path='Train/Rural/masks_png'),
    pipeline=source_pipeline,
)
urban_labelled = dict(
    **loveda,
    data_prefix=dict(img_path='Train/Urban/images_png', seg_map_path='Train/Urban/masks_png'),
    pipeline=source_pipeline,
)
rural_unlabelled = dict(**loveda, data_prefix=dict(img_path='Train/Rural/images_png'), pipeline=_base_.target_pipeline)
urban_unlabelled = dict(**loveda, data_prefix=dict(img_path='Train/Urban/images_png'), pipeline=_base_.target_pipeline)
rural_evaluation = dict(
    **loveda,
    data_prefix=dict(img_path='Val/Rural/images_png', seg_map_path='Val/Rural/masks_png'),
    pipeline=_base_.test_pipeline,
    test_mode=True,
)
urban_evaluation = dict(
    **loveda,
    data_prefix=dict(img_path='Val/Urban/images_png', seg_map_path='Val/Urban/masks_png'),
    pipeline=_base_.test_pipeline,
    test_mode=True,
)
# For the test server, `tools/test.py --format-only`: images without public labels.
submission_pipeline = [dict(type='LoadRasterImage'), dict(type='PackRasterInputs')]
rural_submission = dict(
    **loveda, data_prefix=dict(img_path='Test/Rural/images_png'), pipeline=submission_pipeline, test_mode=True
)
urban_submission = dict(
    **loveda, data_prefix=dict(img_path='Test/Urban/images_png'), pipeline=submission_pipeline, test_mode=True
)

task = dict(
    class_weight=[1.25, 1.0, 1.25, 1.0, 1.5, 1.25, 1.0], pseudo_class_weight=[1.51, 1.01, 1.51, 1.01, 2.01, 1.51, 1.01]
)
# Per process; an ASPP head needs 2 or more processes then.
train_dataloader = dict(batch_size=1)
