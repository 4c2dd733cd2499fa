from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch
import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.models import BaseSegmentor

from mmrs.apis.class_prior import STRENGTH, PriorOptions
from mmrs.apis.filling import configured_meta, fill_model
from mmrs.apis.preflight import check_loaders
from mmrs.apis.statistics import applies_scale, leaves, loaded_bands, steps_between
from mmrs.evaluation.calibration import Calibration, Scaling
from mmrs.geo.rasters import read_image
from mmrs.install import install
from mmrs.models.backbones.lora import merge_lora
from mmrs.models.checks import check_model
from mmrs.prediction.canvas import Blended
from mmrs.prediction.card import Card, card_beside
from mmrs.prediction.jobs import MapSettings
from mmrs.prediction.maker import MapMaker
from mmrs.prediction.mapping import MapReport, make_maps
from mmrs.prediction.maps import NODATA, labels_of
from mmrs.prediction.onnx_predictor import OnnxPredictor
from mmrs.prediction.predictors import FlipAverage, Predictor, TorchPredictor
from mmrs.prediction.scenes import SceneAdaptation, SceneEntropy, ScenePrior, SceneStatistics
from mmrs.prediction.sources import ArraySource, WindowSteps
from mmrs.prediction.stream import Task, stream
from mmrs.prediction.window_grid import WindowGrid
from mmrs.registry import MODELS
from mmrs.utils.config import load_config, remove_pretrained, require_keys
from mmrs.utils.config_types import check_types, explained_errors
from mmrs.utils.errors import CheckpointError, ConfigError, DataError, require_one_of, some
from mmrs.utils.process_group import init_cpu_group
from mmrs.utils.progress import quiet_log
from mmrs.version import __version__
from mmrs.weights import (
    Match,
    dataset_meta_of,
    load_matching,
    read_checkpoint,
    state_dict_of,
    trusting_checkpoints,
)

__all__ = ['Prediction', 'SegInferencer', 'init_model']

BACKENDS = ('torch', 'onnx')

#: Side of a window, in pixels, where the configuration does not say.
WINDOW = 512

# Seconds. A process waits until the slowest of the others is done, but not for processes that never come.
_PATIENCE = 7 * 24 * 3600.0
_JOINING = 300.0

# The parts of models that predict, as mmseg and this project name them.
PREDICTING = ('backbone.', 'neck.', 'decode_head.', 'segmentor.')


def init_model(
    config: str | Path | Config | Mapping[str, Any],
    checkpoint: str | Path | None = None,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    trust_checkpoint: bool = False,
) -> BaseSegmentor:
    """Build a model for prediction.

    Args:
        config: A configuration or its file; or a dict of a method's file and its axes, see :func:`load_config`.
        checkpoint: Weights to load; without them the model is as random as it was built.
        device: ``'cpu'``, ``'cuda:1'``, ...; by default the first GPU if there is one.
        cfg_options: Dotted keys and values that override the configuration.
        trust_checkpoint: Unpickle the checkpoint fully if need be, which can run any code.

    Returns:
        The model in evaluation mode, low-rank parts merged into its weights, with its configuration as ``cfg`` and
        classes and palette as ``dataset_meta``.

    Raises:
        ConfigError: Something in the configuration cannot work.
        CheckpointError: The checkpoint cannot be read or does not fit.
    """
    install()
    cfg = load_config(config, cfg_options)
    check_types(cfg)
    require_keys(cfg, 'a prediction', 'model')
    state: Any = None
    meta: Mapping[str, Any] = {}
    if checkpoint is not None:
        with trusting_checkpoints(trust_checkpoint):
            state = read_checkpoint(checkpoint)
        meta = dataset_meta_of(state, checkpoint)
    with explained_errors(cfg):
        fill_model(cfg, meta.get('classes'))
    remove_pretrained(cfg.model)
    with explained_errors(cfg):
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        check_model(model)
    if checkpoint is not None:
        _require_what_predicts(load_matching(model, state_dict_of(state, checkpoint), checkpoint), checkpoint)
    merge_lora(model)
    if not meta and cfg.get('test_dataloader'):
        with explained_errors(cfg):
            meta = configured_meta(next(leaves(cfg.test_dataloader.dataset)))
    model.cfg, model.dataset_meta = cfg, dict(meta)
    try:
        return model.to(device or get_device()).eval()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f'the model cannot be put on the device {device!r}: {error}') from error


@dataclass(frozen=True)
class Prediction:
    """What a model says of an image.

    Attributes:
        labels: ``(H, W)``, uint8: index of the class, see :func:`labels_of`; 255 where the image has no data.
        probabilities: ``(K, H, W)``, float32; 0 where the image has no data.
        classes: Names of the K classes.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]

    @property
    def confidence(self) -> np.ndarray:
        """``(H, W)``: the largest probability."""
        return self.probabilities.max(0)


class SegInferencer:
    """Predicts arrays, image files and rasters of any size, window by window.

    Windows overlap and are blended, so that no seams show. Their pixels go through the steps of the configuration's
    test pipeline that are neither loading nor packing.

    Args:
        config: A configuration or its file.
        checkpoint: Weights; for the backend ``onnx`` the file that `tools/deployment/export_onnx.py` wrote.
        device: ``'cpu'``, ``'cuda:1'``, ...; by default a GPU if there is one, under ``torchrun`` the process's own.
        backend: ``torch`` or ``onnx``.
        cfg_options: Dotted keys and values that override the configuration.
        window: Side of a window in pixels; by default the crop of the model's sliding test, else 512.
        overlap: Share of a window that it has in common with the next one, from 0 and below 1.
        blend: Weights of overlapping windows: ``cosine``, ``gaussian`` or ``flat``.
        batch_size: Windows that are predicted together.
        bands: Numbers of the bands of a file to read, counted from 1; by default those of the test pipeline.
        tta: Average over four flips of each window.
        amp: Compute in bfloat16 where torch finds that safe; for the backend ``torch`` only.
        trust_checkpoint: Unpickle the checkpoint fully if need be, which can run any code.
        class_prior: Shares of the classes to predict with, see :class:`PriorOptions`; by default those that the model
            has learned.
        prior_strength: Likewise.
        source_shares: Likewise.
        calibrated: Calibration of this very checkpoint, see :func:`mmrs.apis.calibration.calibrate`. A class prior is
            that of the calibrated logits.
        adapt: How the model follows each image or raster before it predicts it, without labels: ``bn``, see
            :class:`SceneStatistics`; ``tent``, see :class:`SceneEntropy`; or ``prior``, see :class:`ScenePrior`, whose
            `prior_strength` and `source_shares` those above are then.
        adapt_weight: Of the scene's statistics in ``bn`` and ``tent``, 0 to 1; by default 0.5.
        continual: In :meth:`predict_rasters`, each raster goes on where the one before it ended, in the order of the
            rasters, not from the checkpoint.

    Raises:
        ConfigError: Something in the configuration or the options cannot work, or the calibration is another model's.
        CheckpointError: The checkpoint cannot be read or does not fit.
        DataError: The ONNX file, a table of shares or a calibration cannot be used.

    Example:
        >>> inferencer = SegInferencer('configs/st_dasegnet/potsdam2vaihingen.py', 'iter_40000.pth')
        >>> inferencer.predict(image).labels  # (H, W, C) to (H, W)
        >>> inferencer.predict_rasters(['orthophotos'], 'maps', extra=['confidence'], resume=True)
    """

    def __init__(
        self,
        config: str | Path | Config,
        checkpoint: str | Path,
        *,
        device: str | None = None,
        backend: str = 'torch',
        cfg_options: Mapping[str, Any] | None = None,
        window: int | None = None,
        overlap: float = 0.25,
        blend: str = 'cosine',
        batch_size: int = 4,
        bands: Sequence[int] | None = None,
        tta: bool = False,
        amp: bool = False,
        trust_checkpoint: bool = False,
        class_prior: str | os.PathLike | None = None,
        prior_strength: float | None = None,
        source_shares: str | os.PathLike | None = None,
        calibrated: str | os.PathLike | None = None,
        adapt: str | None = None,
        adapt_weight: float | None = None,
        continual: bool = False,
    ) -> None:
        install()
        scenes = _SceneOptions(adapt, adapt_weight, continual, backend, class_prior, prior_strength, source_shares)
        options = PriorOptions() if adapt == 'prior' else PriorOptions(class_prior, prior_strength, source_shares)
        calibration = None if calibrated is None else Calibration.read(calibrated)
        if calibration is not None and adapt in ('bn', 'tent'):
            raise ConfigError(
                f'calibrated is of the network as it is, but adapt={adapt} makes another one of it: leave one'
            )
        cfg = load_config(config, cfg_options)
        require_one_of('backend', backend, BACKENDS)
        init_default_scope(cfg.get('default_scope', 'mmrs'))  # the steps of the pipeline need it too
        check_loaders(cfg)
        _join_processes()
        device = device or _own_device()
        self.predictor: Predictor
        base: TorchPredictor | OnnxPredictor
        trained: str | None  # hash of the checkpoint
        if backend == 'onnx':
            if amp:
                raise ConfigError('amp is for the backend torch: an ONNX file has its precision')
            base, filled = OnnxPredictor(checkpoint, device), copy.deepcopy(cfg)
            if options:
                with explained_errors(filled):
                    fill_model(filled, base.classes)
            trained, record = base.metadata.get('weights'), base.metadata.get('class_prior')
        else:
            model = init_model(cfg, checkpoint, device, trust_checkpoint=trust_checkpoint)
            base, filled = TorchPredictor(model, amp), model.cfg
            trained, record = pooch.file_hash(str(checkpoint)), None
        self.card = _card_of(checkpoint, trained)
        scaling = Scaling((1.0,) * len(base.classes), (0.0,) * len(base.classes))
        if calibration is not None:
            calibration.require_model(base.classes, trained, checkpoint)
            scaling = calibration.scaling
        offsets: Sequence[float] = scaling.offset
        if options:
            prior = options.resolve(filled, base.classes)
            record = prior.record()
            offsets = [own + shift for own, shift in zip(offsets, prior.offsets)]  # of calibrated logits
        if options or calibration is not None:
            base.adjust_logits(scaling.scale, offsets)
        self.predictor = base
        self._scenes = scenes.build(self.predictor)
        if tta:
            self.predictor = FlipAverage(self.predictor)
        dataset = next(leaves(cfg.test_dataloader.dataset)) if cfg.get('test_dataloader') else {}
        if bands is None and dataset:
            bands = loaded_bands(dataset)
        self.steps = steps_between(dataset)
        test_cfg = cfg.model.get('test_cfg') or {}
        crop = test_cfg.get('crop_size', (WINDOW,))[0] if test_cfg.get('mode') == 'slide' else WINDOW
        self.settings: dict[str, Any] = dict(
            window=crop if window is None else window,
            overlap=overlap,
            blend=blend,
            batch_size=batch_size,
            bands=None if bands is None else tuple(bands),
            apply_scale=applies_scale(dataset),
        )
        self.gsd: float | None = dataset.get('gsd')
        settings = json.dumps([cfg.model.to_dict(), self.steps, tta, amp, backend], sort_keys=True, default=str)
        self._identity: dict[str, Any] = dict(
            mmrs=__version__,
            config=Path(cfg.filename).name if cfg.filename else '',
            checkpoint=Path(checkpoint).name,
            weights=pooch.file_hash(str(checkpoint)) if backend == 'onnx' else trained,
            model=hashlib.sha256(settings.encode()).hexdigest(),
        )
        #: What :meth:`ClassPrior.record` says of a class prior that is not the one the model has learned.
        self.class_prior = record
        #: What :meth:`Calibration.record` says of a calibration.
        self.calibration = None if calibration is None else calibration.record()
        adapted = None if self._scenes is None else self._scenes.record()
        identity = dict(class_prior=record, calibration=self.calibration, adapt=adapted)
        self._identity |= {key: value for key, value in identity.items() if value is not None}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the class indices."""
        return self.predictor.classes

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """Colour (RGB) of each class."""
        return self.predictor.palette

    def predict(self, image: np.ndarray | str | os.PathLike, valid: np.ndarray | None = None) -> Prediction:
        """Predict an image that fits into memory.

        Args:
            image: ``(H, W, C)``, with the bands of the training images in their order and at their resolution; or a
                file with the latter.
            valid: ``(H, W)``, bool: pixels with data. By default those of finite values, and of a file those that it
                does not declare to be nodata.

        Raises:
            DataError: The file cannot be read, or the image is no such array or has other bands than the model.
        """
        if not isinstance(image, np.ndarray):
            image, known = read_image(
                os.fspath(image), self.settings['bands'], apply_scale=self.settings['apply_scale']
            )
            valid = known if valid is None else valid if known is None else valid & known
        if image.ndim != 3 or 0 in image.shape or (valid is not None and valid.shape != image.shape[:2]):
            raise DataError(
                f'the image is an array of shape {image.shape}'
                + (f' with valid pixels of shape {valid.shape}' if valid is not None else '')
                + '; (H, W, C) was expected, and (H, W) for the valid pixels'
            )
        window, settings = self.settings['window'], {k: self.settings[k] for k in ('overlap', 'blend', 'batch_size')}
        shape = (image.shape[0], image.shape[1])
        grid = WindowGrid(shape, (window, window), classes=len(self.classes), **settings)
        output = _InMemory(shape, len(self.classes), self.predictor.threshold)
        source = ArraySource(image, valid, WindowSteps(self.steps))
        runs = [run for lane in range(len(grid.lanes)) for run in grid.runs(lane)]
        with nullcontext() if self._scenes is None else self._scenes.of(source, grid):
            stream((Task(source, grid, run, output) for run in runs), self.predictor)
        return Prediction(output.labels, output.probabilities, self.classes)

    def predict_rasters(
        self,
        inputs: Sequence[str | os.PathLike],
        out: str | os.PathLike,
        *,
        gsd: float | None = None,
        bbox: tuple[float, float, float, float] | None = None,
        bbox_crs: str | None = None,
        aoi: str | os.PathLike | None = None,
        aoi_layer: str | None = None,
        extra: Sequence[str] = (),
        dtype: str = 'uint8',
        quicklook: bool = False,
        vector: str | os.PathLike | None = None,
        min_area: float = 0.0,
        simplify: float = 0.0,
        vrt: str | os.PathLike | None = None,
        areas: str | os.PathLike | None = None,
        project: str | os.PathLike | None = None,
        resume: bool = False,
        overwrite: bool = False,
        dry_run: bool = False,
        progress: bool = True,
    ) -> MapReport:
        """Turn rasters into maps: Cloud-Optimised GeoTIFFs of class indices (uint8, 255 where there is no data).

        A map has the CRS, transform and size of its raster. Rasters are never read whole; what is done is kept beside
        the map until that is complete, so that a stopped run can be resumed. Under ``torchrun`` the processes share the
        work, each calling this with the same arguments.

        Args:
            inputs: Rasters that GDAL can read, and folders in which and below which all rasters count.
            out: Folder of the maps, ``NAME.tif`` each; for a single raster also the map itself.
            gsd: Ground sampling distance in metres at which the model sees the rasters; by default the test data set's,
                else their own.
            bbox: Smallest x and y, largest x and y: predict, and write, there only.
            bbox_crs: CRS of `bbox`, such as ``EPSG:4326``; by default the raster's.
            aoi: Vector file: predict, and write, where its polygons are.
            aoi_layer: Its layer, where it has several.
            extra: Rasters beside the map, ``NAME_EXTRA.tif``, of ``probabilities``, ``confidence`` and ``entropy``.
            dtype: Their type: ``uint8`` (0 to 254 for 0 to 1) or ``float16``.
            quicklook: Draw image and map into ``NAME_quicklook.png``.
            vector: GeoPackage for the polygons of all maps.
            min_area: Square metres that a polygon has at least.
            simplify: Metres that the outline of a polygon may be off.
            vrt: Virtual raster for the mosaic of all maps.
            areas: Table (CSV) of the area of each class in each map, see :func:`write_areas`.
            project: Project for QGIS (``.qgs``) with the rasters, their maps and `vector`.
            resume: Keep finished maps and continue half-done ones.
            overwrite: Replace maps that exist.
            dry_run: Only say what would be done.
            progress: Show a progress bar.

        Returns:
            What became of the rasters; one that cannot be read does not stop the others.

        Raises:
            ConfigError: The options make no sense, or the area meets no raster.
            OutputError: Something exists already, or cannot be written.
        """
        settings = MapSettings(
            **self.settings,
            gsd=self.gsd if gsd is None else gsd,
            bbox=bbox,
            bbox_crs=bbox_crs,
            aoi=None if aoi is None else os.fspath(aoi),
            aoi_layer=aoi_layer,
            extra=tuple(extra),
            dtype=dtype,
        )
        maker = MapMaker(
            self.predictor, settings, self.steps, self._identity, quicklook, resume, overwrite, self._scenes, self.card
        )
        return make_maps(maker, inputs, out, vector, min_area, simplify, vrt, areas, project, dry_run, progress)


@dataclass(frozen=True)
class _SceneOptions:
    """How the model shall follow each scene; arguments of :class:`SegInferencer`."""

    adapt: str | None
    weight: float | None
    continual: bool
    backend: str
    class_prior: Any
    strength: float | None
    source_shares: Any

    def __post_init__(self) -> None:
        require_one_of('adapt', self.adapt, (None, 'bn', 'prior', 'tent'))
        if self.weight is not None and self.adapt not in ('bn', 'tent'):
            raise ConfigError('adapt_weight is for adapt=bn and adapt=tent (--adapt bn)')
        if self.continual and self.adapt is None:
            raise ConfigError('continual is for adapt (--adapt bn): without it, rasters do not change the model')
        if self.adapt is not None and self.backend != 'torch':
            raise ConfigError('adapt is for the backend torch: an ONNX file has its weights')
        if self.adapt == 'prior' and self.class_prior is not None:
            raise ConfigError('class_prior gives the shares of the classes that adapt=prior would estimate: leave one')

    def build(self, predictor: Any) -> SceneAdaptation | None:
        if self.adapt in ('bn', 'tent'):
            kind = SceneStatistics if self.adapt == 'bn' else SceneEntropy
            return kind(predictor, 0.5 if self.weight is None else self.weight, self.continual)
        if self.adapt == 'prior':
            strength = STRENGTH if self.strength is None else self.strength
            options = PriorOptions('uniform', strength, self.source_shares)
            with quiet_log():  # of the correction to equal shares, which is not made
                trained = options.resolve(predictor.model.cfg, predictor.classes).trained
            return ScenePrior(predictor, trained, strength, self.continual)
        return None


class _InMemory:
    """Parts of an image in memory; an output of `stream`."""

    failed: bool = False

    def __init__(self, shape: tuple[int, int], classes: int, threshold: float | None) -> None:
        self.threshold = threshold
        self.labels = np.full(shape, NODATA, np.uint8)
        self.probabilities = np.zeros((classes, *shape), np.float32)

    def write(self, blended: Blended) -> None:
        (x0, y0, x1, y1), probabilities, shown = blended
        self.probabilities[:, y0:y1, x0:x1] = probabilities * shown
        labels = labels_of(torch.from_numpy(probabilities), self.threshold).numpy()
        self.labels[y0:y1, x0:x1] = np.where(shown, labels, NODATA)

    def fail(self, error: Exception) -> None:
        raise error


def _require_what_predicts(match: Match, checkpoint: str | Path) -> None:
    """Raise CheckpointError where random weights would predict, or some not; a teacher's or discriminator's do not."""
    random = [name for name in (*match.missing, *match.misshapen) if name.startswith(PREDICTING)]
    if random:
        raise CheckpointError(
            f'{checkpoint} does not fit the model: {len(random)} weights that predict are not in it, or have another '
            f'shape ({some(random, 3)}). Is it a checkpoint of this configuration?'
        )


def _card_of(checkpoint: str | Path, weights: str | None) -> Card | None:
    """The card beside a checkpoint, if there is one and it is of these weights."""
    path = card_beside(checkpoint)
    if not path.is_file():
        return None
    card = Card.read(path)
    if card.weights != weights:
        print_log(f'{path} is the card of other weights: it is not used', 'current', logging.WARNING)
        return None
    return card


def _join_processes() -> None:
    """Join the group of processes that ``torchrun`` has started, if it has."""
    if int(os.environ.get('WORLD_SIZE', 1)) <= 1 or torch.distributed.is_initialized():
        return
    absent = [name for name in ('RANK', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT') if name not in os.environ]
    if absent:
        raise ConfigError(
            f'WORLD_SIZE is {os.environ["WORLD_SIZE"]}, but {", ".join(absent)} is not set: start the processes with '
            'torchrun, or unset WORLD_SIZE'
        )
    init_cpu_group(_PATIENCE, join_timeout=_JOINING)  # it is for messages; no tensor of the model is sent


def _own_device() -> str | None:
    """The process's share of the GPUs, where there are several processes."""
    rank, number = os.environ.get('LOCAL_RANK'), torch.cuda.device_count()
    return f'cuda:{int(rank) % number}' if rank is not None and number else None
