"""Landsat-5 to Sentinel-2 reflectance, six bands, on a CPU: ST-DASegNet with MiT-B0 from random initialisation."""

_base_ = [
    '../_base_/datasets/landsat2sentinel.py',
    '../_base_/adaptors/st_dasegnet_mit-b0.py',
    '../_base_/schedules/joint_adamw_600.py',
    '../_base_/default_runtime.py',
]

model = dict(
    # tools/analysis_tools/band_statistics.py prints these.
    data_preprocessor=dict(
        mean=[0.1834, 0.1783, 0.1706, 0.4311, 0.3145, 0.2023],
        std=[0.1390, 0.1370, 0.1591, 0.1532, 0.1505, 0.1353],
        source_mean=[0.1788, 0.1797, 0.1582, 0.2775, 0.1693, 0.1040],
        source_std=[0.0955, 0.1456, 0.1566, 0.1534, 0.1416, 0.1149],
    ),
    backbone=dict(in_channels=6, init_cfg=None),
    decode_head=dict(num_classes=4),
    test_cfg=dict(mode='whole'),
)
train_cfg = dict(max_iters=300, val_interval=100)
default_hooks = dict(checkpoint=dict(interval=300), logger=dict(interval=20))
