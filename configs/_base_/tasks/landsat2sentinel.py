"""Landsat-5 to Sentinel-2: whole GeoTIFFs of six reflectance bands, read by window (docs/adding_a_dataset.md)."""

_base_ = '../datasets/loaders.py'

# Everything reads 6 bands of float32, which photometric distortion cannot take.
source_pipeline = [
    dict(type='LoadRasterImage'),
    dict(type='LoadRasterAnnotations'),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackRasterInputs'),
]
target_pipeline = [step for step in source_pipeline if step['type'] != 'LoadRasterAnnotations']
test_pipeline = [step for step in source_pipeline if step['type'] != 'RandomFlip']

landsat = dict(type='RasterDataset', data_root='data/reflectance/landsat5', classes_file='../classes.yaml')
sentinel = dict(type='RasterDataset', data_root='data/reflectance/sentinel2', classes_file='../classes.yaml')
windows = dict(size=192, stride=64)

task = dict(
    num_classes=4,
    # tools/analysis_tools/band_statistics.py prints these.
    data_preprocessor=dict(
        mean=[0.1834, 0.1783, 0.1706, 0.4311, 0.3145, 0.2023],
        std=[0.1390, 0.1370, 0.1591, 0.1532, 0.1505, 0.1353],
        source_mean=[0.1788, 0.1797, 0.1582, 0.2775, 0.1693, 0.1040],
        source_std=[0.0955, 0.1456, 0.1566, 0.1534, 0.1416, 0.1149],
    ),
)

train_dataloader = dict(
    dataset=dict(
        type='DomainAdaptationDataset',
        source=dict(
            **landsat,
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            windows=windows,
            pipeline=source_pipeline,
        ),
        target=dict(**sentinel, data_prefix=dict(img_path='images'), windows=windows, pipeline=target_pipeline),
    )
)
val_dataloader = dict(
    dataset=dict(
        **sentinel,
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        windows=dict(size=512),
        pipeline=test_pipeline,
        test_mode=True,
    )
)
test_dataloader = val_dataloader
