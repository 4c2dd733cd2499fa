"""DAFormer's schedule (arXiv 2111.14887): 40 000 iterations of AdamW, a longer linear warm-up, linear decay."""

_base_ = './adamw_40k.py'

# Heads ten times as fast. `norm` are the backbone's layers; those of heads are called `bn`, and decay.
# The two factors multiply. 1501 and 40001: MMEngine divides by `end - begin - 1`, the paper's runs by 1500 and 40 000.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1501, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=40001, by_epoch=False),
]
