"""DAFormer in a trial: a teacher that keeps up with 600 iterations, and rare classes by the size of the crops."""

_base_ = '../daformer/method.py'

rare_class_sampling = dict(min_pixels=420)  # as large a share of a crop of 192 px as 3000 are of one of 512 px
custom_hooks = [dict(type='TeacherEMAHook', decay=0.99)]
