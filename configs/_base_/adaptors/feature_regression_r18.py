"""Feature regression on the narrow ResNetV1c-18."""

_base_ = '../models/segformer_r18.py'

model = dict(
    type='FeatureRegression',
    features=dict(stage4=1.0, decode_head=1.0),
    loss_regression=dict(type='FeatureRegressionLoss', distance='smooth_l1', tolerance='exact'),
)
