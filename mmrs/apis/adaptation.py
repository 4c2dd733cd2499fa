"""Adapt a trained network to a target of which there are images alone."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pooch
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmrs.apis.class_prior import STRENGTH, PriorOptions, read_shares
from mmrs.apis.class_shares import label_shares
from mmrs.apis.inference import init_model
from mmrs.apis.target_images import TargetImages, model_and_images
from mmrs.apis.training import train
from mmrs.engine.saved_runs import newest_checkpoint, number_of
from mmrs.evaluation.label_free import Consistency, choose, dead_classes, inadmissible, observe
from mmrs.evaluation.label_free.choice import MARGIN, Choice
from mmrs.evaluation.label_free.criterion import look
from mmrs.models.batch_statistics import NoBatchStatisticsError, adapt_batch_statistics, blend_weight, running_norms
from mmrs.utils.config import load_config, remove_pretrained
from mmrs.utils.errors import ConfigError, DataError, OutputError, require_number, require_one_of
from mmrs.utils.ranks import rank_and_number
from mmrs.utils.records import differences, shown
from mmrs.version import __version__
from mmrs.weights import read_checkpoint, save_changed, state_dict_of, trusting_checkpoints

__all__ = ['METHODS', 'TRAINED', 'Adaptation', 'Judged', 'Result']

#: Methods that train: the adaptor, and its optimizer. TENT: arXiv 2006.10726, section 4. SHOT: arXiv 2002.08546,
#: section 4.2, of pretrained layers. CoTTA: arXiv 2203.13591, section 4.1, of segmentation.
TRAINED: Mapping[str, tuple[str, dict[str, Any]]] = dict(
    tent=('TENT', dict(type='Adam', lr=1e-3)),
    shot=('SHOT', dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=1e-3)),
    cotta=('CoTTA', dict(type='Adam', lr=7.5e-6)),
)
METHODS = ('bn', 'prior', *TRAINED)
#: Of the target's statistics, by default: candidates of `bn`; before training. Published is 1 there, but where the
#: statistics alone do harm, what starts from them does so too.
WEIGHTS, WEIGHT_BEFORE_TRAINING = (0.25, 0.5, 1.0), 0.0
#: What of a model's configuration a method that trains takes over.
_NETWORK = ('backbone', 'neck', 'decode_head', 'data_preprocessor', 'train_cfg', 'test_cfg')

#: Options that not all methods take, and those that do.
_OPTIONS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(('weights', 'prior_images'), ('bn', *TRAINED)),
    **dict.fromkeys(('strengths', 'class_prior'), ('prior',)),
    **dict.fromkeys(('iterations', 'batch_size', 'learning_rate', 'options', 'resume'), tuple(TRAINED)),
}

State = dict[str, Tensor]


@dataclass(frozen=True)
class Judged:
    """A candidate, and what is known of it without labels.

    Attributes:
        name: What it is.
        settings: Of the method, that tell it from others.
        changes: Weights that are not those of the checkpoint.
        consistency: 0 to 1, see :class:`Consistency`.
        shares: Of the classes in its maps of the target, ``(K,)``.
    """

    name: str
    settings: Mapping[str, Any]
    changes: State
    consistency: float
    shares: Tensor


@dataclass(frozen=True)
class Result:
    """What came of it.

    Attributes:
        candidates: The network as it came, and those that were made of it.
        reasons: Why a candidate is out of the question; None: it is not.
        choice: Which one is taken.
        dead: Names of the classes that each of them has lost.
        expected_from: Where the expected shares of the classes are from.
        taken: Index of the candidate that was written; 0: the checkpoint stays.
        written: The file; None: nothing was written.
    """

    candidates: Sequence[Judged]
    reasons: Sequence[str | None]
    choice: Choice
    dead: Sequence[Sequence[str]]
    expected_from: str
    taken: int
    written: Path | None


@dataclass(frozen=True)
class Adaptation:
    """Adapts a checkpoint to images of a target, if what comes of it is clearly more consistent.

    Args:
        config: Configuration of the checkpoint.
        checkpoint: Its weights.
        targets: Rasters, folders, or names of `OF_CONFIG`; see :class:`TargetImages`.
        out: The file to write: the checkpoint with other weights, for the same configuration.
        method: One of `METHODS`.
        weights: Of the target's statistics of batch normalisation, 0 to 1: of `bn` each is a candidate; other methods
            take one, for what training starts from.
        prior_images: As how many images the source's statistics count, instead of `weights`.
        strengths: Of the correction of `prior`, each is a candidate.
        class_prior: Of `prior`; see :class:`PriorOptions`.
        source_shares: Table of the shares of the source's labels; by default what the configuration leads to.
        iterations: Of methods that train.
        batch_size: Likewise.
        learning_rate: Likewise; by default the publication's.
        options: Arguments of the adaptor.
        number: Images on which candidates are judged, and as many others, where there are, for statistics.
        size: Side of a window in pixels; by default that of the sliding test, else `WINDOW`.
        margin: How much more consistent is clearly more consistent.
        always: Write the best admissible candidate, and of candidates that are all inadmissible the first, whatever the
            verdict is.
        seed: Of all that is drawn.
        work_dir: Folder of a run that trains; by default ``NAME_run`` beside `out`, ``NAME.pth``.
        resume: Go on with that run.
        overwrite: Replace `out`, and begin a run anew.
        device: ``'cpu'``, ``'cuda:1'``, ...; by default a GPU if there is one.
        cfg_options: Dotted keys and values that override the configuration.
        trust_checkpoint: Unpickle the checkpoint fully if need be, which can run any code.

    Raises:
        ConfigError: An option or the configuration cannot work.
        OutputError: `out` exists.
    """

    config: str | Path | Config
    checkpoint: str | Path
    targets: Sequence[str]
    out: str | Path
    method: str = 'bn'
    weights: Sequence[float] | None = None
    prior_images: float | None = None
    strengths: Sequence[float] = (STRENGTH,)
    class_prior: str = 'uniform'
    source_shares: str | Path | None = None
    iterations: int = 200
    batch_size: int = 2
    learning_rate: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    number: int = 40
    size: int | None = None
    margin: float = MARGIN
    always: bool = False
    seed: int = 0
    work_dir: str | Path | None = None
    resume: bool = False
    overwrite: bool = False
    device: str | None = None
    cfg_options: Mapping[str, Any] | None = None
    trust_checkpoint: bool = False

    def __post_init__(self) -> None:
        require_one_of('method', self.method, METHODS)
        for name, least in dict(iterations=1, batch_size=1, number=1, seed=0).items():
            require_number(name, getattr(self, name), at_least=least, whole=True)
        require_number('margin', self.margin, at_least=0)
        if self.learning_rate is not None:
            require_number('learning_rate', self.learning_rate, above=0)
        for name in ('weights', 'strengths'):
            for value in getattr(self, name) or ():
                require_number(name, value, at_least=0, at_most=1)
        if self.method in TRAINED and len(self.weights or ()) > 1:
            raise ConfigError(f'weights is {list(self.weights or ())}; {self.method} starts from statistics of one')
        defaults = {own.name: own.default for own in fields(self)}
        for name, methods in _OPTIONS.items():
            value = getattr(self, name)
            # Of a mapping the default is made anew each time: an empty one.
            if self.method not in methods and value is not None and value not in (defaults[name], {}):
                raise ConfigError(f'{name} is for {", ".join(methods)}, not for {self.method}')
        for name in ('weights', 'strengths'):
            if getattr(self, name) is not None and not getattr(self, name):
                raise ConfigError(f'{name} is empty; a number of 0 to 1 was expected')
        if self.weights and self.prior_images is not None:
            raise ConfigError('weights and prior_images are two ways to say the same: give one of them')
        if rank_and_number()[1] > 1:
            raise ConfigError('an adaptation runs in one process: start it without torchrun')
        if not Path(self.out).suffix:
            raise ConfigError(f'out is {self.out}; a file such as {self.out}.pth was expected')
        folder = self._folder.absolute()
        inputs = [path.absolute() for path in map(Path, (self.checkpoint, *self.targets)) if path.exists()]
        if self.method in TRAINED and any(folder in (own, *own.parents) for own in inputs):
            raise ConfigError(f'{folder} holds an input; choose another folder for the run with work_dir (--work-dir)')
        if Path(self.out).exists() and not self.overwrite:
            raise OutputError(f'{self.out} exists already; choose another name, or pass --overwrite')

    # What is done ----------------------------------------------------------------------------------------------------

    def plan(self) -> str:
        """What :meth:`run` would do, after a look at all that it needs. Nothing is written."""
        model, images = self._load()
        seen = images.count(self.number)
        if self.method == 'bn':
            todo = f'statistics of {len(running_norms(model))} layers, weights {self._weights(model, images)}'
        elif self.method == 'prior':
            todo = f'class prior {self.class_prior}, strengths {list(self.strengths)}'
            options = PriorOptions(self.class_prior, self.strengths[0], self.source_shares)
            options.resolve(model.cfg, model.dataset_meta['classes'])
        else:
            self._training_config(model, images, Path(self.checkpoint))
            start = self._weights(model, images)
            todo = f'{self.iterations} iterations of {TRAINED[self.method][0]} in {self._folder}'
            todo += f', from statistics of weight {start[0]:g}' if start else ', without batch normalisation'
        return f'{self.method}: {todo}; judged on {seen} windows of {images.size} px; would write {self.out}'

    def run(self) -> Result:
        """Make the candidates, judge them, and write the chosen one unless the network as it came is chosen.

        Raises:
            ConfigError: The network does not suit the method, or the run's folder has another run.
            CheckpointError: The checkpoint cannot be read or does not fit.
            DataError: Images are missing, or none has data.
        """
        model, images = self._load()
        crops = list(images.samples(self.number, self.seed))
        criterion, shares = self._look(model, crops)
        expected, expected_from = self._expected(model, shares)
        candidates = [Judged('the checkpoint', {}, {}, criterion.compute(expected).value, shares)]
        made = self._trained if self.method in TRAINED else self._made
        for name, settings, changes, own in made(model, images):
            criterion, shares = self._look(own, crops)
            candidates.append(Judged(name, settings, changes, criterion.compute(expected).value, shares))
        every = [own.shares for own in candidates]
        reasons = inadmissible(every, expected, against=0)
        values = [own.consistency for own in candidates]
        choice = choose(values, reasons, self.margin)
        classes = model.dataset_meta['classes']
        dead = [[classes[i] for i in dead_classes(own, expected).nonzero().flatten().tolist()] for own in every]
        index = choice.candidate
        if self.always and index == 0:
            admitted = [i for i in range(1, len(candidates)) if reasons[i] is None] or [1]
            index = max(admitted, key=lambda i: values[i])
        written = self._write(candidates, index, choice, expected_from) if index else None
        return Result(candidates, reasons, choice, dead, expected_from, index, written)

    # Candidates ------------------------------------------------------------------------------------------------------

    def _load(self) -> tuple[Any, TargetImages]:
        return model_and_images(
            self.config,
            self.checkpoint,
            self.targets,
            self.size,
            self.device,
            self.cfg_options,
            self.trust_checkpoint,
        )

    def _weights(self, model: nn.Module, images: TargetImages) -> list[float]:
        """Of the target's statistics; none where a method that trains finds no batch normalisation."""
        try:
            running_norms(model)
        except NoBatchStatisticsError:
            if self.method == 'bn' or self.weights or self.prior_images is not None:
                raise
            return []
        if self.prior_images is not None:
            return [blend_weight(images.count(self.number), self.prior_images)]
        if self.weights:
            return list(dict.fromkeys(self.weights))
        return list(WEIGHTS) if self.method == 'bn' else [WEIGHT_BEFORE_TRAINING]

    def _made(self, model: Any, images: TargetImages) -> Iterator[tuple[str, dict[str, Any], State, nn.Module]]:
        """Candidates without training: the model itself, changed while each of them is looked at."""
        for name, settings, change in self._changes(model, images):
            with _changed(model, change) as changes:
                yield name, settings, changes, model

    def _changes(self, model: Any, images: TargetImages) -> Iterator[tuple[str, dict[str, Any], Callable[[], Any]]]:
        if self.method == 'bn':
            for weight in self._weights(model, images):
                name = f'statistics, weight {weight:g}'
                yield name, dict(weight=weight), functools.partial(self._follow, model, images, weight)
            return
        for strength in self.strengths:
            prior = PriorOptions(self.class_prior, strength, self.source_shares)
            settings: dict[str, Any] = dict(class_prior=self.class_prior, strength=strength)
            name = f'class prior {self.class_prior}, strength {strength:g}'
            yield name, settings, functools.partial(prior.apply, model, model.cfg, model.dataset_meta['classes'])

    def _follow(self, model: nn.Module, images: TargetImages, weight: float) -> None:
        seen = observe(model, images.samples(self.number, self.seed, self.number))
        adapt_batch_statistics(model, ((own.image[None], own.valid[None]) for own in seen), weight)

    def _trained(self, model: Any, images: TargetImages) -> Iterator[tuple[str, dict[str, Any], State, nn.Module]]:
        """The one candidate of a method that trains: a run as every other, from a file with the statistics."""
        weight, start = next(iter(self._weights(model, images)), 0.0), self._folder / 'start.pth'
        config = self._training_config(model, images, start)
        begun = newest_checkpoint(self._folder) is not None
        if begun and not (self.resume or self.overwrite):
            raise OutputError(f'{self._folder} holds a run already; pass --resume or --overwrite')
        record = self._record(weight=weight)
        if begun and self.resume:
            made = (read_checkpoint(start).get('meta') or {}).get('adaptation') if start.is_file() else None
            if made != record:
                raise OutputError(
                    f'{self._folder} holds a run of other settings ({shown(differences(made or {}, record))}): leave '
                    '--resume out and pass --overwrite, or choose another --work-dir'
                )
        else:
            statistics: State = {}
            if weight:
                with _changed(model, functools.partial(self._follow, model, images, weight)) as changes:
                    statistics = changes
            self._save(statistics, start, record, overwrite=True)
        train(
            config,
            self._folder,
            resume='auto' if self.resume else None,
            overwrite=self.overwrite and not self.resume,
            trust_checkpoint=self.trust_checkpoint,
        )
        last = newest_checkpoint(self._folder)
        if last is None or number_of(last) != self.iterations:
            raise DataError(f'{self._folder}: the run has not come to iteration {self.iterations}, but to {last}')
        trained = state_dict_of(read_checkpoint(last), last)
        prefix = 'teacher.' if self.method == 'cotta' else ''
        before = state_dict_of(self._read(), self.checkpoint)
        changes = {
            key: found
            for key in before
            if (found := trained.get(prefix + key)) is not None
            and found.shape == before[key].shape
            and not torch.equal(found, before[key])
        }
        path = self._folder / 'adapted.pth'
        self._save(changes, path, {}, overwrite=True)
        settings = dict(iterations=self.iterations, batch_size=self.batch_size, weight=weight, **self.options)
        if self.learning_rate is not None:
            settings['learning_rate'] = self.learning_rate
        adapted = init_model(load_config(self.config, self.cfg_options), path, self.device)
        yield f'{TRAINED[self.method][0]}, {self.iterations} iterations', settings, changes, adapted

    @property
    def _folder(self) -> Path:
        return Path(self.work_dir or Path(self.out).with_name(f'{Path(self.out).stem}_run'))

    def _training_config(self, model: Any, images: TargetImages, start: Path) -> Config:
        """The configuration of a run of a method that trains, on the same network."""
        parts = dict(model.named_children())
        if not isinstance(parts.get('decode_head'), BaseDecodeHead) or 'backbone' not in parts:
            raise ConfigError(
                f'{type(model).__name__} is no backbone with one decode head, which {self.method} trains; bn and prior '
                'are for all networks'
            )
        kind, optimizer = TRAINED[self.method]
        config = copy.deepcopy(model.cfg)
        network = {key: config.model[key] for key in _NETWORK if config.model.get(key) is not None}
        config.model = ConfigDict(type=kind, **network, **self.options)
        remove_pretrained(config.model)
        for key in ('val', 'test'):
            config[f'{key}_dataloader'] = config[f'{key}_cfg'] = config[f'{key}_evaluator'] = None
        config.train_dataloader = ConfigDict(
            batch_size=self.batch_size,
            num_workers=2,
            persistent_workers=True,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=images.dataset(augmented=True),
        )
        config.train_cfg = ConfigDict(type='IterBasedTrainLoop', max_iters=self.iterations, val_interval=10**9)
        rate = optimizer['lr'] if self.learning_rate is None else self.learning_rate
        config.optim_wrapper = ConfigDict(type='OptimWrapper', optimizer={**optimizer, 'lr': rate})
        config.param_scheduler = []
        config.default_hooks = ConfigDict(
            timer=dict(type='IterTimerHook'),
            logger=dict(type='LoggerHook', interval=max(1, self.iterations // 10), log_metric_by_epoch=False),
            param_scheduler=dict(type='ParamSchedulerHook'),
            checkpoint=dict(
                type='CheckpointHook', by_epoch=False, interval=max(1, self.iterations // 4), max_keep_ckpts=1
            ),
            sampler_seed=dict(type='DistSamplerSeedHook'),
            non_finite=dict(type='NonFiniteHook', max_skipped=10),
        )
        # Section 3.2: the teacher keeps 0.999 of itself.
        config.custom_hooks = (
            [dict(type='TeacherEMAHook', decay=0.999, warm_up=False)] if self.method == 'cotta' else []
        )
        config.randomness = ConfigDict(seed=self.seed)
        config.load_from, config.resume = str(start), False
        return config

    # Judgement -------------------------------------------------------------------------------------------------------

    def _look(self, model: Any, crops: Sequence[Mapping[str, Any]]) -> tuple[Consistency, Tensor]:
        number = len(model.dataset_meta['classes'])
        criterion = Consistency(number)
        (shares,) = look(observe(model, crops), [[criterion]], number)
        return criterion, shares

    def _expected(self, model: Any, predicted: Tensor) -> tuple[Tensor, str]:
        """Shares of the classes that there should be, and where they are from."""
        classes = model.dataset_meta['classes']
        if self.source_shares is not None:
            return torch.tensor(read_shares(self.source_shares, classes)), str(self.source_shares)
        try:
            return torch.tensor(list(label_shares(model.cfg, classes).values())), "the source's labels"
        except (ConfigError, DataError) as error:
            print_log(
                f'the labels of the source are not there ({error}): classes that the checkpoint itself finds in the '
                'target are expected there. Those that it has lost already are not missed then: give --source-shares',
                logger='current',
            )
            return predicted, "the checkpoint's own maps of the target"

    # Files -----------------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Any]:
        with trusting_checkpoints(self.trust_checkpoint):
            return read_checkpoint(self.checkpoint)

    def _save(self, changes: State, path: Path, record: Mapping[str, Any], overwrite: bool) -> None:
        """The checkpoint with other weights, and without the state of its training."""
        with trusting_checkpoints(self.trust_checkpoint):
            save_changed(self.checkpoint, changes, path, overwrite, **({'adaptation': record} if record else {}))

    def _record(self, **settings: Any) -> dict[str, Any]:
        """What an adaptation was made of."""
        return dict(
            mmrs=__version__,
            method=self.method,
            settings=settings,
            targets=list(map(str, self.targets)),
            checkpoint=Path(self.checkpoint).name,
            weights=pooch.file_hash(str(self.checkpoint)),
            seed=self.seed,
        )

    def _write(self, candidates: Sequence[Judged], index: int, choice: Choice, expected_from: str) -> Path:
        chosen, out = candidates[index], Path(self.out)
        judgement = dict(
            verdict=choice.verdict,
            expected_from=expected_from,
            consistency=[candidates[0].consistency, chosen.consistency],
        )
        self._save(chosen.changes, out, self._record(**chosen.settings) | judgement, self.overwrite)
        return out


@contextmanager
def _changed(model: nn.Module, change: Callable[[], Any]) -> Iterator[State]:
    """Change a model in place, and back at the end; inside it is the changed one.

    Yields:
        The weights that are others.
    """
    before = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        change()
        after = model.state_dict()
        yield {
            key: value.clone()
            for key, value in after.items()
            if key not in before or not torch.equal(value, before[key])
        }
    finally:
        model.load_state_dict(before, strict=False)
