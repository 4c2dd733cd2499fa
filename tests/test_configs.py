"""Every configuration trains and tests, through the tools, on generated clips and with a narrow, shallow network."""

import functools
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from mmrs.datasets.converters.clips import write_raster
from mmrs.registry import DATASETS, MODELS
from mmrs.utils.config import pretrained_files, remove_pretrained, walk
from tests.tiny_runs import REPOSITORY, quick_start  # noqa: F401
from tools import test as test_tool
from tools import train as train_tool

# Fewer images than the data set was published with.
pytestmark = pytest.mark.filterwarnings('ignore:.* images, but .* of LoveDA has')

CONFIGS = REPOSITORY / 'configs'
LEAVES = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob('*.py') if '_base_' not in p.parts)


@pytest.fixture(params=LEAVES)
def config(request):
    return CONFIGS / request.param


def test_there_are_configs():
    assert 'st_dasegnet/potsdam2vaihingen.py' in LEAVES


# Networks that fitted together, but for their class weights.
built: set[str] = set()


# Full size, without weights -----------------------------------------------------------------------------------------


def test_layers_of_the_full_size_fit_together(config, monkeypatch):
    """On torch's meta device tensors have shapes and no values: the real widths are checked at no cost."""
    # The rates of stochastic depth are read back from a tensor.
    monkeypatch.setattr(torch, 'linspace', functools.partial(torch.linspace, device='cpu'))
    cfg = Config.fromfile(config)
    init_default_scope('mmrs')
    remove_pretrained(cfg.model)
    for _, node in walk(cfg.model):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
        node.pop('class_weight', None)
    network = str(cfg.model)
    if network in built:
        return  # tasks share networks; the next test trains each of them
    built.add(network)
    with torch.device('meta'):
        model = MODELS.build(cfg.model).eval()
        images = torch.zeros(1, len(cfg.model.data_preprocessor.mean), 384, 384)
        logits = model(images, mode='tensor')
        assert logits.shape[:2] == (1, len(class_names(cfg)))
        if getattr(model, 'discriminator', None) is not None:
            stages = model.segmentor.extract([images])[0]
            for discriminator, student in zip(model.discriminator.values(), stages):
                assert discriminator(student[-1]).shape[:2] == (1, 1)


def class_names(cfg) -> tuple:
    return tuple(f'class{i}' for i in range(cfg.model.decode_head.num_classes))


def test_pretrained_weights_are_named_by_official_urls(config):
    cfg = Config.fromfile(config)
    for key, name in pretrained_files(cfg.model, 'model').items():
        assert name.startswith(('https://', 'open-mmlab://')), f'{key} is {name}'


# Two steps of training and a test ------------------------------------------------------------------------------------


def narrow(cfg) -> dict:
    """Options that cut width and depth of a model, consistently."""
    kind, head = cfg.model.backbone.type, cfg.model.decode_head
    if kind.endswith(('MiT', 'MixVisionTransformer')):
        widths = [8 * heads for heads in cfg.model.backbone.num_heads]
        options = {'backbone.embed_dims': 8, 'backbone.num_layers': [1, 1, 1, 1]}
    elif kind.startswith('ResNet'):
        widths = [8, 16, 32, 64]
        options = {'backbone.depth': 18, 'backbone.stem_channels': 8, 'backbone.base_channels': 8}
    else:
        pytest.fail(f'say here how to cut a {kind}')
    if 'c1_in_channels' in head:
        options.update({'decode_head.c1_in_channels': widths[0], 'decode_head.c1_channels': 8})
    all_stages = isinstance(head.in_channels, (list, tuple))
    options['decode_head.in_channels'] = widths if all_stages else widths[-1]
    options['decode_head.channels'] = 16
    if 'neck' in cfg.model:
        options['neck.in_channels'] = widths
        if cfg.model.neck.get('variant') == 'ds2':
            last = widths[-1] + max(widths[-1] // cfg.model.neck.reduction, cfg.model.neck.min_channels)
            options['decode_head.in_channels'] = [*widths[:-1], last] if all_stages else last
    if cfg.model.get('discriminator'):
        options['discriminator.in_channels'] = widths[-1]
        options['discriminator.base_channels'] = 8
    return {f'model.{key}': value for key, value in options.items()}


def label_ids(dataset) -> list[int]:
    """What the label maps of a data set may hold."""
    if dataset.get('classes_file'):
        return [0, 1, 255]
    kind = DATASETS.get(dataset.type)
    reduced = inspect.signature(kind).parameters.get('reduce_zero_label')
    return list(range(len(kind.METAINFO['classes']) + bool(reduced and reduced.default)))


def write_data(folder: Path, dataset, bands: int, number: int, size: int) -> None:
    """Images in the folders that a data set's configuration names: PNG, or GeoTIFFs of reflectance."""
    rng = np.random.default_rng(0)
    ids = label_ids(dataset)
    for key, sub in dataset.data_prefix.items():
        (folder / sub).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            coarse = rng.choice(ids, (size // 16, size // 16)).astype(np.uint8)
            labels = coarse.repeat(16, 0).repeat(16, 1)
            if key == 'seg_map_path':
                Image.fromarray(labels).save(folder / sub / f'image{i}.png')
            elif bands == 3:
                Image.fromarray(rng.integers(0, 255, (size, size, 3), np.uint8)).save(folder / sub / f'image{i}.png')
            else:
                write_raster(folder / sub / f'image{i}.tif', rng.random((bands, size, size), np.float32))


def local_data(cfg, folder: Path) -> dict:
    """Write data for all data sets of a configuration; options that point to them."""
    options = {}
    for path, node in walk(cfg):
        if '_dataloader.dataset' not in path or 'data_prefix' not in node:
            continue
        training = path.startswith('train')
        root = folder / Path(node.data_root).name
        # Rasters of training and evaluation may be the same.
        large = training or node.type == 'RasterDataset'
        write_data(root, node, len(cfg.model.data_preprocessor.mean), *((3, 400) if large else (1, 128)))
        if node.get('classes_file'):
            table = [dict(name=name, id=i) for i, name in enumerate(class_names(cfg))]
            (root / node.classes_file).write_text(yaml.safe_dump(dict(classes=table)))
        options[f'{path}.data_root'] = str(root)
        options[f'{path}.serialize_data'] = False
    for split in ('train', 'val', 'test'):
        options.update({f'{split}_dataloader.num_workers': 0, f'{split}_dataloader.persistent_workers': False})
    return options


def test_trains_two_steps_and_tests(config, tmp_path):
    cfg = Config.fromfile(config)
    options = {
        **local_data(cfg, tmp_path / 'data'),
        **narrow(cfg),
        'train_dataloader.batch_size': 2,  # where a config has 1, it is for two processes
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
        'default_hooks.checkpoint.interval': 2,
        'default_hooks.logger.interval': 1,
        'load_from': None,
    }
    texts = [f'{key}={str(value).replace(" ", "")}' for key, value in options.items()]
    common = ['--work-dir', str(tmp_path / 'run'), '--cfg-options', *texts]
    assert train_tool.main([str(config), '--no-pretrained', *common]) == 0

    (scalars,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert [line['step'] for line in lines if 'loss' in line] == [1, 2]
    assert all(np.isfinite(line['loss']) for line in lines if 'loss' in line)
    if cfg.model.get('self_training'):
        assert all('confident_share' in line and 'disc_accuracy_target' in line for line in lines if 'loss' in line)

    metrics = tmp_path / 'metrics.json'
    checkpoint = str(tmp_path / 'run' / 'iter_2.pth')
    assert test_tool.main([str(config), checkpoint, '--metrics', str(metrics), *common]) == 0
    scores = json.loads(metrics.read_text())
    assert scores['images'] >= 1
    assert len(scores['classes']) == cfg.model.decode_head.num_classes
