"""Potsdam IRRG to Vaihingen IRRG, MMSegmentation's split: MIC on DAFormer with MiT-B5."""

_base_ = [
    '../_base_/tasks/potsdam2vaihingen_standard.py',
    '../_base_/networks/daformer_mit-b5.py',
    './method.py',
    '../_base_/schedules/daformer_40k.py',
]

# As DAFormer on this task.
rare_class_sampling = None
train_dataloader = dict(batch_size=6)
