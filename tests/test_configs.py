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
from rasterio.transform import Affine

from mmrs.preparation.converters.clips import write_raster
from mmrs.registry import DATASETS, MODELS
from mmrs.utils.config import load_config, merge_options, pretrained_files, remove_pretrained, walk
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
    for key, value in cfg.model.data_preprocessor.items():
        if value == 'auto':  # what training measures
            cfg.model.data_preprocessor[key] = [1.0] * number_of_bands(cfg)
    # Without gradients: torch 2.1 cannot recompute activations on that device.
    with torch.device('meta'), torch.no_grad():
        model = MODELS.build(cfg.model).eval()
        images = torch.zeros(1, number_of_bands(cfg), 384, 384)
        logits = model(images, mode='tensor')
        assert logits.shape[:2] == (1, len(class_names(cfg)))
        if getattr(model, 'discriminator', None) is not None:
            stages = model.segmentor.extract([images])[0]
            for discriminator, student in zip(model.discriminator.children(), stages):
                assert discriminator(student[-1]).shape[:2] == (1, 1)


def number_of_bands(cfg) -> int:
    mean = cfg.model.data_preprocessor.mean
    return 3 if mean == 'auto' else len(mean)


def class_names(cfg) -> tuple:
    return tuple(f'class{i}' for i in range(cfg.model.decode_head.num_classes))


def test_pretrained_weights_are_named_by_official_urls(config):
    cfg = Config.fromfile(config)
    for key, name in pretrained_files(cfg.model, 'model').items():
        assert name.startswith(('https://', 'open-mmlab://')), f'{key} is {name}'


# Pairs ---------------------------------------------------------------------------------------------------------------

TRANSFERS = [leaf for leaf in LEAVES if leaf.startswith('feature_regression/')]


@pytest.mark.parametrize('leaf', TRANSFERS)
def test_no_target_label_is_read_before_the_test(leaf):
    cfg = Config.fromfile(CONFIGS / leaf)
    for split in ('train', 'val'):
        for path, node in walk(cfg[f'{split}_dataloader']):
            assert 'seg_map_path' not in node, f'{split}_dataloader.{path}'
    assert 'seg_map_path' in cfg.test_dataloader.dataset.data_prefix
    reference, target = load_config(cfg.reference_config), cfg.test_dataloader.dataset
    for split in ('train', 'val'):
        if (loader := reference.get(f'{split}_dataloader')) is not None:
            # Where one folder has both domains, the target's transform tells them apart.
            assert loader.dataset.data_root != target.data_root or 'CameraChange' not in str(loader.dataset.pipeline)


@pytest.mark.parametrize('leaf', TRANSFERS)
def test_held_out_pairs_are_not_trained_on(leaf):
    cfg = Config.fromfile(CONFIGS / leaf)
    for domain in ('source', 'target'):
        trained, held_out = (cfg[f'{split}_dataloader'].dataset[domain] for split in ('train', 'val'))
        where = [(part.data_root, part.data_prefix.img_path, part.get('ann_file')) for part in (trained, held_out)]
        if where[0] == where[1]:  # the first and the last of a list of 1464
            assert 'Segmentation/train.txt' in trained.ann_file
            assert trained.indices - held_out.indices <= 1464


# Two iterations of training and a test -------------------------------------------------------------------------------


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
    if 'metainfo' in dataset:
        return [*range(len(dataset.metainfo.classes)), 255]
    kind = DATASETS.get(dataset.type)
    reduced = inspect.signature(kind).parameters.get('reduce_zero_label')
    return list(range(len(kind.METAINFO['classes']) + bool(reduced and reduced.default)))


def write_data(folder: Path, dataset, bands: int, number: int, size: int) -> None:
    """Images in the folders that a data set's configuration names: PNG or JPEG, or GeoTIFFs."""
    rng = np.random.default_rng(0)
    ids = label_ids(dataset)
    for key, sub in dataset.data_prefix.items():
        (folder / sub).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            path = folder / sub / f'image{i}'
            coarse = rng.choice(ids, (size // 16, size // 16)).astype(np.uint8)
            labels = coarse.repeat(16, 0).repeat(16, 1)
            place = dict(crs='EPSG:32632', transform=Affine(1, 0, 600000 + 1000 * i, 0, -1, 5400000))
            if dataset.type == 'RasterDataset':
                image = rng.random((bands, size, size), np.float32)
                write_raster(path.with_suffix('.tif'), labels if key == 'seg_map_path' else image, **place)
            elif key == 'seg_map_path':
                Image.fromarray(labels).save(path.with_suffix('.png'))
            else:
                image = Image.fromarray(rng.integers(0, 255, (size, size, bands), np.uint8))
                image.save(path.with_suffix(dataset.get('img_suffix', '.png')))
    if 'ann_file' in dataset:
        (folder / dataset.ann_file).parent.mkdir(parents=True, exist_ok=True)
        (folder / dataset.ann_file).write_text(''.join(f'image{i}\n' for i in range(number)))


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
        write_data(root, node, number_of_bands(cfg), *((3, 400) if large else (1, 128)))
        if node.get('classes_file'):
            table = [dict(name=name, id=i) for i, name in enumerate(class_names(cfg))]
            (root / node.classes_file).write_text(yaml.safe_dump(dict(classes=table)))
        options[f'{path}.data_root'] = str(root)
        options[f'{path}.serialize_data'] = False
    for split in ('train', 'val', 'test'):
        if cfg[f'{split}_dataloader'] is not None:
            options.update({f'{split}_dataloader.num_workers': 0, f'{split}_dataloader.persistent_workers': False})
    return options


def write_reference(cfg, file: Path) -> list[str]:
    """The option that names a random reference of the width of the student; nothing where there is no use for one."""
    if 'reference_config' not in cfg:
        return []
    reference = load_config(cfg.reference_config)
    merge_options(reference, narrow(reference))
    init_default_scope('mmrs')
    remove_pretrained(reference.model)
    del reference.model['data_preprocessor']  # it has no weights, and may be yet to be measured
    torch.save(dict(state_dict=MODELS.build(reference.model).state_dict()), file)
    return ['--reference', str(file)]


def test_trains_two_iterations_and_tests(config, tmp_path):
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
    reference = write_reference(cfg, tmp_path / 'reference.pth')
    assert train_tool.main([str(config), '--no-pretrained', *reference, *common]) == 0

    (scalars,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert [line['step'] for line in lines if 'loss' in line] == [1, 2]
    assert all(np.isfinite(line['loss']) for line in lines if 'loss' in line)
    assert any('regression/loss' in line for line in lines) == bool(reference)
    if cfg.model.get('self_training'):
        assert all('confident_share' in line and 'disc_accuracy_target' in line for line in lines if 'loss' in line)

    metrics = tmp_path / 'metrics.json'
    checkpoint = str(tmp_path / 'run' / 'iter_2.pth')
    assert test_tool.main([str(config), checkpoint, '--metrics', str(metrics), *common]) == 0
    scores = json.loads(metrics.read_text())
    assert scores['images'] >= 1
    assert len(scores['classes']) == cfg.model.decode_head.num_classes
