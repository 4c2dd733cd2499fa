"""ST-DASegNet's network on source labels alone, for half of a trial: what its adaptation starts from."""

_base_ = '../st_dasegnet/method.py'

adaptor = dict(discriminator=None, self_training=None)
custom_hooks = []
optim_parts = dict(discriminator=None)
trains_on = 'source'
