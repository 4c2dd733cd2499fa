"""The network as it is, on labels of the source and of a few target images: what methods for few labels have to beat.

`labelled_images` says which images. Half of the images of a step are of the source, half of these few.
"""

_base_ = '../_base_/default_runtime.py'

adaptor = dict(type='FewLabels')
streams = ('source', 'labelled')
