"""Dubai, bright to dark: tile groups 1, 2, 3, 7, 8 to groups 4, 5, 6, read at half size and scored at the full one."""

_base_ = '../datasets/trial.py'

load = [dict(type='LoadRasterImage')]
half = [dict(type='Resize', scale_factor=0.5, keep_ratio=True)]
labels = [dict(type='LoadRasterAnnotations')]

source = dict(type='RemoteSensingDataset', data_root='data/dubai_source', classes_file='classes.yaml')
target = dict(type='RemoteSensingDataset', data_root='data/dubai_target', classes_file='classes.yaml')

task = dict(num_classes=5)
train_dataloader = dict(
    dataset=dict(
        type='DomainAdaptationDataset',
        source=dict(
            **source,
            data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
            pipeline=[*load, *labels, *half, *_base_.source_augmentation],
        ),
        target=dict(
            **target,
            data_prefix=dict(img_path='img_dir/val'),
            pipeline=[*load, *half, *_base_.target_augmentation],
        ),
    )
)
val_dataloader = dict(
    dataset=dict(
        **target,
        data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
        # Annotations behind the resizing: they keep their full size.
        pipeline=[*load, *half, *labels, dict(type='PackRasterInputs')],
        test_mode=True,
    )
)
test_dataloader = val_dataloader
