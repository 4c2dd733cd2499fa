"""FADA (arXiv 2007.09222) on any network: a discriminator of the features of each class.

The authors start from source-trained weights: `--cfg-options load_from=work_dirs/SOURCE_ONLY/iter_N.pth`.
"""

_base_ = '../_base_/default_runtime.py'

adaptor = dict(
    type='FADA',
    discriminator=dict(type='ClassDiscriminator', in_channels=None, base_channels=512),
    weight=0.001,
    temperature=1.8,
    most=0.9,
)

optim_parts = dict(discriminator=dict(optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.99), fused=True)))
