"""LoveDA, rural and urban, in crops of 512 px. A task adds source and target."""

_base_ = './loveda.py'

crop_size = (512, 512)

# SiamSeg's, for both domains: at half size an image is a crop.
resize = dict(type='RandomResize', scale=(1024, 1024), ratio_range=(0.5, 1.5), keep_ratio=True)

source_pipeline = [
    dict(type='LoadRasterImage'),
    dict(type='LoadRasterAnnotations'),
    resize,
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackRasterInputs'),
]
target_pipeline = [
    dict(type='LoadRasterImage'),
    resize,
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackRasterInputs'),
]

rural_labelled = dict(pipeline=source_pipeline)
urban_labelled = dict(pipeline=source_pipeline)
rural_unlabelled = dict(pipeline=target_pipeline)
urban_unlabelled = dict(pipeline=target_pipeline)
