"""AdvEnt (arXiv 1811.12833) on any network: as AdaptSegNet, but a discriminator compares how sure predictions are."""

_base_ = '../adaptsegnet/method.py'

adaptor = dict(input_map='self_information')
