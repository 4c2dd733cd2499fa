"""Configurations: every one fits together, and a sample of tasks, methods and networks trains and tests.

Runs are made through the tools, on generated clips and with narrow, shallow networks.
"""

import functools
import inspect
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmengine.registry import init_default_scope
from PIL import Image
from rasterio.transform import Affine

from mmrs.apis.filling import fill_model
from mmrs.preparation.converters.clips import write_raster
from mmrs.registry import DATASETS, MODELS
from mmrs.utils.config import load_config, merge_options, pretrained_files, remove_pretrained, walk
from mmrs.utils.config_types import check_types
from mmrs.utils.errors import DataError
from tests.tiny_runs import REPOSITORY, quick_start  # noqa: F401
from tools import test as test_tool
from tools import train as train_tool

# Fewer images than the data set was published with.
pytestmark = pytest.mark.filterwarnings('ignore:.* images, but .* of LoveDA has')

CONFIGS = REPOSITORY / 'configs'
LEAVES = sorted(
    p.relative_to(CONFIGS).as_posix()
    for p in CONFIGS.rglob('*.py')
    if not {'_base_', 'pretraining', 'trials'} & set(p.parts) and p.name != 'method.py'
)
METHODS = sorted(p.parent.name for p in CONFIGS.glob('*/method.py'))
TASKS = sorted(p.stem for p in CONFIGS.glob('_base_/tasks/*.py'))
NETWORKS = sorted(p.stem for p in CONFIGS.glob('_base_/networks/*.py'))
PAIRED = [task for task in TASKS if 'Paired' in (CONFIGS / f'_base_/tasks/{task}.py').read_text()]
#: Whose labels a task has, for a comparison with their training.
LABELLED_TARGETS = [t for t in TASKS if 'target_labels' in (CONFIGS / f'_base_/tasks/{t}.py').read_text()]


def compose(method: str, task: str, network: str, **options):
    return load_config(CONFIGS / method / 'method.py', options or None, task=task, network=network)


def possible(method: str) -> list[str]:
    """The tasks that a method can have: those without pairs, but for some methods."""
    unpaired = [task for task in TASKS if task not in PAIRED]
    others = dict(feature_regression=PAIRED, source_only=TASKS, target_supervised=LABELLED_TARGETS)
    # Pairs are taken apart where the source has labels elsewhere.
    return others.get(method) or [*unpaired, *(['own_geotiffs'] if method == 'few_labels' else [])]


#: Methods that are settings of one adaptor.
ALIKE = {
    method: group
    for group in (
        ('minent', 'advent', 'adaptsegnet'),
        ('dacs', 'daformer', 'mic'),
        ('source_and_labelled', 'mean_teacher', 'few_labels', 'semi_supervised'),
    )
    for method in group
}


def claims(method: str, task: str, network: str) -> set:
    """What a run of these shows: each of them, and the kinds of head and backbone that the adaptor works with."""
    adaptor = ALIKE.get(method, method)
    return {method, task, network, *((adaptor, kind) for kind in re.match(r'([a-z]+)\w*_([a-z]+)', network).groups())}


def covering_sample() -> list[tuple[str, str, str]]:
    """Few compositions that show together what all of them do; HRDA's networks are for large crops."""
    shown = {
        one: claims(*one)
        for one in itertools.product(METHODS, TASKS, NETWORKS)
        if one[1] in possible(one[0]) and (one[1].endswith('_512') or one[1] in PAIRED or not one[2].startswith('hrda'))
    }
    found, missing = [], set().union(*shown.values())
    while missing:
        found.append(max(shown, key=lambda one: len(shown[one] & missing)))
        missing -= shown[found[-1]]
    return found


SAMPLE = covering_sample()


@pytest.fixture(params=LEAVES)
def config(request):
    return load_config(CONFIGS / request.param)


def test_there_are_configs():
    assert 'st_dasegnet/potsdam2vaihingen.py' in LEAVES
    assert [{one[i] for one in SAMPLE} for i in range(3)] == [set(METHODS), set(TASKS), set(NETWORKS)]


@pytest.mark.parametrize('method', METHODS)
def test_every_composition_is_whole(method):
    for i, task in enumerate(possible(method)):
        cfg = compose(method, task, NETWORKS[i % len(NETWORKS)])
        check_types(cfg)
        assert 'task.' not in str(cfg.model)


@pytest.mark.parametrize(
    ('leaf', 'network'),
    [('loveda-rural2urban', 'segformer_mit-b5'), ('own_data', 'segformer_mit-b5')],
)
def test_a_leaf_is_its_composition(leaf, network):
    written, composed = load_config(CONFIGS / f'st_dasegnet/{leaf}.py'), compose('st_dasegnet', leaf, network)
    assert written.to_dict() == composed.to_dict()


# Full size, without weights -----------------------------------------------------------------------------------------

# Networks that fitted together, but for their class weights and their numbers of bands and classes.
built: set[str] = set()


def test_layers_of_the_full_size_fit_together(config, monkeypatch):
    """On torch's meta device tensors have shapes and no values: the real widths are checked at no cost."""
    # The rates of stochastic depth are read back from a tensor.
    monkeypatch.setattr(torch, 'linspace', functools.partial(torch.linspace, device='cpu'))
    cfg = config
    init_default_scope('mmrs')
    for key, value in cfg.model.data_preprocessor.items():
        if value == 'auto':  # what training measures
            cfg.model.data_preprocessor[key] = [1.0] * number_of_bands(cfg)
    fill(cfg)
    remove_pretrained(cfg.model)
    for _, node in walk(cfg.model):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
        node.pop('class_weight', None)
    parts = {key: value for key, value in cfg.model.items() if key != 'data_preprocessor'}
    network = re.sub(r"'(in_channels|num_classes)': \d+", '', str(parts))
    if network in built:
        return  # tasks share networks
    built.add(network)
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


def fill(cfg) -> None:
    try:
        fill_model(cfg)
    except DataError:  # a table of classes of one's own
        fill_model(cfg, class_names(cfg))


def class_names(cfg) -> tuple:
    return tuple(f'class{i}' for i in range(cfg.model.decode_head.num_classes or 6))


#: Parameters of the published networks, without mask token and the class token's position.
PUBLISHED = {'dinov2_vit-s14': 22_055_808, 'dinov3_vit-s16': 21_596_160}


@pytest.mark.parametrize('network', PUBLISHED)
def test_as_much_of_a_vision_transformer_trains_as_options_say(network):
    # Two matrices of 8 x 384 in each of two layers of 12 blocks.
    for options, expected in (({}, PUBLISHED[network]), ({'frozen': True}, 0), ({'lora.rank': 8}, 12 * 4 * 8 * 384)):
        cfg = compose('source_only', 'dubai', network)
        merge_options(cfg, {f'model.backbone.{key}': value for key, value in options.items()})
        cfg.model.backbone.in_channels = 3
        remove_pretrained(cfg.model)
        init_default_scope('mmrs')
        with torch.device('meta'):
            backbone = MODELS.build(cfg.model.backbone)
        trained = [p for name, p in backbone.named_parameters() if p.requires_grad and not name.startswith('pyramid')]
        assert sum(parameter.numel() for parameter in trained) == expected
        assert all(parameter.requires_grad for parameter in backbone.pyramid.parameters())


def test_pretrained_weights_are_named_by_official_urls(config):
    for key, name in pretrained_files(config.model, 'model').items():
        assert name.startswith(('https://', 'open-mmlab://', 'hf-hub://', 'package://')), f'{key} is {name}'


# Labels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('task', [task for task in TASKS if task not in PAIRED])
def test_no_adaptation_names_labels_of_the_target(task):
    dataset = compose('st_dasegnet', task, NETWORKS[0]).train_dataloader.dataset
    assert 'seg_map_path' in str(dataset.source)
    assert 'seg_map_path' not in str(dataset.target)


def test_no_leaf_names_labels_of_the_target(config):
    dataset = config.train_dataloader.dataset
    if 'target' in dataset:
        assert 'seg_map_path' not in str(dataset.target)


# Pairs ---------------------------------------------------------------------------------------------------------------

TRANSFERS = [leaf for leaf in LEAVES if leaf.startswith('feature_regression/')]


@pytest.mark.parametrize('leaf', TRANSFERS)
def test_no_target_label_is_read_before_the_test(leaf):
    cfg = load_config(CONFIGS / leaf)
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
    cfg = load_config(CONFIGS / leaf)
    for domain in ('source', 'target'):
        trained, held_out = (cfg[f'{split}_dataloader'].dataset[domain] for split in ('train', 'val'))
        where = [(part.data_root, part.data_prefix.img_path, part.get('ann_file')) for part in (trained, held_out)]
        if where[0] == where[1]:  # the first and the last of a list of 1464
            assert 'Segmentation/train.txt' in trained.ann_file
            assert trained.indices - held_out.indices <= 1464


# Two iterations of training and a test -------------------------------------------------------------------------------


def narrow(cfg) -> dict:
    """Options that cut width and depth of a model; the parts behind the backbone follow."""
    backbone, head = cfg.model.backbone, cfg.model.decode_head
    kind = backbone.get('base', backbone.type)
    if kind.endswith(('MiT', 'MixVisionTransformer')):
        options = {'backbone.embed_dims': 8, 'backbone.num_layers': [1, 1, 1, 1]}
    elif kind == 'PlainViT':
        options = {'backbone.embed_dims': 16, 'backbone.num_heads': 2, 'backbone.depth': 2}
        options.update({'backbone.out_indices': [1], 'backbone.pyramid.channels': 8})
    elif kind.startswith('ResNet'):
        options = {'backbone.depth': 18, 'backbone.stem_channels': 8, 'backbone.base_channels': 8}
    elif kind == 'EfficientNetLite':
        options = {'backbone.out_indices': (1, 2, 3, 4)}  # without the widest stages
    else:
        pytest.fail(f'say here how to cut a {kind}')
    options['decode_head.channels'] = 16
    if head.type in ('DAFormerHead', 'HRDAHead'):
        options['decode_head.embed_dims'] = 8
    if 'c1_channels' in head:
        options['decode_head.c1_channels'] = 8
    if 'embed_dims' in head:
        options['decode_head.embed_dims'] = 8
    if cfg.model.get('discriminator'):
        options['discriminator.base_channels'] = 8
    return {f'model.{key}': value for key, value in options.items()}


def smaller(cfg) -> dict:
    """Options that halve the crops of a training, which take most of its time."""
    if cfg.model.get('discriminator') and 'MultiResolution' in cfg.model.backbone.type:
        return {}  # whose coarse maps leave a discriminator nothing to look at
    return {
        f'{path}.{key}': tuple(side // 2 for side in node[key])
        for path, node in walk(cfg)
        for key in ('crop_size', 'scale')
        if path.startswith('train_dataloader') and node.get('type') in ('RandomCrop', 'RareClassCrop', 'Resize')
        if key in node and min(node[key]) >= 384
    }


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
            gsd = dataset.get('gsd', 1)
            place = dict(crs='EPSG:32632', transform=Affine(gsd, 0, 600000 + 1000 * gsd * i, 0, -gsd, 5400000))
            if dataset.type == 'RasterDataset':
                image = rng.random((bands, size, size), np.float32)
                array, kind = (labels, 'seg_map') if key == 'seg_map_path' else (image, 'img')
                write_raster(path.with_name(path.name + dataset.get(f'{kind}_suffix', '.tif')), array, **place)
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
    options, trained = {}, set()
    for path, node in walk(cfg):
        if '_dataloader.dataset' not in path or 'data_prefix' not in node:
            continue
        training = path.startswith('train')
        root = folder / Path(node.data_root).name
        # Images of training and evaluation may be the same.
        images = root / node.data_prefix.img_path
        large = training or node.type == 'RasterDataset' or images in trained
        trained |= {images} if training else set()
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


def labels(cfg) -> dict:
    """Options that label an image of the target where a method learns from it, and score it nowhere."""
    dataset = cfg.train_dataloader.dataset
    if 'labelled' not in dataset:
        return {}
    options: dict = {'labelled_images': ['image0']}
    for split in ('val', 'test'):
        own = cfg[f'{split}_dataloader'].dataset
        if own.data_prefix.img_path == dataset.target.data_prefix.img_path:
            options[f'{split}_dataloader.dataset.leave_out'] = ['image0']
    return options


def write_reference(cfg, file: Path) -> list[str]:
    """The option that names a random reference of the width of the student; nothing where there is no use for one."""
    if 'reference_config' not in cfg:
        return []
    reference = load_config(cfg.reference_config)
    merge_options(reference, narrow(reference))
    del reference.model['data_preprocessor']  # it has no weights, and may be yet to be measured
    fill(reference)
    remove_pretrained(reference.model)
    torch.save(dict(state_dict=MODELS.build(reference.model).state_dict()), file)
    return ['--reference', str(file)]


@pytest.mark.parametrize(('method', 'task', 'network'), SAMPLE)
def test_trains_two_iterations_and_tests(method, task, network, tmp_path):
    labelled = labels(compose(method, task, network))
    cfg = compose(method, task, network, **labelled)
    options = {
        **labelled,
        **local_data(cfg, tmp_path / 'data'),
        **narrow(cfg),
        **smaller(cfg),
        'train_dataloader.batch_size': 2,  # where a task has 1, it is for two processes
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
        'default_hooks.checkpoint.interval': 2,
        'default_hooks.logger.interval': 1,
    }
    texts = [f'{key}={str(value).replace(" ", "")}' for key, value in options.items()]
    common = ['--work-dir', str(tmp_path / 'run'), '--cfg-options', *texts]
    merge_options(cfg, options)
    reference = write_reference(cfg, tmp_path / 'reference.pth')
    named = [str(CONFIGS / method / 'method.py'), '--task', task, '--network', network]
    assert train_tool.main([*named, '--no-pretrained', *reference, *common]) == 0

    (scalars,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert [line['step'] for line in lines if 'loss' in line] == [1, 2]
    assert all(np.isfinite(line['loss']) for line in lines if 'loss' in line)
    assert any('regression/loss' in line for line in lines) == bool(reference)
    if cfg.model.get('self_training'):
        shares = ['confident_share', *(['disc_accuracy_target'] if cfg.model.get('discriminator') else [])]
        assert all(share in line for line in lines if 'loss' in line for share in shares)

    # What the run has written down is whole, without the files that it was made of.
    written = tmp_path / 'run' / f'{method}_{task}_{network}.py'
    assert 'None' not in str([node.get('in_channels', 0) for _, node in walk(load_config(written).model)])
    metrics = tmp_path / 'metrics.json'
    checkpoint = str(tmp_path / 'run' / 'iter_2.pth')
    assert test_tool.main([str(written), checkpoint, '--metrics', str(metrics), *common[:2]]) == 0
    scores = json.loads(metrics.read_text())
    assert scores['images'] >= 1
    assert len(scores['classes']) == load_config(written).model.decode_head.num_classes > 1
