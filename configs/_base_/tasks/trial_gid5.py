"""GID-5, middle to dark: clips of one sensor in which the classes' shares differ strongly."""

_base_ = '../datasets/trial.py'

load = [dict(type='LoadRasterImage')]
labels = [dict(type='LoadRasterAnnotations')]

clips = dict(type='RemoteSensingDataset', data_root='data/gid5_clips', classes_file='classes.yaml')

task = dict(num_classes=5)
train_dataloader = dict(
    dataset=dict(
        type='DomainAdaptationDataset',
        source=dict(
            **clips,
            data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
            pipeline=[*load, *labels, *_base_.source_augmentation],
        ),
        target=dict(**clips, data_prefix=dict(img_path='img_dir/val'), pipeline=[*load, *_base_.target_augmentation]),
    )
)
val_dataloader = dict(
    dataset=dict(
        **clips,
        data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
        pipeline=[*load, *labels, dict(type='PackRasterInputs')],
        test_mode=True,
    )
)
test_dataloader = val_dataloader
