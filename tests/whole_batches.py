"""Trains small models on batches that any number of processes share: what they end up with must not depend on it.

As a program, one of several processes: each takes its images of every batch, and the first saves all states.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmrs.engine.distributed import CPUDistributedDataParallel, init_cpu_group
from mmrs.registry import MODELS
from tests import parity

SIZE, CLASSES, BATCH, STEPS = 32, 4, 6, 3

PREPROCESSOR = dict(type='DomainAdaptationDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3)
BACKBONE = dict(
    type='EfficientMiT', embed_dims=4, num_layers=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], patch_sizes=[7, 3, 3, 3],
    strides=[2, 1, 2, 1], sr_ratios=[4, 2, 1, 1], out_indices=(0, 1, 2, 3), drop_path_rate=0.0,
)  # fmt: skip
WEIGHTS = [1.0, 0.5, 2.0, 3.0]
HEAD = dict(
    type='EfficientSegformerHead', in_channels=[4, 8, 8, 8], in_index=[0, 1, 2, 3], channels=8, num_classes=CLASSES,
    dropout_ratio=0.0, norm_cfg=None, loss_decode=dict(type='PixelMeanCrossEntropyLoss', class_weight=WEIGHTS),
)  # fmt: skip
AUXILIARY = dict(
    type='mmseg.FCNHead', in_channels=8, in_index=2, channels=4, num_convs=1, num_classes=CLASSES, dropout_ratio=0.0,
    norm_cfg=None, loss_decode=dict(type='PixelMeanCrossEntropyLoss', loss_weight=0.4),
)  # fmt: skip
OPTIMIZER = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9))


def source_only() -> dict:
    return dict(
        type='EncoderDecoder', backbone=BACKBONE, decode_head=HEAD, auxiliary_head=AUXILIARY,
        data_preprocessor=PREPROCESSOR, test_cfg=dict(mode='whole'),
    )  # fmt: skip


def adaptation(gan_type: str = 'vanilla', teacher: str = 'decoder_only', weights: list | None = WEIGHTS) -> dict:
    return dict(
        type='STDASegNet', backbone=BACKBONE, decode_head={**HEAD, 'in_channels': [4, 8, 8, 12]},
        neck=dict(
            type='DomainDisentangledNeck', in_channels=[4, 8, 8, 8], variant='ds2', reduction=2, min_channels=4
        ),
        discriminator=dict(type='PatchDiscriminator', in_channels=8, num_conv=1, base_channels=4),
        gan_loss=dict(type='GANLoss', gan_type=gan_type, loss_weight=0.1),
        # Thresholds that an untrained network passes here and there.
        self_training=dict(teacher=teacher, weight=1.0, threshold=0.3, rare_threshold=0.28, class_weight=weights),
        data_preprocessor=PREPROCESSOR, test_cfg=dict(mode='whole'),
    )  # fmt: skip


def regression(train_decode_head: bool = False, **loss: str) -> dict:
    return dict(
        type='FeatureRegression', backbone=BACKBONE, decode_head=HEAD, loss_regression=loss,
        features=dict(stage1=0.5, stage4=1.0, decode_head=2.0), train_decode_head=train_decode_head,
        data_preprocessor=PREPROCESSOR, test_cfg=dict(mode='whole'),
    )  # fmt: skip


MODEL_CONFIGS: dict[str, Callable[[], dict]] = {
    'source only': source_only,
    **{
        f'st-dasegnet {gan_type}': lambda gan_type=gan_type: adaptation(gan_type)
        for gan_type in ('vanilla', 'lsgan', 'l1', 'hinge', 'wgan', 'wgan-logistic-ns')
    },
    'st-dasegnet single target': lambda: adaptation(teacher='single_target', weights=None),
    'regression smooth_l1': regression,
    'regression l2 local': lambda: regression(distance='l2', tolerance='local(3)'),
    'regression cosine pyramid': lambda: regression(distance='cosine', tolerance='pyramid'),
    'regression gram, head': lambda: regression(True, tolerance='gram'),
}


def make_batch(step: int, indices: list[int], pairs: bool) -> dict:
    """Some images of a batch; they differ much in how many pixels are labelled and valid."""
    images: dict = dict(source=dict(inputs=[], data_samples=[]), target=dict(inputs=[], data_samples=[]))
    for i in indices:
        generator = torch.Generator().manual_seed(1000 * step + i)
        label = torch.randint(0, CLASSES, (1, 8, 8), generator=generator)
        label = label.repeat_interleave(SIZE // 8, 1).repeat_interleave(SIZE // 8, 2)
        label[:, : 5 * i] = 255
        source = 60.0 * label.clamp(max=CLASSES) + 20 * torch.randn(3, SIZE, SIZE, generator=generator)
        for domain, image in (('source', source), ('target', source.flip(0) * 0.7 + 30 if pairs else source.flip(1))):
            sample = SegDataSample()
            if domain == 'source':
                sample.gt_sem_seg = PixelData(data=label)
            # Of the images of one step, one has everything valid: a process may get only such.
            if (domain == 'target' or pairs) and (i + step) % 2:
                valid = torch.ones(1, SIZE, SIZE, dtype=torch.bool)
                valid[..., : 4 * i + 3] = False
                sample.valid_map = PixelData(data=valid)
            images[domain]['inputs'].append(image)
            images[domain]['data_samples'].append(sample)
    return images


def train(name: str, steps: int = STEPS) -> dict[str, torch.Tensor]:
    """Train one of the models in float64, on this process's share of the images of each batch; its state."""
    parity.init_default_scope('mmrs')
    torch.manual_seed(0)
    config = MODEL_CONFIGS[name]()
    plain: nn.Module = MODELS.build(copy.deepcopy(config))
    for parameter in plain.parameters():  # further from zero than initialisation has them, that all terms count
        parameter.data += 0.1 * torch.randn_like(parameter)
    plain.double().train()
    adapts = config['type'] == 'STDASegNet'
    parts = dict(constructor='JointOptimWrapperConstructor', segmentor=OPTIMIZER, discriminator=OPTIMIZER)
    optimizer = build_optim_wrapper(plain, parts if adapts else dict(type='OptimWrapper', **OPTIMIZER))
    model = CPUDistributedDataParallel(plain, broadcast_buffers=False) if get_world_size() > 1 else plain
    for step in range(steps):
        if adapts:
            plain.update_teacher(min(1 - 1 / (step + 1), 0.9))
        indices = list(range(get_rank(), BATCH, get_world_size()))
        batch = make_batch(step, indices, pairs=config['type'] == 'FeatureRegression')
        model.train_step(batch['source'] if config['type'] == 'EncoderDecoder' else batch, optimizer)
    return plain.state_dict()


if __name__ == '__main__':
    init_cpu_group(60)
    states = {name: train(name) for name in MODEL_CONFIGS}
    for name, state in states.items():
        for key, value in state.items():
            others = all_gather_object(value)
            assert all(torch.equal(value, other) for other in others), f'{name}: {key} differs between the processes'
    if get_rank() == 0:
        torch.save(states, sys.argv[1])
