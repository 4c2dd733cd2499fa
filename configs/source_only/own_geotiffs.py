"""Your own GeoTIFFs, SegFormer MiT-B0: the reference of configs/feature_regression/own_geotiffs.py.

Validation: your source's own labels. Test: the target as it is.
"""

_base_ = [
    '../_base_/tasks/own_geotiffs.py',  # yours
    '../_base_/networks/segformer_mit-b0.py',
    './method.py',
    '../_base_/schedules/adamw_40k.py',
]
