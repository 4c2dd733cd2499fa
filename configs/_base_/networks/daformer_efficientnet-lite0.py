"""DAFormer's head on EfficientNet-Lite0: for runs of minutes on a CPU."""

_base_ = './segformer_efficientnet-lite0.py'

network = dict(decode_head=dict(type='DAFormerHead', channels=64, embed_dims=48))
