"""Potsdam RGB to Potsdam IRRG: the same tiles, one exposure, other bands.

Pairs are the training clips, in both versions under the same names. Held-out pairs are the validation clips, without
their labels: other tiles than those of training.
"""

_base_ = '../datasets/isprs.py'

load = [dict(type='LoadRasterImage')]

task = dict(
    source_labels=dict(
        train_dataloader=dict(dataset=dict(**_base_.potsdam_rgb, **_base_.labelled)),
        val_dataloader=dict(dataset=dict(**_base_.potsdam_rgb, **_base_.evaluation)),
        val_evaluator=_base_.test_evaluator,
    )
)

train_dataloader = dict(
    dataset=dict(
        type='PairedDataset',
        source=dict(**_base_.potsdam_rgb, data_prefix=dict(img_path='img_dir/train'), pipeline=load),
        target=dict(**_base_.potsdam_irrg, data_prefix=dict(img_path='img_dir/train'), pipeline=load),
        pipeline=[
            # No smaller than a crop: padding would not count.
            dict(type='RandomResize', scale=(512, 512), ratio_range=(0.75, 2.0), keep_ratio=True),
            dict(type='RandomCrop', crop_size=_base_.crop_size),
            dict(type='RandomFlip', prob=0.5),
        ],
    )
)
val_dataloader = dict(
    dataset=dict(
        type='PairedDataset',
        source=dict(**_base_.potsdam_rgb, data_prefix=dict(img_path='img_dir/val'), pipeline=load, test_mode=True),
        target=dict(**_base_.potsdam_irrg, data_prefix=dict(img_path='img_dir/val'), pipeline=load, test_mode=True),
    )
)
test_dataloader = dict(dataset=dict(**_base_.potsdam_irrg, **_base_.evaluation))
val_evaluator = dict(_delete_=True, type='RegressionLoss')
