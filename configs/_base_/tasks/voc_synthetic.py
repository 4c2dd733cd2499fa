"""PASCAL VOC 2012, and the same images as another camera would have taken them.

    python tools/download_dataset.py voc2012 -o data/voc2012

Pairs are the first 1364 of the 1464 training images, in their published order; held-out pairs are the last 100. The
test set is the 1449 validation images under the same change, with their labels.
"""

_base_ = '../datasets/loaders.py'

# The same for every image, as a camera is.
camera = dict(type='CameraChange', strength=1.0, seed=0)

crop_size = (384, 384)
resize = dict(type='Resize', scale=(2048, 512), keep_ratio=True)
random_resize = dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.75, 2.0), keep_ratio=True)
load = [dict(type='LoadRasterImage')]
load_changed = [*load, camera]
# Labels behind the resizing: they keep their own size.
test_steps = [resize, dict(type='LoadRasterAnnotations'), dict(type='PackRasterInputs')]
source_pipeline = [
    dict(type='LoadRasterImage'),
    dict(type='LoadRasterAnnotations'),
    random_resize,
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackRasterInputs'),
]

# As the archive unpacks. In the label maps 255 is the boundary of an object, which is ignored.
voc = dict(
    type='RemoteSensingDataset',
    data_root='data/voc2012/VOCdevkit/VOC2012',
    img_suffix='.jpg',
    seg_map_suffix='.png',
    metainfo=dict(
        classes=(
            'background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow',
            'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor',
        ),
        palette=[
            [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128],
            [128, 128, 128], [64, 0, 0], [192, 0, 0], [64, 128, 0], [192, 128, 0], [64, 0, 128], [192, 0, 128],
            [64, 128, 128], [192, 128, 128], [0, 64, 0], [128, 64, 0], [0, 192, 0], [128, 192, 0], [0, 64, 128],
        ],
    ),
)  # fmt: skip
images = dict(img_path='JPEGImages')
images_and_labels = dict(img_path='JPEGImages', seg_map_path='SegmentationClass')
train = dict(**voc, ann_file='ImageSets/Segmentation/train.txt')
val = dict(**voc, ann_file='ImageSets/Segmentation/val.txt', data_prefix=images_and_labels, test_mode=True)

# With labels: of the source for the reference, of the target for comparison.
labelled = dict(**train, data_prefix=images_and_labels, pipeline=source_pipeline)
labelled_target = dict(labelled, pipeline=[*source_pipeline[:2], camera, *source_pipeline[2:]])
source_evaluation = dict(**val, pipeline=[*load, *test_steps])

test_dataloader = dict(dataset=dict(**val, pipeline=[*load_changed, *test_steps]))
task = dict(
    source_labels=dict(
        train_dataloader=dict(dataset=labelled),
        val_dataloader=dict(dataset=source_evaluation),
        val_evaluator=_base_.test_evaluator,
    ),
    target_labels=dict(
        train_dataloader=dict(dataset=labelled_target),
        val_dataloader=test_dataloader,
        val_evaluator=_base_.test_evaluator,
    ),
)

train_dataloader = dict(
    batch_size=8,  # per process
    dataset=dict(
        type='PairedDataset',
        source=dict(**train, data_prefix=images, indices=1364, pipeline=load),
        target=dict(**train, data_prefix=images, indices=1364, pipeline=load_changed),
        pipeline=[random_resize, dict(type='RandomCrop', crop_size=crop_size), dict(type='RandomFlip', prob=0.5)],
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='PairedDataset',
        source=dict(**train, data_prefix=images, indices=-100, pipeline=load, test_mode=True),
        target=dict(**train, data_prefix=images, indices=-100, pipeline=load_changed, test_mode=True),
        pipeline=[resize],
    )
)
val_evaluator = dict(_delete_=True, type='RegressionLoss')
