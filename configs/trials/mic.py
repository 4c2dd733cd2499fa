"""MIC in a trial: as DAFormer there, and blocks of a sixth of the crops' side are hidden."""

_base_ = '../mic/method.py'

rare_class_sampling = dict(min_pixels=420)  # as large a share of a crop of 192 px as 3000 are of one of 512 px
custom_hooks = [dict(type='TeacherEMAHook', decay=0.99)]
