"""DINOv3 ViT-S/16 (arXiv 2508.10104), a simple feature pyramid and SegFormer's head.

Weights: https://huggingface.co/facebook/dinov3-vits16-pretrain-lvd1689m, under the DINOv3 licence, which one accepts
there before the download. Then:

    --cfg-options model.backbone.init_cfg.checkpoint=DOWNLOADED/model.safetensors

How much of the backbone trains is set as for dinov2_vit-s14; other sizes: docs/backbones.md.
"""

_base_ = './dinov2_vit-s14.py'

network = dict(
    backbone=dict(
        init_cfg=dict(checkpoint='hf-hub://facebook/dinov3-vits16-pretrain-lvd1689m'),
        patch_size=16,
        pos_grid=None,  # rotary
        num_registers=4,
        key_bias=False,
        norm_eps=1e-5,
        pyramid=dict(channels=128, scales=(4, 2, 1, 0.5)),  # strides 4, 8, 16, 32
    ),
)
