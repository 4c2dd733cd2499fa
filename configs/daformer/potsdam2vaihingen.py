"""Potsdam IRRG to Vaihingen IRRG, MMSegmentation's split: DAFormer with MiT-B5."""

_base_ = [
    '../_base_/tasks/potsdam2vaihingen_standard.py',
    '../_base_/networks/daformer_mit-b5.py',
    './method.py',
    '../_base_/schedules/daformer_40k.py',
]

# As SiamSeg runs DAFormer, whose paper has batches of 2, and samples rare classes.
rare_class_sampling = None
train_dataloader = dict(batch_size=6)
