"""LandCoverNet, January to August, feature regression with SegFormer MiT-B5.

Fields are sown and harvested between two dates. `local(3)` also forgives the pixel by which Sentinel-2's images of two
dates may be off.
"""

_base_ = [
    '../_base_/datasets/landcovernet_dates.py',
    '../_base_/adaptors/feature_regression_mit-b5.py',
    '../_base_/schedules/adamw_40k.py',
    '../_base_/regression_runtime.py',
]

reference_config = '{{ fileDirname }}/../source_only/landcovernet_dates.py'

model = dict(decode_head=dict(num_classes=7), loss_regression=dict(tolerance='local(3)'))
