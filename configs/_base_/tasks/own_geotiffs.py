"""Your own GeoTIFFs of one place, before and after: two folders in the standard layout, paired by where they lie.

`data/before` has images and labels in `train` and `val`; `data/after` has images in `train` and `val` and, for the test
alone, labels in `val`. CRS, resolution, extent and file names may differ; bands must not. The windows, and the size of
their pixels, are those of `before`.
"""

_base_ = '../datasets/loaders.py'

# Set gsd (metres) where the two differ by more than a few percent: labels are then read at the same scale for both.
rasters = dict(type='RasterDataset')
before = dict(**rasters, data_root='data/before', classes_file='classes.yaml')
after = dict(**rasters, data_root='data/after', classes_file='classes.yaml')
windows = dict(size=512, stride=384)
tiles = dict(size=512)
load = [dict(type='LoadRasterImage')]
flip = dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical'])

# Without PhotoMetricDistortion, which takes 3 bands of 8 bits only.
labelled = dict(
    windows=windows,
    pipeline=[
        dict(type='LoadRasterImage'),
        dict(type='LoadRasterAnnotations'),
        dict(type='RandomCrop', crop_size=_base_.crop_size, cat_max_ratio=0.75),
        flip,
        dict(type='PackRasterInputs'),
    ],
)
own_evaluation = dict(_base_.evaluation, windows=tiles)
task = dict(
    # Measured on the images of each domain; docs/datasets.md, Statistics.
    data_preprocessor=dict(mean='auto', std='auto', source_mean='auto', source_std='auto'),
    # The labels of `before`, in training and validation.
    source_labels=dict(
        train_dataloader=dict(dataset=dict(**before, **dict(_base_.labelled, **labelled))),
        val_dataloader=dict(dataset=dict(**before, **own_evaluation)),
        val_evaluator=_base_.test_evaluator,
    ),
)

train_dataloader = dict(
    dataset=dict(
        type='GeographicPairedDataset',
        source=dict(**before, data_prefix=dict(img_path='img_dir/train'), windows=windows, pipeline=load),
        target=dict(**after, data_prefix=dict(img_path='img_dir/train'), pipeline=load),
        pipeline=[dict(type='RandomCrop', crop_size=_base_.crop_size), flip],
        min_overlap=0.5,
    )
)
# Held-out pairs: no label is read. Keep these rasters apart from those of training, by more than their overlap.
val_dataloader = dict(
    dataset=dict(
        type='GeographicPairedDataset',
        source=dict(**before, data_prefix=dict(img_path='img_dir/val'), windows=tiles, pipeline=load, test_mode=True),
        target=dict(**after, data_prefix=dict(img_path='img_dir/val'), pipeline=load, test_mode=True),
        min_overlap=0.5,
    )
)
test_dataloader = dict(dataset=dict(**after, **own_evaluation))
val_evaluator = dict(_delete_=True, type='RegressionLoss')
