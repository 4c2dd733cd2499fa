"""LoveDA rural to urban, ST-DASegNet with SegFormer MiT-B5."""

_base_ = [
    '../_base_/tasks/loveda-rural2urban.py',
    '../_base_/networks/segformer_mit-b5.py',
    './method.py',
    '../_base_/schedules/adamw_40k.py',
]
