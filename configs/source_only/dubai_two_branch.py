"""Dubai bright to dark: the two-branch network with its two source losses alone."""

_base_ = '../st_dasegnet/dubai.py'

model = dict(discriminator=None, self_training=None)
custom_hooks = []
optim_wrapper = dict(discriminator=None)
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.train_dataloader.dataset.source))
