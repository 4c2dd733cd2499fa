"""The network as it is, trained on the labels of the source alone: what adaptation has to beat."""

_base_ = '../_base_/default_runtime.py'

adaptor = None
trains_on = 'source'
