"""Few labels (arXiv 2206.02307): a mean teacher, class mixing, and pixels of a class that become alike everywhere."""

_base_ = '../mean_teacher/method.py'

adaptor = dict(mixing=dict(share=0.5), contrast=dict(weight=0.01))
