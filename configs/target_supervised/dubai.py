"""The dark half of Dubai: SegFormer with MiT-B0, trained and tested on different images of the same tiles."""

_base_ = '../source_only/dubai.py'

train_dataloader = dict(dataset=dict(source=dict(data_root='data/dubai_held_out')))
val_dataloader = dict(dataset=dict(data_root='data/dubai_held_out'))
test_dataloader = val_dataloader
