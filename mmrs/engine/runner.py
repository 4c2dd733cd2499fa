from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, is_distributed, master_only
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import BaseOptimWrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmrs.datasets.class_names import class_names, difference, match_classes, same_names
from mmrs.datasets.image_warnings import image_warnings
from mmrs.datasets.stream import StreamedDataset
from mmrs.engine.compilation import compile_backbones
from mmrs.engine.distributed import BatchNormSyncHook, CPUDistributedDataParallel
from mmrs.engine.hooks import TeacherEMAHook
from mmrs.engine.saved_runs import damage, newest_checkpoint, require_resumable
from mmrs.engine.schedules import (
    differences,
    optimizer_names,
    other_optimizers,
    settings,
    take_over,
    waiting_for_scores,
)
from mmrs.geo.classes import IGNORE_INDEX
from mmrs.install import install
from mmrs.models.adaptors import Adaptor
from mmrs.models.checks import check_losses, check_model, decode_heads
from mmrs.registry import RUNNERS
from mmrs.utils import random_states
from mmrs.utils.config import walk
from mmrs.utils.errors import CheckpointError, ConfigError, UserError, some
from mmrs.utils.files import atomic_path
from mmrs.utils.process_group import init_cpu_group, launcher_environment, on_cpu
from mmrs.utils.wrappers import unwrapped
from mmrs.weights import dataset_meta_of, is_pretrained, load_checkpoint, load_matching, state_dict_of

__all__ = ['AdaptationRunner', 'check_num_classes']


def check_num_classes(model: nn.Module, dataset: Any, where: str) -> None:
    """Compare the classes of every decode head with those that a data set names.

    Args:
        model: The model; its decode heads are found by their class.
        dataset: A data set; one without class names is not checked.
        where: Configuration key of the data set, for the message.

    Raises:
        ConfigError: They differ, or the model ignores another label than the one that data sets write.
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if classes is None:
        return
    for name, head in decode_heads(model):
        if head.num_classes != len(classes):
            raise ConfigError(
                f'{name}.num_classes is {head.num_classes}, but the data set at {where} ({type(dataset).__name__}) has '
                f'{len(classes)} classes: {", ".join(classes)}. Set num_classes of every decode head to '
                f'{len(classes)}, or the classes by {where}.metainfo'
            )
    _check_ignored(model, getattr(dataset, 'ignore_index', IGNORE_INDEX), where)


def _check_ignored(model: nn.Module, ignored: int, where: str) -> None:
    found = {f'{name}.ignore_index': head.ignore_index for name, head in decode_heads(model)}
    preprocessor: Any = getattr(unwrapped(model), 'data_preprocessor', None)
    padding = getattr(preprocessor, 'pad_values', {}).get('seg_pad_val', getattr(preprocessor, 'seg_pad_val', None))
    if padding is not None:
        found['model.data_preprocessor.seg_pad_val'] = padding
    for key, value in found.items():
        if value != ignored:
            raise ConfigError(
                f'{key} is {value}, but pixels without label have {ignored} in the data set at {where}: set it to '
                f'{ignored}. To ignore a class, leave it out of class_map, or set ignore for it in the classes_file'
            )


@RUNNERS.register_module()
class AdaptationRunner(Runner):
    """MMEngine's runner, with exact resuming, checks before the first iteration, and several processes without a GPU.

    - A run that was killed and resumed equals one that was not: checkpoints hold the states of the random generators;
      see also :mod:`mmrs.engine.loops`. Several processes take those of the first, as their generators go alike
      (unless ``randomness.diff_rank_seed`` parts them).
    - A checkpoint has its name only when it is complete, and a damaged one is noticed before it is loaded.
    - A checkpoint that fits the model in part gives a warning, one that does not fit at all an error; a resumed run
      demands a complete fit. See :mod:`mmrs.weights`.
    - The class count of every decode head must be the data sets'. Which class is which follows from the names: a data
      set for evaluation takes the order of the training set or the checkpoint, see :func:`match_classes`.
    - The parts of a model must fit each other, and its losses must make sense: both are tried as soon as it is built.
    - A resumed run has the checkpoint's optimizer settings and schedules; others in the configuration are an error, or
      taken over, see :attr:`new_schedule`.
    - Weights that a resumed run overwrites anyway are not initialised, so it needs no pretrained file.
    """

    _resume: bool
    _load_from: str | None
    _starts: Counter[str] = Counter()
    #: Whether a resumed run has the configuration's optimizer settings and schedules, where those are not its own.
    new_schedule: bool = False
    _changed: bool = False
    #: Random states of the checkpoint that is resumed, until the training goes on from it.
    _saved_states: dict[str, Any] | None = None
    #: Random states of the training, while something else runs.
    _aside: dict[str, Any] | None = None

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """Make MMEngine safe, start the process group, on a CPU too, and give the run a time stamp of its own."""
        install()
        if self.distributed and not is_distributed():
            os.environ.update(launcher_environment(self.launcher))
            if on_cpu():
                init_cpu_group(env_cfg.get('dist_cfg', {}).get('timeout'))
        super().setup_env(env_cfg)
        # MMEngine names logs, folders and shared objects after the second of the clock. A process may start two runs
        # in a second.
        self._starts[self._timestamp] += 1
        if self._starts[self._timestamp] > 1:
            self._timestamp += f'_{self._starts[self._timestamp]}'

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build the model; raises :class:`ConfigError` where its parts do not fit each other."""
        built = super().build_model(model)
        check_model(built)
        return built

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Wrap the model for several processes, on a CPU too; for a training its losses are checked before."""
        if self._train_loop is not None:
            check_losses(model.to(get_device()))
        if self.distributed and on_cpu():
            model = revert_sync_batchnorm(model)  # torch synchronises batch statistics between GPUs only
            model_wrapper_cfg = dict(
                dict(broadcast_buffers=False, find_unused_parameters=self.cfg.get('find_unused_parameters', False)),
                **{key: value for key, value in (model_wrapper_cfg or {}).items() if key != 'type'},
                type=CPUDistributedDataParallel.__name__,
            )
        return super().wrap_model(model_wrapper_cfg, model)

    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        """Register hooks; several processes have one more."""
        super().register_hooks(*args, **kwargs)
        taught = getattr(unwrapped(self.model), 'teacher', None) is not None
        if self._train_loop is not None and taught and not any(isinstance(h, TeacherEMAHook) for h in self.hooks):
            raise ConfigError(
                'the model has a teacher, but custom_hooks has no TeacherEMAHook, so that it would stay as it was '
                "initialised: add dict(type='TeacherEMAHook', decay=0.999) to custom_hooks"
            )
        if self.distributed:
            self.register_hook(BatchNormSyncHook())

    def _init_model_weights(self) -> None:
        if self._resume and self._load_from is None:
            newest = newest_checkpoint(self.work_dir)
            self._load_from, self._resume = str(newest) if newest else None, newest is not None
        start = Path(str(self._load_from)).name if self._resume else 'the beginning'
        if len(starts := sorted(set(all_gather_object(start)))) > 1:
            raise CheckpointError(
                f'the processes would go on from different checkpoints, {some(starts)}: their machines do not see the '
                'same ones. Put the work dir where all see it, or copy a checkpoint to all and name it with --resume'
            )
        if not self._resume:
            super()._init_model_weights()
            if self._adaptor is not None and self._adaptor.reference_classes:
                self._match_all(self._adaptor.reference_classes, 'the reference')

    @property
    def _adaptor(self) -> Adaptor | None:
        model = unwrapped(self.model)
        return model if isinstance(model, Adaptor) else None

    def _maybe_compile(self, target: str) -> None:
        for name in compile_backbones(self.model, self.cfg.get('compile')):
            self.logger.info(f'{name} is compiled on its first batch')

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop, look at a few images; raises :class:`ConfigError` where classes of heads and data differ."""
        built = self._checked(super().build_train_loop(loop), 'train_dataloader.dataset')
        for text in image_warnings(built.dataloader.dataset):
            self.logger.warning(text)
        return built

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop; raises :class:`ConfigError` where classes of heads and data differ."""
        return self._checked(super().build_val_loop(loop), 'val_dataloader.dataset')

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop; raises :class:`ConfigError` where classes of heads and data differ."""
        return self._checked(super().build_test_loop(loop), 'test_dataloader.dataset')

    def prepare(self) -> None:
        """Build what a training needs, but for the weights that it starts from."""
        runner: Any = self  # configurations become what they describe
        runner._train_loop = self.build_train_loop(runner._train_loop)
        runner.optim_wrapper = self.build_optim_wrapper(runner.optim_wrapper)
        if runner.param_schedulers is not None:
            runner.param_schedulers = self.build_param_scheduler(runner.param_schedulers)
        if runner._val_loop is not None:
            runner._val_loop = self.build_val_loop(runner._val_loop)

    def _checked(self, loop: BaseLoop, where: str) -> BaseLoop:
        dataset = loop.dataloader.dataset
        check_num_classes(self.model, dataset.dataset if isinstance(dataset, StreamedDataset) else dataset, where)
        if isinstance(self._train_loop, BaseLoop):
            classes = class_names(self._train_loop.dataloader.dataset)
            self._match_classes(loop, where, classes, 'train_dataloader.dataset')
        for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', ()):
            ignored = getattr(dataset, 'ignore_index', IGNORE_INDEX)
            if getattr(metric, 'ignore_index', ignored) != ignored:
                raise ConfigError(
                    f'{where.partition("_")[0]}_evaluator ({type(metric).__name__}): ignore_index is '
                    f'{metric.ignore_index}, but pixels without label have {ignored} in the data set at {where}: set '
                    f'it to {ignored}'
                )
        return loop

    def _match_classes(self, loop: Any, where: str, classes: Sequence[str], whose: str) -> None:
        if not isinstance(loop, BaseLoop) or not match_classes(loop.dataloader.dataset, classes, where, whose):
            return
        meta = loop.dataloader.dataset.metainfo
        self.visualizer.dataset_meta = meta
        if hasattr(loop, 'evaluator'):
            loop.evaluator.dataset_meta = meta

    def _match_all(self, classes: Sequence[str], whose: str) -> None:
        for name, loop in (('train', self._train_loop), ('val', self._val_loop), ('test', self._test_loop)):
            self._match_classes(loop, f'{name}_dataloader.dataset', classes, whose)

    def _match_checkpoint(self, checkpoint: dict[str, Any], source: str) -> None:
        """Compare the classes of a checkpoint, if it names them, with those of the data sets."""
        classes, whose = tuple(dataset_meta_of(checkpoint, source).get('classes') or ()), f'the checkpoint {source}'
        # A transfer's training reads no labels, so that nothing in its configuration goes by their order.
        labels_matter = self._adaptor is None or self._adaptor.learns_from_labels
        if not isinstance(self._train_loop, BaseLoop) or not labels_matter:
            self._match_all(classes, whose)
            return
        own, where = class_names(self._train_loop.dataloader.dataset), 'train_dataloader.dataset'
        if not own or own == classes or len(own) != len(classes):  # another number is the heads' affair
            return
        found = f'{where} has the classes {", ".join(own)}, but {whose} has {", ".join(classes)}'
        if same_names(own, classes):
            # Class weights and the like stand in the configuration in the order of the training set.
            raise ConfigError(
                f"{found}: the same in another order. Put the data set's into that of the checkpoint: "
                f'class_map={dict(zip(classes, classes))}'
            )
        if self._resume:
            raise ConfigError(
                f'{found} ({difference(own, classes)}). A run is resumed with the classes that it began with; start a '
                f'new one from its weights with --cfg-options load_from={source}'
            )
        self.logger.warning(f'{found} ({difference(own, classes)}): its heads start from weights of other classes')

    def load_checkpoint(
        self, filename: str, map_location: str | Callable = 'cpu', strict: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Load weights; raises :class:`CheckpointError` where none, or with `strict` not all, fit."""
        if self._resume and Path(filename).is_file() and (reason := damage(Path(filename))) is not None:
            raise CheckpointError(f'checkpoint {filename} is damaged: {reason}. Resume from another one')
        checkpoint = load_checkpoint(filename, map_location)
        if self._resume:
            require_resumable(checkpoint, filename)
            self._require_same_schedule(checkpoint, filename)
            meta = checkpoint['meta']
            meta.pop('config', None)  # MMEngine would run it as a program
            self._saved_states = meta.get('random_states')
        if self._resume or not is_pretrained(state_dict_of(checkpoint, filename)):  # which has no classes
            self._match_checkpoint(checkpoint, filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        load_matching(self.model, state_dict_of(checkpoint, filename), filename, strict=strict or self._resume)
        self._has_loaded = True
        return checkpoint

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Continue a run; raises :class:`CheckpointError` where the file is not the state of a run of this model."""
        self._resume = True
        fresh = settings(self.optim_wrapper, self.param_schedulers) if self.new_schedule else None
        self._changed = False
        try:
            super().resume(filename, *args, **kwargs)
            if fresh is not None and self._changed:
                take_over(self.optim_wrapper, self.param_schedulers, fresh, self.iter, self.epoch)
        except UserError:
            raise
        except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f'cannot resume from {filename}: its optimizers or schedules are not those of this configuration '
                f'({error}). To start a new run from its weights: --cfg-options load_from={filename}'
            ) from error

    def _require_same_schedule(self, checkpoint: dict[str, Any], filename: str) -> None:
        """Refuse a configuration whose rates and schedules the checkpoint's would replace without a word."""
        if not isinstance(self.optim_wrapper, BaseOptimWrapper):
            return
        others = list(other_optimizers(self.optim_wrapper, checkpoint))
        # Parts that share a schedule say the same of it.
        found = others or list(dict.fromkeys(differences(self.optim_wrapper, self.param_schedulers, checkpoint)))
        if others or (found and not self.new_schedule):
            way = (
                f'start a new run from its weights: --cfg-options load_from={filename}'
                if others
                else 'pass --new-schedule to go on with the new settings from its iteration on'
            )
            raise CheckpointError(
                f'cannot resume from {filename}: {"; ".join(found[:5])}{" and more" if len(found) > 5 else ""}. Set '
                f'what the checkpoint was trained with, or {way}'
            )
        self._changed = bool(found)
        for text in found:
            self.logger.info(f'--new-schedule: {text}')
        if found and waiting_for_scores(self.param_schedulers):
            self.logger.warning(
                '--new-schedule: a schedule that goes by scores begins anew; it does not know earlier ones'
            )

    @master_only
    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, meta: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Save a checkpoint, under its name only when it is complete: a run may be killed at any time."""
        meta = {**(meta or {}), 'random_states': self._aside or _capture()}
        if isinstance(self.optim_wrapper, BaseOptimWrapper):
            meta['optimizers'] = optimizer_names(self.optim_wrapper)
        if '://' in out_dir:  # a storage that MMEngine writes to itself
            super().save_checkpoint(out_dir, filename, *args, meta=meta, **kwargs)
            return
        with atomic_path(os.path.join(out_dir, filename), overwrite=True) as temporary:
            super().save_checkpoint(str(temporary.parent), temporary.name, *args, meta=meta, **kwargs)

    def restore_random_states(self) -> None:
        """Set the random generators to the states of the resumed checkpoint, if there is one.

        Raises:
            CheckpointError: They are none.
        """
        states, self._saved_states = self._saved_states, None
        if states is None or (self.rank > 0 and self._randomness_cfg.get('diff_rank_seed', False)):
            return
        try:
            _restore(states)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f'cannot resume: meta.random_states of the checkpoint are of no use ({error})'
            ) from error

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What runs inside leaves the random generators of the training alone."""
        self._aside = _capture()
        try:
            yield
        finally:
            _restore(self._aside)
            self._aside = None

    @master_only
    def dump_config(self) -> None:
        """Write the configuration; a test's goes to its own log folder, not over the training's."""
        name = os.path.basename(self.cfg.filename or f'{self.timestamp}.py')
        folder = self.work_dir if self._train_loop is not None else self.log_dir
        written = copy.deepcopy(self.cfg)
        for _, node in list(walk(written)):
            if isinstance(node.get('class_map'), Mapping):  # whose order is that of the classes; it would be sorted
                cast(dict, node)['class_map'] = [list(pair) for pair in node['class_map'].items()]
        with atomic_path(os.path.join(folder, name), overwrite=True) as temporary:
            written.dump(temporary)


def _capture() -> dict[str, Any]:
    device = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return dict(host=random_states.capture(), device=device)


def _restore(states: dict[str, Any]) -> None:
    random_states.restore(states['host'])
    if states['device'] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states['device'].cpu())  # the checkpoint may have been read onto the GPU
