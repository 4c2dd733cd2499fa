from __future__ import annotations

import copy
import gc
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmrs.apis.class_shares import label_shares
from mmrs.apis.filling import fill_model
from mmrs.apis.labelled_images import check_labelled
from mmrs.apis.preflight import check_config
from mmrs.apis.reference import (
    ReferenceTraining,
    check_reference,
    check_transfer,
    reference_config,
    takes_reference,
)
from mmrs.engine.hooks import PreflightHook
from mmrs.engine.runner import AdaptationRunner
from mmrs.engine.saved_runs import newest_checkpoint, own_checkpoints, remove_unfinished
from mmrs.install import install
from mmrs.registry import MODELS, RUNNERS
from mmrs.utils.config import enable_amp, load_config, look_up, pretrained_files, remove_pretrained, require_keys
from mmrs.utils.config_checks import check_keys
from mmrs.utils.config_types import check_types, explained_errors
from mmrs.utils.errors import CheckpointError, ConfigError, OutputError
from mmrs.utils.process_group import launcher_environment
from mmrs.weights import download, trusting_checkpoints

__all__ = ['build_runner', 'default_work_dir', 'train']


def build_runner(config: Config) -> Runner:
    """Build the runner that a configuration names, :class:`AdaptationRunner` unless it says otherwise.

    Raises:
        ConfigError: A `type` in the configuration is unknown.
    """
    config.setdefault('runner_type', AdaptationRunner.__name__)
    check_types(config)
    with explained_errors(config):
        return RUNNERS.build(config)


def default_work_dir(config: Config) -> str:
    """``work_dirs/NAME-OF-THE-CONFIG``, as in the other OpenMMLab tools."""
    return str(Path('work_dirs') / Path(config.filename or 'run').stem)


def _find_resumable(resume: str | bool, work_dir: Path) -> str | None:
    """The checkpoint to resume from; None if there is none yet and the automatic choice was asked for."""
    folder = work_dir if resume in (True, 'auto') else Path(str(resume)).expanduser()
    if not (folder is work_dir or folder.is_dir()):
        return str(resume)
    newest = newest_checkpoint(folder)
    if newest is not None:
        return str(newest)
    if folder is not work_dir:
        raise CheckpointError(f'--resume {resume}: that folder has no checkpoint iter_N.pth')
    print_log(f'--resume: no checkpoint in {work_dir} yet; training starts from the beginning', logger='current')
    return None


def train(
    config: str | Path | Config,
    work_dir: str | Path | None = None,
    resume: str | bool | None = None,
    amp: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = 'none',
    pretrained: bool = True,
    overwrite: bool = False,
    reference: str | Path | None = None,
    reference_options: Mapping[str, Any] | None = None,
    trust_checkpoint: bool = False,
    preflight: bool = True,
    new_schedule: bool = False,
    task: str | None = None,
    network: str | None = None,
    schedule: str | None = None,
) -> Runner:
    """Train a model.

    A model that starts from a trained reference takes two steps: without `reference`, the configuration's
    `reference_config` is trained first, in the folder ``reference`` of the work dir. What is there of it is used: a
    finished one as it is, an interrupted one goes on.

    Args:
        config: A configuration or its file.
        work_dir: Folder for logs and checkpoints; else the configuration's, else ``work_dirs/NAME``.
        resume: A checkpoint to continue from, or the folder of a run for the newest whole one in it; ``'auto'`` stands
            for `work_dir`, where there may be none yet.
        amp: Automatic mixed precision: float16 on a GPU, bfloat16 on a CPU.
        cfg_options: Dotted keys and values that override the configuration.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        pretrained: Off: ignore the pretrained weights that the configuration names.
        overwrite: Start anew in a folder that holds a run already.
        reference: Checkpoint of the reference, instead of training one. A resumed run needs none.
        reference_options: Dotted keys and values that override the reference's configuration.
        trust_checkpoint: Load local checkpoints that hold other objects than weights and logs, too, which can run any
            code.
        preflight: Refuse what the configuration says and a training would not do, and try one step of everything
            before the first iteration, see :class:`PreflightHook`.
        new_schedule: A resumed run goes on with the configuration's optimizer settings and schedules, as if it had had
            them from the beginning, where they are not the checkpoint's. Otherwise such a run is refused.
        task: With a method's file as `config`: the task, by its name in `configs/_base_` or its file.
        network: Likewise.
        schedule: Likewise; the network's default where there is none.

    Returns:
        The runner, after training.

    Raises:
        ConfigError: Something in the configuration or the options cannot work.
        CheckpointError: Weights cannot be had or do not fit.
        OutputError: `work_dir` holds a run already, or a reference of other settings.
    """
    install()
    cfg = load_config(config, cfg_options, task=task, network=network, schedule=schedule)
    cfg.launcher = launcher
    cfg.work_dir = str(work_dir or cfg.get('work_dir') or default_work_dir(cfg))
    if new_schedule and not (resume or cfg.get('resume')):
        raise ConfigError('--new-schedule is for a run that goes on: pass --resume too, or leave it out')
    checkpoint = _find_resumable(resume, Path(cfg.work_dir)) if resume else None
    if checkpoint is not None:
        cfg.resume, cfg.load_from = True, checkpoint
    elif not overwrite and own_checkpoints(cfg.work_dir) and not cfg.get('resume'):
        raise OutputError(
            f'{cfg.work_dir} holds a training run already. Continue it with --resume, choose another --work-dir, '
            'or write over it with --overwrite'
        )
    with trusting_checkpoints(trust_checkpoint):
        _prepare(cfg, amp, pretrained, preflight)
        if takes_reference(cfg):
            remove_pretrained(cfg.model)  # all weights are the reference's
            resumed = cfg.get('resume') and (cfg.get('load_from') or newest_checkpoint(cfg.work_dir))
            if not resumed:  # a checkpoint of the run holds the reference
                given = cfg.model.get('reference') if reference is None else reference
                cfg.model.reference = _find_reference(
                    cfg, given, reference_options, amp, pretrained, overwrite, preflight
                )
        elif reference is not None or reference_options:
            raise ConfigError(
                f'config {cfg.filename}: its model, {cfg.model.type}, starts from no reference; leave --reference and '
                '--reference-options out, or take a configuration of configs/feature_regression'
            )
        return _run(cfg, preflight, lambda: _remove_earlier(cfg) if overwrite else None, new_schedule)


def _prepare(cfg: Config, amp: bool, pretrained: bool, preflight: bool) -> None:
    check_keys(cfg)
    require_keys(cfg, 'training', 'model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    if cfg.get('activation_checkpointing'):
        raise ConfigError(
            f"config {cfg.filename}: MMEngine's activation_checkpointing would update running statistics twice and is "
            'not used; set model.backbone.with_cp to True instead'
        )
    for role in ('val', 'test'):
        if cfg.get(f'{role}_dataloader') is None:  # of a target without labels
            cfg[f'{role}_cfg'] = cfg[f'{role}_evaluator'] = None
    if amp:
        enable_amp(cfg)
    if not pretrained:
        remove_pretrained(cfg.model)
    check_types(cfg)
    if preflight:
        check_config(cfg)
    with explained_errors(cfg):
        fill_model(cfg)
        check_labelled(cfg)
        if (cfg.get('val_cfg') or {}).get('expected') == 'auto':  # of a validation without labels
            learns = getattr(look_up(MODELS, cfg.model.get('type')), 'learns_from_labels', True)
            cfg.val_cfg.expected = list(label_shares(cfg).values()) if learns else None


def _remove_earlier(cfg: Config) -> None:
    """Remove the checkpoints of an earlier run: a later one than this run has yet would be resumed."""
    if not cfg.get('resume'):
        for path in [*own_checkpoints(cfg.work_dir), *Path(cfg.work_dir).glob('best_*.pth')]:
            path.unlink()


def _require_work_dir(folder: Path) -> None:
    problem = 'there is no permission'
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = error.strerror or str(error)
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise OutputError(f'work dir {folder} cannot be written: {problem}. Choose another --work-dir')


def _run(cfg: Config, preflight: bool, begin: Callable[[], None] | None = None, new_schedule: bool = False) -> Runner:
    _require_work_dir(Path(cfg.work_dir))
    runner = build_runner(cfg)
    if isinstance(runner, AdaptationRunner):
        runner.new_schedule = new_schedule
        if preflight:
            runner.register_hook(PreflightHook())
    elif new_schedule:
        raise ConfigError(
            f'config {cfg.filename}: --new-schedule is for runner_type=AdaptationRunner, but it is {cfg.runner_type}, '
            'which would go on with the schedules of the checkpoint'
        )
    # By now no process looks at the folder any more to decide what there is to do.
    if runner.rank == 0:
        remove_unfinished(cfg.work_dir)
        if begin is not None:
            begin()
    if not cfg.get('resume'):
        # Before the data sets are read, so that a machine without network is told in the first second.
        for key, name in pretrained_files(cfg.model, 'model').items():
            if '://' in name:
                download(name, key)
            elif not Path(name).expanduser().is_file():
                raise CheckpointError(f'{key} is {name}, which does not exist; correct it, or pass --no-pretrained')
    with explained_errors(cfg):
        runner.train()
    return runner


def _try_without_weights(cfg: Config) -> None:
    """Do the preflight of a training before the weights that it starts from exist, in a folder that goes afterwards."""
    trial = copy.deepcopy(cfg)
    trial.work_dir = str(Path(cfg.work_dir) / '.preflight')  # a name that nobody's own folder has
    trial.model.reference = trial.model.feature_cache = None  # maps of these weights are of no use
    try:
        runner = build_runner(trial)
        if isinstance(runner, AdaptationRunner):
            runner.register_hook(PreflightHook())
            runner.prepare()
            runner.call_hook('before_run')
            runner.call_hook('before_train')
        del runner
        gc.collect()  # the model, and its worker processes
    finally:
        if get_rank() == 0:
            shutil.rmtree(trial.work_dir, ignore_errors=True)


def _find_reference(
    cfg: Config,
    given: str | Path | None,
    options: Mapping[str, Any] | None,
    amp: bool,
    pretrained: bool,
    overwrite: bool,
    preflight: bool,
) -> str:
    """The checkpoint of the reference, which is trained unless it is given or there already."""
    if given is not None:
        if options:
            raise ConfigError('--reference-options are for a reference to be trained; leave them out, or --reference')
        check_reference(given)
        return str(given)
    own = reference_config(cfg, options)
    _prepare(own, amp, pretrained, preflight)
    processes = 1 if cfg.launcher == 'none' else int(launcher_environment(cfg.launcher)['WORLD_SIZE'])
    training = ReferenceTraining(own, processes)
    changes = training.changes()
    if changes and not overwrite:
        training.refuse(changes)
    if training.checkpoint.is_file() and not changes:
        print_log(f'step 1 of 2: the reference is there already, {training.checkpoint}', logger='current')
    else:
        with explained_errors(cfg):
            check_transfer(cfg, own)
            if preflight:
                _try_without_weights(cfg)
        print_log(f'step 1 of 2: the reference, {own.filename}, is trained in {training.folder}', logger='current')
        if not changes and (newest := newest_checkpoint(training.folder)) is not None:
            own.resume, own.load_from = True, str(newest)
        _run(own, preflight, training.begin)
        gc.collect()  # its worker processes and the memory on the GPU
    print_log(f'step 2 of 2: the transfer is trained in {cfg.work_dir}', logger='current')
    return str(training.checkpoint)
