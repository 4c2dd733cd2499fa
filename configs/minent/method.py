"""MinEnt (arXiv 1811.12833) on any network: predictions on the target learn to be sure.

Start from source-trained weights, `--cfg-options load_from=work_dirs/SOURCE_ONLY/iter_N.pth`, and keep the weight at
0.001 or below: any map without doubt has no entropy, also one of the largest classes alone.
"""

_base_ = '../_base_/default_runtime.py'

adaptor = dict(
    type='OutputSpaceAlignment',
    # Two levels, as in the paper: an auxiliary head takes part. docs/methods.md has a whole leaf of it:
    #     weights=dict(decode_head=0.001, auxiliary_head=0.0002),
    #     auxiliary_head=dict(
    #         type='mmseg.FCNHead', in_channels=None, in_index=2, channels=256, num_convs=1, num_classes=None,
    #         loss_decode=dict(type='PixelMeanCrossEntropyLoss', loss_weight=0.1)),
    weights=dict(decode_head=0.001),
)
