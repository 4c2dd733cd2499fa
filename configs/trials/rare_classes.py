"""Source labels alone in a trial, drawn as DAFormer draws them: what of its gain is the sampling of rare classes."""

_base_ = '../source_only/method.py'

rare_class_sampling = dict(min_pixels=420)  # as large a share of a crop of 192 px as 3000 are of one of 512 px
