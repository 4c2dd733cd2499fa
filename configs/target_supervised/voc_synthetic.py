"""PASCAL VOC 2012 under a camera change: the reference fine-tuned with the labels that feature regression does without.

REFERENCE is its checkpoint:

    python tools/train.py configs/target_supervised/voc_synthetic.py --cfg-options load_from=REFERENCE
"""

_base_ = '../source_only/voc_synthetic.py'

train_dataloader = dict(dataset=dict(_delete_=True, **_base_.labelled_target))
val_dataloader = _base_.test_dataloader
