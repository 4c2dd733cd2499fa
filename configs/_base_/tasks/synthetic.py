"""The synthetic pair: crops of 192 px, small enough for a CPU."""

_base_ = '../datasets/loaders.py'

crop_size = (192, 192)

source_pipeline = [
    dict(type='LoadRasterImage'),
    dict(type='LoadRasterAnnotations'),
    dict(type='RandomResize', scale=(512, 512), ratio_range=(0.5, 1.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackRasterInputs'),
]
# Cropped and flipped, unlike the paper's: squeezing 512 px into 192 would coarsen the resolution that is tested.
target_pipeline = [
    dict(type='LoadRasterImage'),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackRasterInputs'),
]

potsdam = dict(type='PotsdamDataset', data_root='data/synthetic/potsdam_irrg')
vaihingen = dict(type='VaihingenDataset', data_root='data/synthetic/vaihingen')
labelled = dict(pipeline=source_pipeline)
unlabelled = dict(pipeline=target_pipeline)

task = dict(class_weight=[1.0, 1.0, 1.0, 1.25, 3.0, 3.0], pseudo_class_weight=[1.0, 1.0, 1.5, 1.5, 2.0, 2.0])

train_dataloader = dict(
    dataset=dict(
        type='DomainAdaptationDataset',
        source=dict(
            **potsdam,
            data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
            pipeline=source_pipeline,
        ),
        target=dict(**vaihingen, data_prefix=dict(img_path='img_dir/train'), pipeline=target_pipeline),
    )
)
val_dataloader = dict(dataset=dict(**vaihingen, **_base_.evaluation))
test_dataloader = val_dataloader
