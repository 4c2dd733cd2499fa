"""Dubai, bright to dark: tile groups 1, 2, 3, 7, 8 to groups 4, 5, 6 (docs/datasets.md makes the folders).

Images are read at half size; the scores are those of the full one.
"""

_base_ = '../datasets/loaders.py'

crop_size = (192, 192)
half = dict(type='Resize', scale_factor=0.5, keep_ratio=True)
augmentation = [
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackRasterInputs'),
]
source_pipeline = [dict(type='LoadRasterImage'), dict(type='LoadRasterAnnotations'), half, *augmentation]
# Cropped and flipped, unlike the paper's: images of up to 1075 x 740 px squeezed into a crop are another scale.
target_pipeline = [
    dict(type='LoadRasterImage'),
    half,
    dict(type='RandomCrop', crop_size=crop_size),
    *augmentation[1:],
]
# Annotations behind the resizing: they keep their full size.
test_pipeline = [dict(type='LoadRasterImage'), half, dict(type='LoadRasterAnnotations'), dict(type='PackRasterInputs')]

source = dict(
    type='RemoteSensingDataset',
    data_root='data/dubai_source',
    classes_file='classes.yaml',
    data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
    pipeline=source_pipeline,
)
target = dict(
    type='RemoteSensingDataset',
    data_root='data/dubai_target',
    classes_file='classes.yaml',
)
images = dict(img_path='img_dir/val')
evaluated = dict(
    **target,
    data_prefix=dict(**images, seg_map_path='ann_dir/val'),
    pipeline=test_pipeline,
    test_mode=True,
)

task = dict(num_classes=5)
train_dataloader = dict(
    dataset=dict(
        type='DomainAdaptationDataset',
        source=source,
        target=dict(**target, data_prefix=images, pipeline=target_pipeline),
    )
)
val_dataloader = dict(dataset=evaluated)
test_dataloader = val_dataloader
