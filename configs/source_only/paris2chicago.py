"""CITY-OSM Paris to Chicago, SegFormer MiT-B5 trained on the source alone."""

_base_ = [
    '../_base_/datasets/paris2chicago.py',
    '../_base_/models/segformer_mit-b5.py',
    '../_base_/schedules/adamw_40k.py',
    '../_base_/default_runtime.py',
]

model = dict(decode_head=dict(num_classes=3, loss_decode=dict(class_weight=[1.0, 1.5, 1.5])))
train_dataloader = dict(
    batch_size=3,  # per process
    dataset=dict(_delete_=True, **_base_.train_dataloader.dataset.source),
)
