"""Pre-training in a trial, on the pair's own images: as many iterations as a method has, on windows that fit a CPU."""

_base_ = '../pretraining/contrast.py'

default_schedule = 'pretraining_600'
without_labels = dict(batch_size=4)
