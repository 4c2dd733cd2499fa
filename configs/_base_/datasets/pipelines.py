"""Pipelines of the ISPRS tasks (arXiv 2301.05526): clips of 512 px, crops of 384 px.

Images keep their bands' order (RGB or IRRG). PhotoMetricDistortion takes them for BGR all the same: exchanging the
first and the last band mirrors the circle of hues and leaves saturation and value alone, and the hue shift is symmetric
about zero, so the distortion has the same distribution in either order.
"""

crop_size = (384, 384)

source_pipeline = [
    dict(type='LoadRasterImage'),
    dict(type='LoadRasterAnnotations'),
    dict(type='RandomResize', scale=(512, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackRasterInputs'),
]

# The paper's: the whole clip, no crop, no flip. Without keep_ratio no target image needs padding, whose pixels would
# get pseudo-labels.
target_pipeline = [
    dict(type='LoadRasterImage'),
    dict(type='Resize', scale=crop_size, keep_ratio=False),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackRasterInputs'),
]

# Not the paper's: the target at the source's scale, cropped and flipped. For images that are larger than a crop:
#     train_dataloader = dict(dataset=dict(target=dict(pipeline=_base_.target_crop_pipeline)))
target_crop_pipeline = [
    dict(type='LoadRasterImage'),
    dict(type='RandomResize', scale=(512, 512), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackRasterInputs'),
]

test_pipeline = [
    dict(type='LoadRasterImage'),
    dict(type='LoadRasterAnnotations'),
    dict(type='PackRasterInputs'),
]
