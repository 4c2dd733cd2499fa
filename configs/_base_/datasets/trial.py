"""What the images of a trial go through: crops of 192 px in all eight directions, and mild changes of colour."""

_base_ = './loaders.py'

crop_size = (192, 192)
turns = [dict(type='RandomFlip', prob=0.5), dict(type='RandomRotFlip', rotate_prob=0.0, flip_prob=1.0)]
colours = dict(
    type='PhotoMetricDistortion',
    brightness_delta=16,
    contrast_range=(0.8, 1.2),
    saturation_range=(0.8, 1.2),
    hue_delta=5,
)
source_augmentation = [
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    *turns,
    colours,
    dict(type='PackRasterInputs'),
]
target_augmentation = [dict(type='RandomCrop', crop_size=crop_size), *source_augmentation[1:]]
