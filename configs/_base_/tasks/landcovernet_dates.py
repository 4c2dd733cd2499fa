"""LandCoverNet Sentinel-2: the same chips in the rainy season (source) and in the dry one (target).

    python tools/dataset_converters/landcovernet.py downloads/LandCoverNet -o data/landcovernet_january --date 20180115
    python tools/dataset_converters/landcovernet.py downloads/LandCoverNet -o data/landcovernet_august --date 20180815

Pairs are the chips of the training tiles. Held-out pairs are those of the validation tiles, without their labels.
"""

_base_ = '../datasets/loaders.py'

# Chips of 256 px at 10 m are enlarged, in training and test.
enlarge = dict(type='Resize', scale=(512, 512), keep_ratio=True)
test_pipeline = [
    dict(type='LoadRasterImage'),
    enlarge,
    dict(type='LoadRasterAnnotations'),
    dict(type='PackRasterInputs'),
]
load = [dict(type='LoadRasterImage')]

january = dict(type='LandCoverNetDataset', data_root='data/landcovernet_january')
august = dict(type='LandCoverNetDataset', data_root='data/landcovernet_august')

own_evaluation = dict(_base_.evaluation, pipeline=test_pipeline)
task = dict(
    # January's own labels, in training and validation.
    source_labels=dict(
        train_dataloader=dict(dataset=dict(**january, **_base_.labelled)),
        val_dataloader=dict(dataset=dict(**january, **own_evaluation)),
        val_evaluator=_base_.test_evaluator,
    )
)

train_dataloader = dict(
    dataset=dict(
        type='PairedDataset',
        source=dict(**january, data_prefix=dict(img_path='img_dir/train'), pipeline=load),
        target=dict(**august, data_prefix=dict(img_path='img_dir/train'), pipeline=load),
        pipeline=[
            # No smaller than a crop: padding would not count.
            dict(type='RandomResize', scale=(512, 512), ratio_range=(0.75, 2.0), keep_ratio=True),
            dict(type='RandomCrop', crop_size=_base_.crop_size),
            dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
        ],
        # A chip may lack an image of one of the dates.
        allow_unpaired=True,
    )
)
val_dataloader = dict(
    dataset=dict(
        type='PairedDataset',
        source=dict(**january, data_prefix=dict(img_path='img_dir/val'), pipeline=load, test_mode=True),
        target=dict(**august, data_prefix=dict(img_path='img_dir/val'), pipeline=load, test_mode=True),
        pipeline=[enlarge],
        allow_unpaired=True,
    )
)
test_dataloader = dict(dataset=dict(**august, **own_evaluation))
val_evaluator = dict(_delete_=True, type='RegressionLoss')
