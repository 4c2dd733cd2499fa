"""Your own data, ST-DASegNet with SegFormer MiT-B5: set the number of classes, see docs/datasets.md."""

_base_ = [
    '../_base_/datasets/own_data.py',
    '../_base_/adaptors/st_dasegnet_mit-b5.py',
    '../_base_/schedules/joint_adamw_40k.py',
    '../_base_/default_runtime.py',
]
