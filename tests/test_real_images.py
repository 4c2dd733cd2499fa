"""One real crop of each data set through data set, pipeline, data preprocessor and a training step."""

from pathlib import Path

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

from mmrs.apis.filling import fill_model
from mmrs.engine.optimizers import JointOptimWrapperConstructor
from mmrs.registry import DATASETS, MODELS
from mmrs.utils.config import load_config

CONFIG = Path(__file__).resolve().parents[1] / 'configs' / 'st_dasegnet' / 'potsdam2vaihingen.py'
ISPRS = dict(type='PotsdamDataset')
LOVEDA = dict(
    type='RemoteSensingDataset',
    reduce_zero_label=True,
    metainfo=dict(classes=('background', 'building', 'road', 'water', 'barren', 'forest', 'agriculture')),
)


@pytest.mark.parametrize(
    ('kind', 'source', 'target', 'images', 'labels'),
    [
        (ISPRS, 'isprs/potsdam', 'isprs/vaihingen', 'img_dir', 'ann_dir'),
        (ISPRS, 'isprs/vaihingen', 'isprs/potsdam', 'img_dir', 'ann_dir'),
        (LOVEDA, 'loveda/rural', 'loveda/urban', 'img', 'msk'),
        (LOVEDA, 'loveda/urban', 'loveda/rural', 'img', 'msk'),
    ],
)
def test_training_step(real_data, kind, source, target, images, labels):
    if not (real_data / source).is_dir():
        pytest.skip(f'no {source} in {real_data}')
    init_default_scope('mmrs')
    cfg = load_config(CONFIG)
    cfg.merge_from_dict({
        'model.backbone': dict(init_cfg=None, embed_dims=8, num_layers=[1, 1, 1, 1]),
        'model.decode_head': dict(channels=16, loss_decode=dict(class_weight=None)),
        'model.decode_head.num_classes': 7 if kind is LOVEDA else 6,
        'model.decode_head.target.loss_decode.class_weight': None,
        'model.discriminator.base_channels': 8,
        'model.self_training.class_weight': None,
    })  # fmt: skip
    fill_model(cfg)
    roots = {domain: str(real_data / name) for domain, name in (('source', source), ('target', target))}
    dataset = DATASETS.build(
        dict(
            type='DomainAdaptationDataset',
            source=dict(
                **kind,
                data_root=roots['source'],
                data_prefix=dict(img_path=images, seg_map_path=labels),
                pipeline=cfg.source_pipeline,
            ),
            target=dict(
                **kind, data_root=roots['target'], data_prefix=dict(img_path=images), pipeline=cfg.target_pipeline
            ),
        )
    )
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    model.init_weights()
    parts = {name: part for name, part in cfg.optim_wrapper.items() if name != 'constructor'}
    joint = JointOptimWrapperConstructor(parts)(model)
    before = {name: p.clone() for name, p in model.named_parameters() if p.requires_grad}
    log = model.train_step(pseudo_collate([dataset[0], dataset[len(dataset) - 1]]), joint)
    assert all(torch.isfinite(value) for value in log.values())
    assert 0 < log['loss_seg_s2s'] < 10
    moved = [name for name, p in model.named_parameters() if name in before and not torch.equal(p, before[name])]
    assert len(moved) > 0.9 * len(before)
