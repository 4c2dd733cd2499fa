"""Dubai through another camera: the reference fine-tuned with the labels that feature regression does without.

It starts from the reference's checkpoint:

    python tools/train.py configs/target_supervised/dubai_synthetic.py --cfg-options load_from=REFERENCE
"""

_base_ = [
    '../_base_/datasets/dubai_synthetic.py',
    '../_base_/models/segformer_mit-b0.py',
    '../_base_/schedules/adamw_600.py',
    '../_base_/default_runtime.py',
]

model = dict(backbone=dict(init_cfg=None), decode_head=dict(num_classes=5), test_cfg=dict(mode='whole'))
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.target))
val_dataloader = None
val_evaluator = None
val_cfg = None
train_cfg = dict(max_iters=200)
param_scheduler = [dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=201, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=200))
