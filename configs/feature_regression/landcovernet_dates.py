"""LandCoverNet, January to August, feature regression with SegFormer MiT-B5.

Fields are sown and harvested between two dates. `local(3)` also forgives the pixel by which Sentinel-2's images of two
dates may be off.
"""

_base_ = [
    '../_base_/tasks/landcovernet_dates.py',
    '../_base_/networks/segformer_mit-b5.py',
    './method.py',
    '../_base_/schedules/adamw_40k.py',
]

reference_config = dict(
    config='{{ fileDirname }}/../source_only/method.py', task='landcovernet_dates', network='segformer_mit-b5'
)

model = dict(loss_regression=dict(tolerance='local(3)'))
