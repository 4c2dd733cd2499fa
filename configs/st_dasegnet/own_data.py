"""Your own data, ST-DASegNet with SegFormer MiT-B5; see docs/datasets.md."""

_base_ = [
    '../_base_/tasks/own_data.py',
    '../_base_/networks/segformer_mit-b5.py',
    './method.py',
    '../_base_/schedules/adamw_40k.py',
]
