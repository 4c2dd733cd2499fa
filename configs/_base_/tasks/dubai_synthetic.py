"""Dubai and the same images as another camera shows them: pairs with a known, purely radiometric change.

Images of all tile groups, split into train, val and test (docs/datasets.md, the worked example). They are read at half
size; the scores are those of the full one.
"""

_base_ = '../datasets/loaders.py'

crop_size = (192, 192)
half = dict(type='Resize', scale_factor=0.5, keep_ratio=True)
camera = dict(type='CameraChange', strength=1.0, seed=0)
# None by default: pairs lie pixel on pixel. The study of tolerances moves the target by some pixels.
misalignment = dict(type='Misalignment', shift=0, seed=0)

dubai = dict(type='RemoteSensingDataset', data_root='data/dubai', classes_file='classes.yaml')
unchanged = [dict(type='LoadRasterImage'), half]
changed = [dict(type='LoadRasterImage'), half, camera, misalignment]
augmentation = [dict(type='RandomCrop', crop_size=crop_size), dict(type='RandomFlip', prob=0.5)]

labelled = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')
labelled_source = dict(
    **dubai,
    data_prefix=labelled,
    pipeline=[
        dict(type='LoadRasterImage'),
        dict(type='LoadRasterAnnotations'),
        half,
        dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackRasterInputs'),
    ],
)
# With labels, for comparison.
labelled_target = dict(
    labelled_source, pipeline=[*labelled_source['pipeline'][:3], camera, *labelled_source['pipeline'][3:]]
)
unvalidated = dict(val_dataloader=None, val_evaluator=None, val_cfg=None)
task = dict(
    num_classes=5,
    source_labels=dict(train_dataloader=dict(dataset=labelled_source), **unvalidated),
    target_labels=dict(train_dataloader=dict(dataset=labelled_target), **unvalidated),
)

train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        type='PairedDataset',
        source=dict(**dubai, data_prefix=dict(img_path='img_dir/train'), pipeline=unchanged),
        target=dict(**dubai, data_prefix=dict(img_path='img_dir/train'), pipeline=changed),
        pipeline=augmentation,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='PairedDataset',
        source=dict(**dubai, data_prefix=dict(img_path='img_dir/val'), pipeline=unchanged, test_mode=True),
        target=dict(**dubai, data_prefix=dict(img_path='img_dir/val'), pipeline=changed, test_mode=True),
    )
)
val_evaluator = dict(_delete_=True, type='RegressionLoss')
test_dataloader = dict(
    dataset=dict(
        **dubai,
        data_prefix=dict(img_path='img_dir/test', seg_map_path='ann_dir/test'),
        # Annotations behind the resizing: they keep their full size.
        pipeline=[
            dict(type='LoadRasterImage'),
            half,
            camera,
            dict(type='LoadRasterAnnotations'),
            dict(type='PackRasterInputs'),
        ],
        test_mode=True,
    )
)
