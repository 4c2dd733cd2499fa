"""What the suite has to know of each adaptation method, and how it takes steps with one; see `test_conformance.py`.

A new method adds a `Method`: the configuration of a tiny run, and what each of its losses moves. As a program, one of
several processes, this file trains all of them on shared batches and saves what they become.
"""

from __future__ import annotations

import copy
import functools
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmrs.apis import train
from mmrs.engine.distributed import CPUDistributedDataParallel
from mmrs.registry import HOOKS, MODELS
from mmrs.utils.process_group import init_cpu_group
from mmrs.weights import read_checkpoint
from tests.rank_recorder import RankRecorder
from tests.tiny_runs import write_adaptation_config, write_clips, write_config, write_regression_config

CLASSES, IGNORED = 6, 255


class Method(NamedTuple):
    """A method.

    `write` writes the configuration of a tiny run: to a file, on clips in a folder, and on those in a second folder
    where the method takes pairs. `reach` says which parts of the model each loss moves; it moves no other. `options`
    change the configuration. `labels` is off where no label is read, of the source neither. `exact` is off where two
    processes cannot train as one does on the batch of both, as with batch normalisation in the backbone.
    """

    write: Callable[[Path, Path, Path], Path]
    reach: Mapping[str, set[str]]
    options: Mapping[str, Any] = {}
    labels: bool = True
    exact: bool = True


def write_source_only(file: Path, source: Path, target: Path) -> Path:
    return write_config(file, source)


def write_st_dasegnet(file: Path, source: Path, target: Path) -> Path:
    return write_adaptation_config(file, source)


DEEPLAB = """
model = dict(
    backbone=dict(
        _delete_=True, type='ResNetV1c', depth=18, stem_channels=8, base_channels=8, norm_cfg=dict(type='BN'),
        strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[8, 16, 32, 64], reduction=8, variant='ds2'),
    decode_head=dict(
        _delete_=True, type='DepthwiseSeparableASPPHead', in_channels=72, in_index=3, channels=16, dilations=(1, 6),
        c1_in_channels=8, c1_channels=4, num_classes=6, norm_cfg=dict(type='BN'), align_corners=False,
        loss_decode=dict(type='PixelMeanCrossEntropyLoss')),
    discriminator=dict(in_channels=64))
"""


LORA = """
model = dict(
    backbone=dict(
        _delete_=True, type='PlainViT', patch_size=4, embed_dims=8, depth=2, num_heads=2, num_registers=1,
        key_bias=False, layer_scale=1.0, pyramid=dict(channels=4, scales=(4, 2, 1, 1)),
        lora=dict(rank=2, projections=('q', 'v', 'fc1'))))
"""


def on_network(name: str, network: str) -> Callable[[Path, Path, Path], Path]:
    """What writes the configuration of a tiny ST-DASegNet on another network."""

    def write(file: Path, source: Path, target: Path) -> Path:
        base = write_adaptation_config(file, source)
        leaf = base.with_name(f'{name}_{file.name}')
        leaf.write_text(f"_base_ = './{base.name}'\n" + network)
        return leaf

    return write


def plain(*hooks: dict, **adaptor: Any) -> Callable[[Path, Path, Path], Path]:
    """What writes the configuration of a method whose network is backbone and decode head: its keys as in `adaptor`."""

    def write(file: Path, source: Path, target: Path) -> Path:
        config = Config.fromfile(write_adaptation_config(file, source))
        for key in ('neck', 'discriminator', 'gan_loss', 'self_training'):
            config.model.pop(key)
        config.model.update(adaptor)
        optimizer = dict(type='AdamW', lr=1e-3)
        config.optim_wrapper = dict(type='OptimWrapper', optimizer=optimizer)
        if 'discriminator' in adaptor:
            parts = dict(segmentor=dict(optimizer=optimizer), discriminator=dict(optimizer=optimizer))
            config.optim_wrapper = dict(constructor='JointOptimWrapperConstructor', **parts)
        config.custom_hooks = list(hooks)
        config.dump(file)
        return file

    return write


def few(*hooks: dict, **adaptor: Any) -> Callable[[Path, Path, Path], Path]:
    """The same of a method that learns from labelled images of the target, too: two of those that nothing scores."""

    def write(file: Path, source: Path, target: Path) -> Path:
        config = Config.fromfile(plain(*hooks, type='FewLabels', **adaptor)(file, source, target))
        dataset = config.train_dataloader.dataset
        prefix = dict(img_path='img_dir/train', seg_map_path='ann_dir/train')
        dataset.labelled = copy.deepcopy(dataset.target)
        dataset.labelled.update(data_prefix=prefix, only=['clip0', 'clip1'], pipeline=dataset.source.pipeline)
        dataset.reads_target = 'self_training' in adaptor
        config.dump(file)
        return file

    return write


# The tiny runs have mmseg's classes; those of this project take the same weights.
EFFICIENT = {'model.backbone.type': 'EfficientMiT', 'model.decode_head.type': 'EfficientSegformerHead'}
HRDA = {
    'model.backbone.type': 'MultiResolution', 'model.backbone.base': 'EfficientMiT',
    'model.decode_head.type': 'HRDAHead', 'model.decode_head.base': 'EfficientSegformerHead',
    'model.decode_head.attention': dict(channels=4),
}  # fmt: skip
# An untrained network passes these here and there: one of six classes has 0.1667 by chance.
CONFIDENT = {'model.self_training.threshold': 0.168, 'model.self_training.rare_threshold': 0.1675}
STUDENTS = {'segmentor.backbone.source', 'segmentor.backbone.target', 'segmentor.neck'}
ST_DASEGNET = {
    'loss_seg_s2s': {*STUDENTS, 'segmentor.decode_head.source'},
    'loss_seg_s2t': {*STUDENTS, 'segmentor.decode_head.target'},
    'loss_pseudo_t2s': {*STUDENTS, 'segmentor.decode_head.source'},
    'loss_pseudo_t2t': {*STUDENTS, 'segmentor.decode_head.target'},
    'loss_adv_t2s': {'segmentor.backbone.source'},
    'loss_adv_s2t': {'segmentor.backbone.target'},
    **{f'loss_disc_{d}_{kind}': {f'discriminator.{d}'} for d in ('source', 'target') for kind in ('real', 'fake')},
}
TEACHER = dict(type='TeacherEMAHook', decay=0.99)
MIXED = {loss: {'backbone', 'decode_head'} for loss in ('loss_seg', 'loss_mixed')}

AUXILIARY = dict(
    type='mmseg.FCNHead', in_channels=4, in_index=2, channels=4, num_convs=1, num_classes=CLASSES, dropout_ratio=0.0,
    norm_cfg=None, loss_decode=dict(type='PixelMeanCrossEntropyLoss', loss_weight=0.4),
)  # fmt: skip
HEAD = {'backbone', 'decode_head'}
ALIGNED = dict(type='OutputSpaceAlignment', discriminator=dict(type='OutputDiscriminator', base_channels=2))
FEW = dict.fromkeys(('loss_seg', 'loss_labelled'), HEAD)
TAUGHT = dict(self_training=dict(threshold=0.3))
# Two levels: the second one is an auxiliary head.
LEVELS = dict(decode_head=HEAD, auxiliary_head={'backbone', 'auxiliary_head'})

METHODS = {
    'source only': Method(write_source_only, {'decode.loss_ce': {'backbone', 'decode_head'}}, EFFICIENT),
    'source only hrda': Method(
        write_source_only, {'decode.loss_seg': {'backbone', 'decode_head'}}, HRDA, exact=False
    ),  # each process draws a part of the image of its own
    'st_dasegnet decoder_only': Method(write_st_dasegnet, ST_DASEGNET, {**EFFICIENT, **CONFIDENT}),
    'st_dasegnet single_target': Method(
        write_st_dasegnet, ST_DASEGNET, {**EFFICIENT, **CONFIDENT, 'model.self_training.teacher': 'single_target'}
    ),
    'st_dasegnet deeplab': Method(on_network('deeplab', DEEPLAB), ST_DASEGNET, CONFIDENT, exact=False),
    'st_dasegnet lora': Method(
        on_network('lora', LORA), ST_DASEGNET, {**CONFIDENT, 'model.self_training.teacher': 'single_target'}
    ),
    'st_dasegnet mixed masked': Method(
        write_st_dasegnet,
        {
            **ST_DASEGNET,
            **{
                f'{loss}2{domain[0]}': {*STUDENTS, f'segmentor.decode_head.{domain}'}
                for loss in ('loss_mixed_m', 'loss_masked_t')
                for domain in ('source', 'target')
            },
        },
        {
            **EFFICIENT,
            **CONFIDENT,
            'model.masked_consistency': dict(block=16),
            'model.mixing': dict(augmentation=dict(jitter=0.2)),
        },
        exact=False,
    ),
    'minent': Method(
        plain(type='OutputSpaceAlignment', weights=dict(decode_head=0.5)),
        {'loss_seg': HEAD, 'loss_entropy_decode_head': HEAD},
        EFFICIENT,
    ),
    'adaptsegnet': Method(
        plain(
            **ALIGNED,
            weights=dict(decode_head=0.5),
            input_map='softmax',
            gan_loss=dict(type='GANLoss', gan_type='lsgan'),
        ),
        {
            'loss_seg': HEAD,
            'loss_adv_decode_head': HEAD,
            **{f'loss_disc_decode_head_{kind}': {'discriminator.decode_head'} for kind in ('real', 'fake')},
        },
        EFFICIENT,
    ),
    'minent mic hrda': Method(
        plain(
            TEACHER,
            type='OutputSpaceAlignment',
            weights=dict(decode_head=0.5),
            masked_consistency=dict(block=16, self_training=dict(threshold=0.3)),
        ),
        {'loss_seg': HEAD, 'loss_entropy_decode_head': HEAD, 'loss_masked': HEAD},
        {**HRDA, 'model.backbone.stride': 2},
        exact=False,
    ),
    'advent two levels': Method(
        plain(**ALIGNED, weights=dict(decode_head=0.5, auxiliary_head=0.5), auxiliary_head=AUXILIARY),
        {
            'loss_seg': HEAD,
            'loss_aux': LEVELS['auxiliary_head'],
            **{f'loss_adv_{level}': parts for level, parts in LEVELS.items()},
            **{f'loss_disc_{d}_{kind}': {f'discriminator.{d}'} for d in LEVELS for kind in ('real', 'fake')},
        },
        EFFICIENT,
    ),
    'dacs': Method(
        plain(TEACHER, type='DACS', self_training=dict(threshold=0.3), mixing=dict(augmentation=dict(jitter=0.25))),
        MIXED,
        EFFICIENT,
    ),
    'daformer': Method(
        plain(TEACHER, type='DACS', self_training=dict(threshold=0.3), mixing=dict(augmentation=dict(jitter=0.25))),
        MIXED,
        {**EFFICIENT, 'model.decode_head': dict(type='DAFormerHead', embed_dims=4), 'model.early_backward': False},
    ),
    'fada': Method(
        plain(type='FADA', discriminator=dict(type='ClassDiscriminator', in_channels=4, base_channels=4), weight=0.5),
        {
            'loss_seg': HEAD,
            'loss_adv': {'backbone'},
            'loss_disc_source': {'discriminator'},
            'loss_disc_target': {'discriminator'},
        },
        EFFICIENT,
    ),
    'mic': Method(
        plain(TEACHER, type='DACS', self_training=dict(threshold=0.3), masked_consistency=dict(block=16)),
        {**MIXED, 'loss_masked': {'backbone', 'decode_head'}},
        EFFICIENT,
        exact=False,  # what is hidden is drawn
    ),
    'mic hrda': Method(
        plain(TEACHER, type='DACS', self_training=dict(threshold=0.3), masked_consistency=dict(block=16)),
        {**MIXED, 'loss_masked': {'backbone', 'decode_head'}},
        {**HRDA, 'model.backbone.stride': 2},
        exact=False,
    ),
    'source and labelled': Method(few(), FEW, EFFICIENT),
    'mean teacher': Method(
        few(TEACHER, **TAUGHT, mixing=dict(share=0.0, augmentation=dict(jitter=0.25))),
        {**FEW, 'loss_mixed': HEAD},
        EFFICIENT,
    ),
    'few labels': Method(
        few(TEACHER, **TAUGHT, contrast=dict(weight=1.0, queries=8, negatives=16, width=4, confident=0.2)),
        {**FEW, 'loss_mixed': HEAD, 'loss_contrast': {*HEAD, 'contrast'}},
        EFFICIENT,
        exact=False,  # queries and negatives are drawn
    ),
    'few labels hrda': Method(
        few(TEACHER, **TAUGHT, contrast=dict(weight=1.0, queries=8, negatives=16, width=4, confident=0.2)),
        {**FEW, 'loss_mixed': HEAD, 'loss_contrast': {*HEAD, 'contrast'}},
        {**HRDA, 'model.backbone.stride': 2},
        exact=False,
    ),
    'feature regression': Method(
        write_regression_config, {'loss_stage2': {'backbone'}, 'loss_decode_head': {'backbone'}}, EFFICIENT, False
    ),
    # The whole of each window: what a test puts into a corner of it shall be seen.
    'contrast': Method(
        plain(type='Contrast', views=dict(area=(1.0, 1.0), aspect=1.0), global_loss=dict(), local_loss=dict()),
        {'loss_global': {'backbone', 'pretext.backbone'}, 'loss_local': {*HEAD, 'pretext.decode_head'}},
        EFFICIENT,
        labels=False,
        exact=False,  # views and cells are drawn
    ),
    'feature regression with head': Method(
        write_regression_config,
        {'loss_stage2': {'backbone'}, 'loss_decode_head': {'backbone', 'decode_head'}},
        {**EFFICIENT, 'model.train_decode_head': True},
        False,
    ),
}
#: Those that are not put together of what others have, too; for claims about shared code.
DISTINCT = [
    name
    for name in METHODS
    if name not in (
        'source only hrda', 'st_dasegnet decoder_only', 'st_dasegnet single_target', 'minent', 'adaptsegnet', 'dacs',
        'daformer', 'mic hrda', 'mean teacher', 'few labels hrda', 'feature regression',
    )
]  # fmt: skip
#: Those that see a target domain.
ADAPTING = [name for name in METHODS if not name.startswith('source only')]


@functools.cache
def _config(name: str) -> Config:
    with tempfile.TemporaryDirectory() as folder:
        return Config.fromfile(METHODS[name].write(Path(folder) / 'tiny.py', Path('source'), Path('target')))


def optimizers(config: Config) -> list[Any]:
    """The part of a configuration for each optimizer."""
    wrapper = config.optim_wrapper
    return [wrapper] if 'optimizer' in wrapper else [part for part in wrapper.values() if isinstance(part, dict)]


class Trainer:
    """Takes steps with a method's tiny model, as a run does, but without files and logs.

    Args:
        name: Of the method.
        options: Dotted keys that change its configuration.
        accumulated: Number of batches of a step.
        change: Changes the configuration further.
        dtype: Of the parameters.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        accumulated: int = 1,
        change: Callable[[Config], None] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config = copy.deepcopy(_config(name))
        self.config.merge_from_dict({**METHODS[name].options, **(options or {})})
        for part in optimizers(self.config):
            part.accumulative_counts = accumulated
        if change is not None:
            change(self.config)
        init_default_scope('mmrs')
        torch.manual_seed(0)
        self.model: Any = MODELS.build(self.config.model)
        with torch.no_grad():
            for parameter in self.model.parameters():  # further from zero than initialisation has them
                parameter += 0.1 * torch.randn_like(parameter)
        self.model.to(dtype).train()
        self.optimizer: Any = build_optim_wrapper(self.model, self.config.optim_wrapper)
        several = get_world_size() > 1
        self.wrapped = CPUDistributedDataParallel(self.model, broadcast_buffers=False) if several else self.model
        self.hooks = [HOOKS.build(hook) for hook in self.config.get('custom_hooks', [])]
        self.iteration = 0

    @property
    def adapts(self) -> bool:
        return 'source' in self.config.train_dataloader.dataset

    @property
    def streams(self) -> list[str]:
        """What a batch has."""
        dataset = self.config.train_dataloader.dataset
        read = dict(source=True, labelled='labelled' in dataset, target=dataset.get('reads_target', self.adapts))
        return [name for name, is_read in read.items() if is_read]

    def batch(self, seed: int, **kwargs: Any) -> dict:
        """Some images of both domains, or of the source alone, whatever the method takes; see :func:`make_batch`."""
        found = make_batch(seed, **kwargs)
        return {name: found[name] for name in self.streams} if self.adapts else found['source']

    def losses(self, batch: dict) -> dict[str, Tensor]:
        """What is logged of a batch, without a step."""
        if self.iteration == 0:
            self._hooks()
        torch.manual_seed(1)
        return self.model(**self.model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')

    def step(self, batch: dict) -> dict[str, Tensor]:
        """Train on a batch."""
        self._hooks()
        torch.manual_seed(self.iteration)
        self.iteration += 1
        return self.wrapped.train_step(copy.deepcopy(batch), self.optimizer)

    def _hooks(self) -> None:
        for hook in self.hooks:
            hook.before_train_iter(SimpleNamespace(iter=self.iteration, model=self.wrapped), 0, None)

    def state(self) -> dict[str, Any]:
        """A copy of all that a checkpoint holds of it."""
        return copy.deepcopy(dict(model=self.model.state_dict(), optimizer=self.optimizer.state_dict()))


def make_batch(
    seed: int,
    images: range | list[int] = range(2),
    size: int = 64,
    valid: str | None = None,
    hidden: float | None = None,
    target_labels: bool = False,
) -> dict:
    """Some images of a batch of both domains: blocks of classes, the target in other colours; each is its own.

    Labelled images of the target show other ground than its unlabelled ones.

    Args:
        seed: Of the batch.
        images: Which ones of it. They differ much in how many pixels are labelled.
        size: Of an image, in pixels.
        valid: Domain of which the images have pixels without data, and no label there; ``'both'`` for both, but one
            half of the images is valid everywhere.
        hidden: What the pixels without data hold; else what they would if they had data.
        target_labels: Whether the target's samples have labels, too.
    """
    batch: dict = {name: dict(inputs=[], data_samples=[]) for name in ('source', 'labelled', 'target')}
    for i in images:
        generator = torch.Generator().manual_seed(1000 * seed + i)
        label = torch.randint(0, CLASSES, (1, 8, 8), generator=generator)
        label = label.repeat_interleave(size // 8, 1).repeat_interleave(size // 8, 2)
        source = 40.0 * label + 20 * torch.randn(3, size, size, generator=generator)
        label[:, : size * i // 7] = IGNORED
        target = source.flip(0) * 0.7 + 30
        shown = dict(source=(source, label), labelled=(target.flip(1), label.flip(1)), target=(target, label))
        for domain, (image, own) in shown.items():
            sample, own = SegDataSample(), own.clone()
            if domain == 'target':  # others than the source's, which would pass for them
                own = torch.where(own == IGNORED, own, (own + 1) % CLASSES)
            if valid == domain or (valid == 'both' and (i + seed) % 2):
                known = torch.ones(1, size, size, dtype=torch.bool)
                known[..., : size // 4 + 4 * i] = False
                own[~known] = IGNORED
                if hidden is not None:
                    image = torch.where(known, image, torch.tensor(hidden))
                sample.valid_map = PixelData(data=known)
            if domain != 'target' or target_labels:
                sample.gt_sem_seg = PixelData(data=own)
            batch[domain]['inputs'].append(image)
            batch[domain]['data_samples'].append(sample)
    return batch


# Whole runs ----------------------------------------------------------------------------------------------------------

_AUGMENTED: list[dict] = [dict(type='RandomCrop', crop_size=(64, 64)), dict(type='RandomFlip', prob=0.5)]
_COLOURED = [*_AUGMENTED, dict(type='PhotoMetricDistortion'), dict(type='PackSegInputs')]


def write_data(folder: Path) -> Path:
    """Clips of two domains, larger than a crop, so that there is something to draw, and a trained reference."""
    for seed, domain in enumerate(('source', 'target')):
        write_clips(folder / domain, train=5, size=96, seed=seed)
    config = Config.fromfile(write_config(folder / 'reference.py', folder / 'source'))
    train(config, folder / 'reference', preflight=False)
    return folder


def run_config(name: str, data: Path, folder: Path, iterations: int = 6, workers: int = 0, accumulated: int = 1) -> Any:
    """The configuration of a run on what :func:`write_data` wrote, in which all that is drawn shows in its results.

    Args:
        name: Of the method.
        data: Folder with the data.
        folder: An empty folder for the configuration.
        iterations: Length of the run.
        workers: Number of processes that load data.
        accumulated: Number of batches of a step.

    Returns:
        The configuration, and the further arguments of `train`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    method = METHODS[name]
    config = Config.fromfile(method.write(folder / 'tiny.py', data / 'source', data / 'target'))
    checkpoint = dict(interval=min(2, iterations // 2), max_keep_ckpts=1)
    config.merge_from_dict({
        **method.options, 'train_cfg': dict(max_iters=iterations, val_interval=iterations // 2),
        'randomness': dict(seed=3, deterministic=True), 'train_dataloader.num_workers': workers,
        'model.backbone.drop_path_rate': 0.3, 'default_hooks.checkpoint': checkpoint,
    })  # fmt: skip
    if 'ResNet' in config.model.backbone.type:
        del config.model.backbone['drop_path_rate']
    config.default_hooks.checkpoint.setdefault('save_best', 'mIoU')
    config.param_scheduler = [dict(type='PolyLR', power=0.9, begin=0, end=iterations, by_epoch=False)]
    for part in optimizers(config):
        part.accumulative_counts = accumulated
    dataset = config.train_dataloader.dataset
    if dataset.type == 'PairedDataset':
        dataset.pipeline = _AUGMENTED
    else:
        labels = dict(type='LoadRasterAnnotations')
        dataset.get('source', dataset).pipeline = [dict(type='LoadRasterImage'), labels, *_COLOURED]
        if 'labelled' in dataset:
            dataset.labelled.pipeline = dataset.source.pipeline
        if 'target' in dataset:
            dataset.target.pipeline = [dict(type='LoadRasterImage'), *_COLOURED]
    starts = 'reference_config' in config
    return config, dict(reference=data / 'reference' / 'iter_2.pth') if starts else {}


def comparable(value: Any, where: str = '') -> dict[str, Any]:
    """All values of nested states by where they are, but for times and paths."""
    if hasattr(value, '_log_history'):
        value = value._log_history
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        if isinstance(value, Tensor):
            # numpy has no bfloat16, of which float32 holds every number.
            value = np.asarray(value.detach().float() if value.dtype == torch.bfloat16 else value.detach())
        return {where: value}
    kept = [key for key in value if key not in _OWN and 'time' not in str(key)]
    return {k: v for key in kept for k, v in comparable(value[key], f'{where}.{key}').items()}


_OWN = ('cfg', 'experiment_name', 'last_ckpt', 'best_ckpt')


def changes(one: Any, other: Any) -> set[str]:
    """Where two states differ in any bit."""
    one, other = comparable(one), comparable(other)

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
            return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == 'f')
        return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))

    return {
        k.removeprefix('.')
        for k in one.keys() | other.keys()
        if not (k in one and k in other and same(one[k], other[k]))
    }


def changed_checkpoints(one: Path, other: Path) -> dict[str, set[str]]:
    """Where the checkpoints of two runs differ."""
    names = {path.name for folder in (one, other) for path in folder.glob('*.pth')}
    assert f'iter_{max(int(name[5:-4]) for name in names if name.startswith("iter_"))}.pth' in names
    found = {n: changes(*(read_checkpoint(f / n) if (f / n).is_file() else None for f in (one, other))) for n in names}
    return {name: differ for name, differ in found.items() if differ}


# Several processes ---------------------------------------------------------------------------------------------------

WEIGHTS = [1.0, 0.5, 2.0, 3.0, 1.0, 0.25]
WEIGHTED = {'model.decode_head.loss_decode': dict(type='PixelMeanCrossEntropyLoss', class_weight=WEIGHTS)}

# Of the pixels of these models some are above, and not equally many in each process.
SURE = {'model.self_training.threshold': 0.21, 'model.self_training.rare_threshold': 0.2}

#: What must be the same in any number of processes: the methods, with all their losses.
SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    'source only': ('source only', {**WEIGHTED, 'model.auxiliary_head': AUXILIARY}),
    **{
        f'st_dasegnet {gan_type}': (
            'st_dasegnet decoder_only',
            {**WEIGHTED, **SURE, 'model.gan_loss.gan_type': gan_type, 'model.gan_loss.loss_weight': 0.1,
             'model.self_training.class_weight': WEIGHTS},
        )
        for gan_type in ('vanilla', 'l1', 'hinge', 'wgan-logistic-ns')
    },
    **{
        f'st_dasegnet {thresholds}': (
            'st_dasegnet decoder_only',
            {'model.self_training.thresholds': dict(type=thresholds, initial=0.2),
             'model.self_training.class_weight': WEIGHTS},
        )
        for thresholds in ('CBSTThresholds', 'IASTThresholds')
    },
    'st_dasegnet single target': ('st_dasegnet single_target', SURE),
    # All classes are pasted, so that nothing is drawn, and where there are none the target shows.
    **{
        method: (method, {**WEIGHTED, 'model.mixing': dict(share=1.0, augmentation=None)})
        for method in ('dacs', 'daformer')
    },
    'mean teacher': ('mean teacher', {**WEIGHTED, 'model.mixing.augmentation': None}),
    # All cells, in views that are not drawn. (Some windows have hardly any data in the process that has them.)
    **{
        f'contrast {loss["loss"]}': (
            'contrast',
            {'model.views': dict(area=(1.0, 1.0), aspect=1.0, turns=False, colours=None),
             'model.global_loss': loss, 'model.local_loss': dict(points=10000)},
        )
        for loss in (dict(loss='nt_xent'), dict(loss='uniformity', sigma=1.0), dict(loss='unified'))
    },
    'feature regression smooth_l1': ('feature regression', {}),
    **{
        f'feature regression {" ".join(loss.values())}': (name, {'model.loss_regression': loss})
        for name, loss in (
            ('feature regression', dict(distance='l2', tolerance='local(3)')),
            ('feature regression', dict(distance='cosine', tolerance='pyramid')),
            ('feature regression with head', dict(tolerance='gram')),
        )
    },
}  # fmt: skip
_VARIED = {method for method, _ in SHARED.values()}
SHARED.update({name: (name, {}) for name, method in METHODS.items() if method.exact and name not in _VARIED})
#: Those that are trained by several processes as a whole run is, too.
TOGETHER = [name for name, method in METHODS.items() if not method.exact or name in DISTINCT]

# Normalisation by batch, and what is drawn at random, would differ.
_QUIET = {
    'model.decode_head.norm_cfg': None, 'model.decode_head.dropout_ratio': 0.0, 'model.backbone.drop_path_rate': 0.0,
}  # fmt: skip
_BATCH = 6


def _with_sgd(config: Config) -> None:
    for part in optimizers(config):
        part.optimizer = dict(type='SGD', lr=0.05, momentum=0.9)


def train_on_shared_batches(name: str, steps: int = 3) -> dict[str, Tensor]:
    """Train in float64 on this process's share of the images of each batch; the model's state."""
    method, options = SHARED[name]
    trainer = Trainer(method, {**options, **_QUIET}, change=_with_sgd, dtype=torch.float64)
    for step in range(steps):
        own = list(range(get_rank(), _BATCH, get_world_size()))
        trainer.step(trainer.batch(step, images=own, size=32, valid='both'))
    return trainer.model.state_dict()


def main(folder: Path) -> None:
    """Train what is in :data:`SHARED`, and runs on the data of :func:`write_data`, all processes together."""
    init_cpu_group(120)
    states = {name: train_on_shared_batches(name) for name in SHARED}
    for name, state in states.items():
        for key, value in state.items():
            others = all_gather_object(value)
            assert all(torch.equal(value, other) for other in others), f'{name}: {key} differs between the processes'
    if get_rank() == 0:
        torch.save(states, folder / 'states.pth')
    for name in TOGETHER:
        with tempfile.TemporaryDirectory() as own:
            config, arguments = run_config(name, folder, Path(own), iterations=3)
        if name == 'source only':
            config.model.decode_head.norm_cfg = dict(type='SyncBN')
        config.merge_from_dict({'train_cfg.val_interval': 9, 'default_hooks.checkpoint.interval': 3})
        config.custom_hooks = [*config.get('custom_hooks', []), dict(type=RankRecorder, out_dir=str(folder / name))]
        train(config, folder / name, launcher='pytorch', preflight=False, **arguments)


if __name__ == '__main__':
    main(Path(sys.argv[1]))
