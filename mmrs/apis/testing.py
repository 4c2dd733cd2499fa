from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import MMLogger, print_log
from prettytable import PrettyTable

from mmrs.apis.class_prior import ClassPrior, PriorOptions
from mmrs.apis.filling import fill_model
from mmrs.apis.preflight import check_loaders
from mmrs.apis.training import build_runner, default_work_dir
from mmrs.evaluation import IoUMetric
from mmrs.evaluation.submission import SubmissionMetric, check_dataset, submission_format
from mmrs.install import install
from mmrs.utils.config import load_config, require_keys
from mmrs.utils.config_checks import check_keys
from mmrs.utils.config_types import explained_errors
from mmrs.utils.errors import ConfigError, OutputError
from mmrs.utils.files import new_directory, write_json
from mmrs.visualization import LabelMapHook, OverlayHook, plot_confusion_matrix
from mmrs.weights import trusting_checkpoints

__all__ = ['evaluate', 'tta_pipeline', 'without_labels']

#: Factors on the size of an image under `--tta`, where the configuration does not say.
TTA_SCALES = (0.75, 1.0, 1.25)


def tta_pipeline(pipeline: list[dict[str, Any]], scales: tuple[float, ...] = TTA_SCALES) -> list[dict[str, Any]]:
    """Turn a test pipeline into one with every combination of some sizes and three flips (none, either axis).

    Args:
        pipeline: Configurations of transforms; the last one packs the inputs.
        scales: Factors on the size.

    Returns:
        The same loading, then ``TestTimeAug``. Labels are loaded last, as they must not be resized or flipped.
    """
    labels = [step for step in pipeline if 'Annotation' in str(step['type'])]
    others = [step for step in pipeline[:-1] if step not in labels]
    resize = [dict(type='Resize', scale_factor=scale, keep_ratio=True) for scale in scales]
    flip = [dict(type='RandomFlip', prob=0.0)]
    flip += [dict(type='RandomFlip', prob=1.0, direction=axis) for axis in ('horizontal', 'vertical')]
    rest = [[step] for step in [*labels, pipeline[-1]]]
    return [*others, dict(type='TestTimeAug', transforms=[resize, flip, *rest])]


def without_labels(pipeline: list[Any]) -> list[Any]:
    """Take the loading of labels out of a test pipeline, out of the branches of a ``TestTimeAug`` too."""
    steps: list[Any] = []
    for step in pipeline:
        if isinstance(step, (list, tuple)):
            branch = without_labels(list(step))
            steps += [branch] if branch else []
        elif 'transforms' in step:
            steps.append({**step, 'transforms': without_labels(step['transforms'])})
        elif 'Annotation' not in str(step['type']):
            steps.append(step)
    return steps


def evaluate(
    config: str | Path | Config,
    checkpoint: str | Path,
    work_dir: str | Path | None = None,
    out: str | Path | None = None,
    show_dir: str | Path | None = None,
    show_interval: int = 1,
    tta: bool = False,
    metrics: str | Path | None = None,
    format_only: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = 'none',
    overwrite: bool = False,
    trust_checkpoint: bool = False,
    class_prior: str | Path | None = None,
    prior_strength: float | None = None,
    source_shares: str | Path | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint on the test set of a configuration.

    Args:
        config: A configuration or its file.
        checkpoint: Weights to load.
        work_dir: Folder for the log and the results, which go to a subfolder named after the time.
        out: Folder for label maps, see :class:`LabelMapHook`.
        show_dir: Folder for pictures, see :class:`OverlayHook`.
        show_interval: A picture for every n-th image only.
        tta: Test-time augmentation: the configuration's ``tta_pipeline``, else :func:`tta_pipeline`.
        metrics: File for the scores, instead of ``metrics.json`` in the subfolder.
        format_only: Score nothing and read no labels, but write a submission for the data set's test server to `out`,
            see :class:`SubmissionMetric`. Its images are those of the configuration's ``submission_dataloader``, else
            of its ``test_dataloader``.
        cfg_options: Dotted keys and values that override the configuration.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        overwrite: Write into folders and over a file that exist already.
        trust_checkpoint: Unpickle the checkpoint fully if need be, which can run any code.
        class_prior: Shares of the classes to predict with, see :class:`PriorOptions`; by default those that the model
            has learned.
        prior_strength: Likewise.
        source_shares: Likewise.

    Returns:
        What the evaluators returned, and under ``classes`` and ``confusion_matrix`` the details, in the first process.

    Raises:
        ConfigError: Something in the configuration or the options cannot work.
        CheckpointError: The checkpoint cannot be read or does not fit.
        DataError: The test set or the submission is not what the test server expects.
        OutputError: An output exists already.
    """
    install()
    options = PriorOptions(class_prior, prior_strength, source_shares)
    cfg = load_config(config, cfg_options)
    check_keys(cfg)
    cfg.launcher = launcher
    cfg.work_dir = str(work_dir or cfg.get('work_dir') or default_work_dir(cfg))
    if format_only:
        if out is None or metrics is not None:
            raise ConfigError('--format-only needs --out DIR for the submission, and has no scores for --metrics')
        _use_submission(cfg, out)
    require_keys(cfg, 'a test', 'model', 'test_dataloader', 'test_cfg', 'test_evaluator')
    if metrics is not None and Path(metrics).exists() and not overwrite:
        raise OutputError(f'--metrics {metrics} exists already; choose another name, or pass --overwrite')
    check_loaders(cfg, tta)
    with explained_errors(cfg):
        fill_model(cfg)
    prior = _PriorHook(options, copy.deepcopy(cfg)) if options else None
    cfg.load_from, cfg.resume = str(checkpoint), False
    # A runner without them is one for tests.
    unused = ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr')
    for key in (*unused, 'val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg[key] = None

    hooks: list[dict[str, Any]] = []
    if out is not None:
        new_directory(out, overwrite)
        hooks += [] if format_only else [dict(type=LabelMapHook.__name__, out_dir=str(out))]
    if show_dir is not None:
        pictures = new_directory(show_dir, overwrite)
        hooks.append(dict(type=OverlayHook.__name__, out_dir=str(pictures), interval=show_interval))
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), *hooks]
    if tta:
        _use_tta(cfg)
    if format_only:
        dataset = _innermost(cfg.test_dataloader.dataset)
        dataset.pipeline = without_labels(dataset.pipeline)

    runner = build_runner(cfg)
    if prior is not None:
        runner.register_hook(prior, 'LOWEST')
    with explained_errors(cfg), trusting_checkpoints(trust_checkpoint):
        if format_only:
            check_dataset(runner.test_loop.dataloader.dataset)
        results = dict(runner.test())
    if runner.rank != 0 or format_only:
        return results
    target = Path(metrics) if metrics is not None else Path(runner.log_dir) / 'metrics.json'
    for metric in runner.test_evaluator.metrics:
        if isinstance(metric, IoUMetric) and metric.matrix is not None:
            results.update(_details(metric, Path(runner.log_dir)))
    about = dict(config=cfg.filename, checkpoint=str(checkpoint), tta=tta, images=len(runner.test_dataloader.dataset))
    if prior is not None and prior.prior is not None:
        about['class_prior'] = prior.prior.record()
    write_json({**about, **results}, target, overwrite)
    print_log(f'scores: {target}', MMLogger.get_current_instance())
    for what, folder in (('label maps', out), ('pictures', show_dir)):
        if folder is not None:
            print_log(f'{what}: {folder}', MMLogger.get_current_instance())
    return results


class _PriorHook(Hook):
    """Changes the class prior of the model when its weights are there.

    Args:
        options: How.
        config: The model's, filled, with the training data.
    """

    def __init__(self, options: PriorOptions, config: Config) -> None:
        self.options, self.config = options, config
        self.prior: ClassPrior | None = None

    def before_test_epoch(self, runner: Any) -> None:
        # By now classes are in the order of the checkpoint's, and a moving average of the weights is in its place.
        self.prior = self.options.apply(runner.model, self.config, runner.test_dataloader.dataset.metainfo['classes'])


def _use_submission(cfg: Config, out: str | Path) -> None:
    cfg.test_dataloader = cfg.get('submission_dataloader') or cfg.get('test_dataloader')
    if cfg.test_dataloader is None:
        return  # which is an error of every test
    dataset = _innermost(cfg.test_dataloader.dataset)
    submission_format(dataset.type)  # before anything is built
    dataset.get('data_prefix', {}).pop('seg_map_path', None)
    cfg.test_evaluator = dict(type=SubmissionMetric.__name__, dataset_type=dataset.type, out_dir=str(out))


def _innermost(dataset: ConfigDict) -> ConfigDict:
    while 'dataset' in dataset:  # wrappers
        dataset = dataset.dataset
    return dataset


def _use_tta(cfg: Config) -> None:
    dataset = _innermost(cfg.test_dataloader.dataset)
    dataset.pipeline = cfg.get('tta_pipeline') or tta_pipeline(dataset.pipeline)
    cfg.model = ConfigDict(**(cfg.get('tta_model') or dict(type='SegTTAModel')), module=cfg.model)


def _details(metric: IoUMetric, folder: Path) -> dict[str, Any]:
    """Log and draw the confusion matrix; return it with the scores of each class."""
    matrix, classes = metric.matrix, metric.dataset_meta['classes']
    assert matrix is not None
    table = PrettyTable(['labelled \\ predicted, %', *classes, 'pixels'], align='r')
    for name, row in zip(classes, matrix):
        total = row.sum()
        table.add_row([name, *(f'{100 * n / total:.1f}' if total else '-' for n in row), f'{total:,}'])
    print_log(f'confusion matrix:\n{table}', MMLogger.get_current_instance())
    plot_confusion_matrix(matrix, classes, folder / 'confusion_matrix.png')
    by_class = metric.class_scores()
    pixels = np.asarray(matrix).sum(1)
    details = {
        name: {**{key: float(values[i]) for key, values in by_class.items()}, 'pixels': int(pixels[i])}
        for i, name in enumerate(classes)
    }
    return dict(classes=details, confusion_matrix=matrix.tolist())
