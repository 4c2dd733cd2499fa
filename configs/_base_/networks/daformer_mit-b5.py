"""DAFormer's network: MiT-B5 and a head that sees context (arXiv 2111.14887)."""

_base_ = './segformer_mit-b5.py'

default_schedule = 'daformer_40k'

network = dict(decode_head=dict(type='DAFormerHead', embed_dims=256))
