"""Dubai through another camera: the reference fine-tuned with the labels that feature regression does without.

It starts from the reference's checkpoint:

    python tools/train.py configs/target_supervised/dubai_synthetic.py --cfg-options load_from=REFERENCE
"""

_base_ = '../source_only/dubai_synthetic.py'

trains_on = 'target'
train_cfg = dict(max_iters=200)
param_scheduler = [dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=201, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=200))
