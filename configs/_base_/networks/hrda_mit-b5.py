"""HRDA (arXiv 2204.13132): DAFormer's network on images at half their size, and on parts of them at full size.

It is made for crops of 1024 px, twice those of other networks; with smaller ones it works, and sees less around.
"""

_base_ = './daformer_mit-b5.py'

network = dict(
    # The detail is half as high and wide as the image; detail_size=512 has it of 512 px whatever the image.
    backbone=dict(type='MultiResolution', base='EfficientMiT', detail_size=None, stride=4),
    decode_head=dict(type='HRDAHead', base='DAFormerHead', attention=dict(fusion='conv1'), detail_weight=0.1),
    test_cfg=dict(_delete_=True, mode='slide', crop_size=(1024, 1024), stride=(512, 512)),
)
