"""Feature regression (arXiv 1805.04141) on any network: a reference is trained on the source first."""

_base_ = '../_base_/default_runtime.py'

adaptor = dict(
    type='FeatureRegression',
    # What is regressed on shall not be noisy: no stochastic depth, where a backbone has it.
    backbone=dict(drop_path_rate=0.0),
    features=dict(stage4=1.0, decode_head=1.0),
    loss_regression=dict(type='FeatureRegressionLoss', distance='smooth_l1', tolerance='exact'),
)

# What trains the reference, on the same task, network and schedule.
reference_method = '{{ fileDirname }}/../source_only/method.py'

# Held-out pairs, for which no label is needed, pick the checkpoint.
default_hooks = dict(checkpoint=dict(save_best='regression/loss', rule='less'))
