"""MIC (arXiv 2212.01322) on any network: DAFormer, and target images of which blocks are hidden.

The published runs have HRDA's network: `--network hrda_mit-b5`, in crops of 1024 px with blocks of 64 px.
"""

_base_ = '../daformer/method.py'

adaptor = dict(masked_consistency=dict(weight=1.0, ratio=0.7, block=32, augmentation=dict(jitter=0.2)))
