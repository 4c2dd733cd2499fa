"""The network as it is, trained on the target's own labels: what adaptation could reach at best."""

_base_ = '../_base_/default_runtime.py'

adaptor = None
trains_on = 'target'
