"""Your own GeoTIFFs, before and after, feature regression with SegFormer MiT-B0.

Copy this file and the two that it names, configs/_base_/datasets/own_geotiffs.py (folders, windows) and
configs/source_only/own_geotiffs.py (the reference), and set what is marked in each.

With a trained source model of this very network, or without:

    python tools/train.py configs/feature_regression/own_geotiffs.py --reference CHECKPOINT
    python tools/train.py configs/feature_regression/own_geotiffs.py
"""

_base_ = [
    '../_base_/datasets/own_geotiffs.py',  # yours
    '../_base_/adaptors/feature_regression_mit-b0.py',
    '../_base_/schedules/adamw_40k.py',
    '../_base_/regression_runtime.py',
]

# Yours. It trains the reference, and has the network's settings, too.
reference_config = '{{ fileDirname }}/../source_only/own_geotiffs.py'

model = dict(
    # Measured on the images of each domain; docs/datasets.md, Statistics.
    data_preprocessor=dict(mean='auto', std='auto', source_mean='auto', source_std='auto'),
    backbone=dict(in_channels=3),  # bands of your images
    decode_head=dict(num_classes=6),  # yours, as in classes.yaml; in the reference's configuration as well
    # local(3): content may be off by about four pixels of the image. 'exact' where both are orthorectified alike;
    # 'pyramid' or 'gram' where they are worse.
    loss_regression=dict(tolerance='local(3)'),
)
