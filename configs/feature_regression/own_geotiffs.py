"""Your own GeoTIFFs, before and after, feature regression with SegFormer MiT-B0.

Copy this file and the two that it names, configs/_base_/tasks/own_geotiffs.py (folders, windows) and
configs/source_only/own_geotiffs.py (the reference), and set what is marked in each.

With a trained source model of this very network, or without:

    python tools/train.py configs/feature_regression/own_geotiffs.py --reference CHECKPOINT
    python tools/train.py configs/feature_regression/own_geotiffs.py
"""

_base_ = [
    '../_base_/tasks/own_geotiffs.py',  # yours
    '../_base_/networks/segformer_mit-b0.py',
    './method.py',
    '../_base_/schedules/adamw_40k.py',
]

# Yours. It trains the reference, and has the network's settings, too.
reference_config = '{{ fileDirname }}/../source_only/own_geotiffs.py'

# local(3): content may be off by about four pixels of the image. 'exact' where both are orthorectified alike;
# 'pyramid' or 'gram' where they are worse.
model = dict(loss_regression=dict(tolerance='local(3)'))
