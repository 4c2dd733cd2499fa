"""Feature regression on DeepLabV3+ ResNet-50."""

_base_ = '../models/deeplabv3plus_r50.py'

model = dict(
    type='FeatureRegression',
    features=dict(stage4=1.0, decode_head=1.0),
    loss_regression=dict(type='FeatureRegressionLoss', distance='smooth_l1', tolerance='exact'),
)
