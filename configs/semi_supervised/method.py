"""Few labels without a source: a few labelled images of the target, and its other ones."""

_base_ = '../few_labels/method.py'

streams = ('labelled', 'target')
