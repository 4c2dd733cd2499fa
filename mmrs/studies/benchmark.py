"""Time and memory of a configuration's model in training and inference, beside another form of it."""

from __future__ import annotations

import copy
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from rich.progress import track
from torch import Tensor

from mmrs.apis.filling import fill_model
from mmrs.engine.compilation import compile_backbones
from mmrs.install import install
from mmrs.models.adaptors import Adaptor
from mmrs.models.backbones.lora import merge_lora
from mmrs.registry import MODELS
from mmrs.studies.dacs_release_step import DACSReleaseStep
from mmrs.studies.release_step import ReleaseStep
from mmrs.studies.window_benchmark import peak_bytes
from mmrs.utils.config import load_config, remove_pretrained, require_keys, walk
from mmrs.utils.config_types import check_types, explained_errors
from mmrs.utils.errors import ConfigError, require_number
from mmrs.utils.processes import resident
from mmrs.utils.progress import quiet_log

__all__ = ['BenchmarkSettings', 'Measurement', 'benchmark', 'format_report', 'stock_config']

#: MMSegmentation's module, or a release's, for each of this project's that computes the same in another way.
STOCK_TYPES = {
    'EfficientMiT': 'mmseg.MixVisionTransformer',
    'EfficientSegformerHead': 'mmseg.SegformerHead',
    'ResNetV1c': 'mmseg.ResNetV1c',
    'DAFormerHead': 'DAFormerReleaseHead',
}
#: Largest difference of the logits, relative to the largest logit or 1.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class BenchmarkSettings:
    """What to measure.

    Args:
        config: Configuration file; or a dict of a method's file, `config`, and the names of its `task` and `network`.
        batch_size: Training images per domain; None: the configuration's.
        crop_size: Their height and width in pixels; None: the configuration's.
        inference_size: Height and width of the image that is predicted, in pixels.
        iters: Timed repetitions, after two that are not.
        threads: Threads of a CPU run; None leaves torch's choice.
        cfg_options: Dotted keys and values that override the configuration.
    """

    config: str | Path | Mapping[str, Any]
    batch_size: int | None = None
    crop_size: int | None = None
    inference_size: int = 512
    iters: int = 10
    threads: int | None = None
    cfg_options: Mapping[str, Any] | None = None

    def load(self) -> Config:
        """The configuration; random weights, inference on whole images."""
        install()
        cfg = load_config(self.config, self.cfg_options)
        check_types(cfg)
        require_keys(cfg, 'the benchmark', 'model', 'optim_wrapper')
        fill_model(cfg)
        remove_pretrained(cfg.model)
        cfg.model.test_cfg = dict(mode='whole')
        return cfg

    def resolved(self) -> BenchmarkSettings:
        """These settings with the configuration's batch and crop size in place of None."""
        cfg = self.load()
        crop_size = self.crop_size or cfg.get('crop_size', 256)
        return replace(
            self,
            batch_size=self.batch_size or cfg.get('train_dataloader', {}).get('batch_size', 2),
            crop_size=crop_size if isinstance(crop_size, int) else crop_size[0],
        )


@dataclass
class Measurement:
    """Results of one model: seconds of every repetition, bytes at the peak, those of them that libraries take."""

    training: list[float] = field(default_factory=list)
    inference: list[float] = field(default_factory=list)
    peak_memory: int = 0
    libraries: int = 0


def stock_config(cfg: Config) -> Config:
    """The same model of MMSegmentation's own modules, with torch's plain optimizers."""
    cfg = copy.deepcopy(cfg)
    for _, node in list(walk(cfg.model)):
        for key in ('type', 'base'):  # what several resolutions are made of
            name = str(node.get(key, '')).removeprefix('mmrs.')
            if name in STOCK_TYPES:
                node[key] = STOCK_TYPES[name]  # type: ignore[index]
    for _, node in list(walk(cfg.optim_wrapper)):
        if 'fused' in node:
            node['fused'] = None  # type: ignore[index]
    return cfg


class _Subject:
    """A model with all it takes to train it for one step after another."""

    def __init__(self, settings: BenchmarkSettings, stock: bool) -> None:
        cfg = settings.load()
        if stock:
            cfg = stock_config(cfg)
        torch.manual_seed(0)
        self.device = get_device()
        with explained_errors(cfg):
            self.model: Any = revert_sync_batchnorm(MODELS.build(cfg.model)).to(self.device).train()
        compile_backbones(self.model, cfg.get('compile'))
        adapts = isinstance(self.model, Adaptor) and self.model.adapts
        bands, classes = len(cfg.model.data_preprocessor.mean), self.model.num_classes
        self.batch = _random_batch(settings, bands, classes, two_domains=adapts)
        size = settings.inference_size
        self.images = torch.randn(1, bands, size, size, device=self.device)
        self.iteration = 0
        self.release_step: ReleaseStep | DACSReleaseStep | None = None
        with quiet_log():  # MMEngine logs the options of every single parameter
            own = [step for step in (ReleaseStep, DACSReleaseStep) if stock and step.serves(self.model)]
            if own:
                self.release_step = own[0](self.model, cfg.optim_wrapper)
            else:
                self.optim_wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)

    def train_step(self) -> None:
        """Teacher update, losses, backward pass, optimizers."""
        self.model.train()
        alpha = min(1 - 1 / (self.iteration + 1), 0.999)
        self.iteration += 1
        if self.release_step is not None:
            self.release_step(self.batch, alpha)
            return
        if isinstance(self.model, Adaptor) and self.model.teacher is not None:
            self.model.update_teacher(alpha)
        self.model.train_step(self.batch, self.optim_wrapper)

    @torch.no_grad()
    def predict(self) -> None:
        """Logits at the image's size and their classes; the model does not train from here on."""
        self.model.eval()
        merge_lora(self.model)
        self.model.predict(self.images)

    @torch.no_grad()
    def logits(self) -> Tensor:
        self.model.eval()
        meta = dict(img_shape=self.images.shape[2:], ori_shape=self.images.shape[2:])
        # TensorFloat-32 would round the operands to 1e-3.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self.model.encode_decode(self.images, [meta])


def _random_batch(settings: BenchmarkSettings, bands: int, classes: int, two_domains: bool) -> dict:
    generator = torch.Generator().manual_seed(0)
    number, crop_size = settings.batch_size, settings.crop_size
    assert number is not None
    assert crop_size is not None
    size = (crop_size, crop_size)

    def domain() -> dict:
        images = [torch.randint(256, (bands, *size), generator=generator).byte() for _ in range(number)]
        labels = [torch.randint(classes, (1, *size), generator=generator) for _ in images]
        meta = dict(img_shape=size, ori_shape=size)
        samples = [SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=label)) for label in labels]
        return dict(inputs=images, data_samples=samples)

    return dict(source=domain(), target=domain()) if two_domains else domain()


def _seconds(run: Callable[[], None]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak_memory(settings: BenchmarkSettings, stock: bool, steps: int = 3) -> tuple[int, int]:
    """Bytes at the peak of some training steps, and those of them that were there before the model.

    On a GPU they are torch's, and none were there; else those resident in this process.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    before = resident('VmRSS') or peak_bytes()
    subject = _Subject(settings, stock)
    for _ in range(steps):
        subject.train_step()
    if subject.device != 'cpu':
        return torch.cuda.max_memory_allocated(), 0
    # `ru_maxrss` would be no less than what the parent process held when it started this one.
    return resident('VmHWM') or peak_bytes(), before


def benchmark(
    settings: BenchmarkSettings,
    stock: bool = False,
    against: Mapping[str, Any] | None = None,
    networks: Sequence[str] = (),
) -> dict[str, Measurement]:
    """Measure a model, and perhaps a second form of it; or several networks.

    All forms are timed alternately, so that what else the machine does meets all alike. Images and weights are
    random.

    Args:
        settings: What to measure.
        stock: The second form is built of MMSegmentation's modules with torch's plain optimizers, and an ST-DASegNet
            trains by :class:`ReleaseStep`, a DACS by :class:`DACSReleaseStep`.
        against: Dotted keys and values that make the second form out of the configuration.
        networks: Names of networks, for a configuration that is a dict: each is measured in place of its `network`.

    Returns:
        Measurements under ``mmrs`` and ``stock``, or ``changed`` and ``mmrs``: the first is compared with the second.
        Those of several networks under their names.

    Raises:
        ConfigError: Something in the configuration cannot work.
        AssertionError: With the same weights the two forms predict different logits.
    """
    if networks:
        settings = _on_network(settings, networks[0])  # batch and crop size are the task's
    settings = settings.resolved()
    require_number('iters', settings.iters, at_least=1)
    if sum(map(bool, (stock, against, networks))) > 1:
        raise ConfigError('the stock form, changed options and several networks are measured one at a time')
    forms = {name: _on_network(settings, name) for name in networks} or {'mmrs': settings}
    if stock:
        forms['stock'] = settings
    elif against:
        changed = replace(settings, cfg_options={**(settings.cfg_options or {}), **against})
        forms = {'changed': changed, **forms}
    results = {name: Measurement() for name in forms}
    for name, form in forms.items():
        with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as process:
            memory = process.submit(_peak_memory, form, name == 'stock').result()
            results[name].peak_memory, results[name].libraries = memory

    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads or threads)
    try:
        subjects = {name: _Subject(form, name == 'stock') for name, form in forms.items()}
        for i in track(range(-2, settings.iters), 'training'):
            for name, subject in subjects.items():
                seconds = _seconds(subject.train_step)
                if i >= 0:
                    results[name].training.append(seconds)
        if stock:
            subjects['stock'].model.load_state_dict(subjects['mmrs'].model.state_dict())
            check_agreement(subjects['mmrs'].logits(), subjects['stock'].logits())
        for i in track(range(-2, settings.iters), 'inference'):
            for name, subject in subjects.items():
                seconds = _seconds(subject.predict)
                if i >= 0:
                    results[name].inference.append(seconds)
    finally:
        torch.set_num_threads(threads)
    return results


def _on_network(settings: BenchmarkSettings, network: str) -> BenchmarkSettings:
    if not isinstance(settings.config, Mapping):
        raise ConfigError(f'--networks is for the file of a method with a --task, not for {settings.config}')
    return replace(settings, config={**settings.config, 'network': network})


def check_agreement(logits: Tensor, expected: Tensor) -> None:
    """Compare logits of the two forms of a model.

    Raises:
        AssertionError: They differ by more than ``TOLERANCE``, relative to the largest logit or 1.
    """
    difference = (logits - expected).abs().max().item()
    bound = TOLERANCE * max(1.0, expected.abs().max().item())
    if not difference <= bound:
        raise AssertionError(
            f"with the same weights, logits differ from the stock model's by {difference:.1e} > {bound:.1e}"
        )


def format_report(results: dict[str, Measurement]) -> str:
    """A table of the measurements; those of two forms with their ratios."""
    rows = [
        ('training step, median', 's', lambda m: statistics.median(m.training)),
        ('training step, fastest', 's', lambda m: min(m.training)),
        ('peak memory in training', 'MiB', lambda m: m.peak_memory / 2**20),
        ('without the libraries', 'MiB', lambda m: (m.peak_memory - m.libraries) / 2**20),
        ('inference, median', 'ms', lambda m: 1e3 * statistics.median(m.inference)),
        ('inference, fastest', 'ms', lambda m: 1e3 * min(m.inference)),
    ]
    width = max(10, *(len(name) + 2 for name in results))
    lines = [f'{"":30}' + ''.join(f'{name:>{width}}' for name in results) + ('     ratio' if len(results) == 2 else '')]
    for title, unit, value in rows:
        values = [value(measurement) for measurement in results.values()]
        line = f'{f"{title} ({unit})":30}' + ''.join(f'{v:{width}.{3 if unit == "s" else 1}f}' for v in values)
        lines.append(line + (f'{values[0] / values[1]:10.2f}' if len(results) == 2 else ''))
    return '\n'.join(lines)
