"""The synthetic pairs: the reference fine-tuned with the labels that feature regression does without.

REFERENCE is its checkpoint:

    python tools/train.py configs/target_supervised/demo_pairs.py --cfg-options load_from=REFERENCE
"""

_base_ = '../source_only/demo_pairs.py'

trains_on = 'target'
# As long as the transfer, and at its rate.
train_cfg = dict(max_iters=300)
optim_wrapper = dict(optimizer=dict(lr=3e-4))
param_scheduler = [dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=301, by_epoch=False)]
