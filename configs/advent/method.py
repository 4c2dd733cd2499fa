"""AdvEnt (arXiv 1811.12833) on any network: a discriminator compares how sure predictions are, class by class."""

_base_ = '../_base_/default_runtime.py'

adaptor = dict(
    type='OutputSpaceAlignment',
    # Two levels, as in the paper: `auxiliary_head=0.0002` here, and an auxiliary head as in ../minent/method.py.
    weights=dict(decode_head=0.001),
    discriminator=dict(type='OutputDiscriminator', base_channels=64),
    input_map='self_information',
    gan_loss=dict(
        type='GANLoss',
        gan_type='vanilla',
        real_label_val=0.0,  # the source
        fake_label_val=1.0,
        discriminator_weight=0.5,  # the mean over both domains
    ),
)

optim_parts = dict(discriminator=dict(optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.99), fused=True)))
