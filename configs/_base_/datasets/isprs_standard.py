"""The ISPRS data sets in MMSegmentation's clips (the converters' `--split standard`) and its crops of 512 px."""

_base_ = './isprs.py'

crop_size = (512, 512)

source_pipeline = [
    dict(type='LoadRasterImage'),
    dict(type='LoadRasterAnnotations'),
    dict(type='RandomResize', scale=(512, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackRasterInputs'),
]

# No smaller than a crop, whose rest would be padding without pseudo-labels.
target_pipeline = [
    dict(type='LoadRasterImage'),
    dict(type='RandomResize', scale=(512, 512), ratio_range=(1.0, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackRasterInputs'),
]

labelled = dict(pipeline=source_pipeline)
unlabelled = dict(pipeline=target_pipeline)

potsdam_irrg = dict(data_root='data/potsdam_irrg_standard')
potsdam_rgb = dict(data_root='data/potsdam_rgb_standard')
vaihingen = dict(data_root='data/vaihingen_standard')
