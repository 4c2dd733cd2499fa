"""Feature regression on SegFormer MiT-B0."""

_base_ = '../models/segformer_mit-b0.py'

model = dict(
    type='FeatureRegression',
    # What is regressed on shall not be noisy; the reference's own training has stochastic depth.
    backbone=dict(drop_path_rate=0.0),
    features=dict(stage4=1.0, decode_head=1.0),
    loss_regression=dict(type='FeatureRegressionLoss', distance='smooth_l1', tolerance='exact'),
)
