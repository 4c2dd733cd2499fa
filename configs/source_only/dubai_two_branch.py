"""Dubai bright to dark: the two-branch network with its two source losses alone."""

_base_ = '../st_dasegnet/dubai.py'

model = dict(discriminator=None, self_training=None)
custom_hooks = []
optim_parts = dict(discriminator=None)
trains_on = 'source'
