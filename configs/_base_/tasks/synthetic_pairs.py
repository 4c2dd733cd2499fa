"""Synthetic pairs (tools/dataset_converters/synthetic_pairs.py): the same towns in two seasons, through two cameras."""

_base_ = '../datasets/loaders.py'

crop_size = (256, 256)

source = dict(type='PotsdamDataset', data_root='data/synthetic_pairs/source')
target = dict(type='PotsdamDataset', data_root='data/synthetic_pairs/target')
load = [dict(type='LoadRasterImage')]
labelled = dict(
    data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
    pipeline=[
        dict(type='LoadRasterImage'),
        dict(type='LoadRasterAnnotations'),
        dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
        dict(type='PackRasterInputs'),
    ],
)
tested = dict(
    data_prefix=dict(img_path='img_dir/test', seg_map_path='ann_dir/test'),
    pipeline=_base_.test_pipeline,
    test_mode=True,
)

source_labels = dict(
    train_dataloader=dict(dataset=dict(**source, **labelled)),
    val_dataloader=dict(dataset=dict(**source, **_base_.evaluation)),
    val_evaluator=_base_.test_evaluator,
)
target_labels = dict(
    train_dataloader=dict(dataset=dict(**target, **labelled)),
    val_dataloader=dict(dataset=dict(**target, **_base_.evaluation)),
    val_evaluator=_base_.test_evaluator,
)
task = dict(
    # Cars and clutter are rare; without weights, 600 iterations find no car.
    class_weight=[1.0, 1.0, 1.0, 1.25, 3.0, 3.0],
    source_labels=source_labels,
    target_labels=target_labels,
)

train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        type='PairedDataset',
        source=dict(**source, data_prefix=dict(img_path='img_dir/train'), pipeline=load),
        target=dict(**target, data_prefix=dict(img_path='img_dir/train'), pipeline=load),
        pipeline=[dict(type='RandomCrop', crop_size=crop_size), dict(type='RandomFlip', prob=0.5)],
    ),
)
# Other towns than those of training and test; nobody looks at their labels.
val_dataloader = dict(
    dataset=dict(
        type='PairedDataset',
        source=dict(**source, data_prefix=dict(img_path='img_dir/val'), pipeline=load, test_mode=True),
        target=dict(**target, data_prefix=dict(img_path='img_dir/val'), pipeline=load, test_mode=True),
    )
)
test_dataloader = dict(dataset=dict(**target, **tested))
val_evaluator = dict(_delete_=True, type='RegressionLoss')
