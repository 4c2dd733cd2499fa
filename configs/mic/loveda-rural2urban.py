"""LoveDA rural to urban, crops of 512 px: MIC on DAFormer with MiT-B5."""

_base_ = [
    '../_base_/tasks/loveda-rural2urban_512.py',
    '../_base_/networks/daformer_mit-b5.py',
    './method.py',
    '../_base_/schedules/daformer_40k.py',
]

# As DAFormer on this task.
rare_class_sampling = None
train_dataloader = dict(batch_size=6)
# SiamSeg's: the weights of the six ISPRS classes, and 1 for the seventh.
task = dict(class_weight=[1.0, 1.0, 1.0, 1.25, 1.5, 1.5, 1.0])
