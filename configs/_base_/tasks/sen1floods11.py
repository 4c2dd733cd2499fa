"""Sentinel-1 of floods, half of it water, to other places with little of it: chips of Sen1Floods11, in dB.

Names in `source.txt` and `target.txt` say which chip is what (docs/geotiffs.md, Sentinel-1 floods).
"""

_base_ = '../datasets/loaders.py'

load = [dict(type='LoadRasterImage')]
labels = [dict(type='LoadRasterAnnotations')]
augmentation = [dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']), dict(type='PackRasterInputs')]

chips = dict(
    type='RasterDataset',
    data_root='data/sen1floods11',
    classes_file='classes.yaml',
    img_suffix='_S1Hand.tif',
    seg_map_suffix='_LabelHand.tif',
    gsd=10,  # in degrees, their pixels differ on the ground
)
windows = dict(size=192, stride=128)

task = dict(num_classes=2, data_preprocessor=dict(mean='auto', std='auto', source_mean='auto', source_std='auto'))
train_dataloader = dict(
    dataset=dict(
        type='DomainAdaptationDataset',
        source=dict(
            **chips,
            ann_file='source.txt',
            data_prefix=dict(img_path='S1', seg_map_path='Labels'),
            windows=windows,
            pipeline=[*load, *labels, *augmentation],
        ),
        target=dict(
            **chips,
            ann_file='target.txt',
            data_prefix=dict(img_path='S1'),
            windows=windows,
            pipeline=[*load, *augmentation],
        ),
    )
)
val_dataloader = dict(
    dataset=dict(
        **chips,
        ann_file='target.txt',
        data_prefix=dict(img_path='S1', seg_map_path='Labels'),
        windows=dict(size=512),
        pipeline=[*load, *labels, dict(type='PackRasterInputs')],
        test_mode=True,
    )
)
test_dataloader = val_dataloader
