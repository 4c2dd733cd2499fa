"""Which of several checkpoints to take for a target without labels."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch
from mmengine.config import Config
from mmseg.models.segmentors.base import BaseSegmentor
from rich.console import Console
from rich.progress import track
from torch import Tensor

from mmrs.apis.class_prior import PriorOptions
from mmrs.apis.class_shares import label_shares
from mmrs.apis.comparison import markdown_table
from mmrs.apis.inference import init_model
from mmrs.apis.statistics import domain_leaves, loading, steps_between, without_labels
from mmrs.apis.target_images import cut
from mmrs.datasets.transforms import PackRasterInputs
from mmrs.engine.saved_runs import own_checkpoints
from mmrs.evaluation.label_free import CRITERIA, MixVal, choose, dead_classes, inadmissible, observe
from mmrs.evaluation.label_free.choice import MARGIN, Choice
from mmrs.evaluation.label_free.criterion import Score, look
from mmrs.install import install
from mmrs.models.batch_statistics import adapt_batch_statistics, running_norms
from mmrs.registry import DATASETS
from mmrs.utils.config import load_config
from mmrs.utils.errors import ConfigError, DataError, require_number, require_one_of
from mmrs.utils.files import write_json, write_text
from mmrs.utils.progress import quiet_log
from mmrs.weights import save_changed

__all__ = ['DEFAULT_CRITERIA', 'Candidate', 'Judged', 'Selection', 'find_candidates', 'offsets_of', 'target_crops']

#: What is asked of each candidate.
DEFAULT_CRITERIA = ('consistency', 'entropy', 'information_maximisation', 'soft_neighbourhood_density')


@dataclass(frozen=True)
class Candidate:
    """A checkpoint, and what is changed about it without training.

    Attributes:
        config: Its configuration file.
        checkpoint: Its weights.
        strength: Of the correction to equal shares of the classes; 0: none.
        statistics: Weight of the target's statistics of batch normalisation; 0: those of the checkpoint.
    """

    config: Path
    checkpoint: Path
    strength: float = 0.0
    statistics: float = 0.0

    def __str__(self) -> str:
        name = '/'.join([*self.checkpoint.absolute().parent.parts[-2:], self.checkpoint.name])
        variants = {"target's statistics": self.statistics, 'equal shares': self.strength}
        return ', '.join([name, *(f'{what} {value:g}' for what, value in variants.items() if value)])


@dataclass(frozen=True)
class Judged:
    """What is known of a candidate without labels of the target.

    Attributes:
        candidate: The candidate.
        shares: Of the classes in its maps of the target, ``(K,)``.
        scores: By the names of criteria.
    """

    candidate: Candidate
    shares: Sequence[float]
    scores: Mapping[str, Score]


# Images --------------------------------------------------------------------------------------------------------------


def target_crops(configs: Sequence[Config], number: int, size: int, seed: int = 0) -> list[dict[str, Any]]:
    """Crops of as many images of the target, drawn by a seed, without labels, in the size in which a test sees them.

    Images of the validation (of the test, where there is no validation or only one domain in training) that no training
    has seen come first, for what a network has learned by heart looks certain. Those of training fill up.

    Args:
        configs: Configurations; the first one's validation counts, and all trainings.
        number: Of images; all, where there are fewer.
        size: Largest side of a crop in pixels.
        seed: Which images, and where in them.

    Returns:
        For each a packed sample, ``dict(inputs, data_samples)``.

    Raises:
        ConfigError: The first configuration has no such data.
        DataError: There is no image.
    """
    watched, trained = _watched(configs[0]), _trained_on(configs)
    if not watched and not trained:
        raise ConfigError(f'{configs[0].filename}: there is no data set of the target')
    steps = steps_between(watched[0]) if watched else []
    seen = [place for leaf in trained for place in _places(leaf, steps)]
    paths = {own.get_data_info(i)['img_path'] for own, i in seen}
    unseen = [
        (own, i) for leaf in watched for own, i in _places(leaf, steps) if own.get_data_info(i)['img_path'] not in paths
    ]
    random = np.random.default_rng(seed)
    chosen: list[tuple[Any, int]] = []
    for places in (unseen, seen):
        drawn = random.permutation(len(places))[: number - len(chosen)]
        chosen += [places[i] for i in sorted(drawn)]
    if not chosen:
        raise DataError(f'{configs[0].filename}: the data set of the target has no image')
    return [_cropped(own[i], size, random) for own, i in chosen]


def _leaves(config: Config, role: str) -> dict[str, list[dict[str, Any]]]:
    dataset = (config.get(f'{role}_dataloader') or {}).get('dataset')
    return domain_leaves(dataset) if dataset else {}


def _watched(config: Config) -> list[dict[str, Any]]:
    """Data sets of the target that a validation or a test looks at."""
    # What is trained on one domain may be validated on the same; its test is of the target.
    roles = ('val', 'test') if 'target' in _leaves(config, 'train') else ('test', 'val')
    return next((found for role in roles if (found := _leaves(config, role).get(''))), [])


def _trained_on(configs: Sequence[Config]) -> list[dict[str, Any]]:
    """Data sets of the target that trainings look at."""
    found = {str(leaf): leaf for config in configs for leaf in _leaves(config, 'train').get('target', [])}
    return list(found.values())


def _places(leaf: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> list[tuple[Any, int]]:
    if not (load := loading(leaf)):
        raise ConfigError(
            f'the images of {leaf.get("type")} {leaf.get("data_root", "")} are read by '
            f'{", ".join(str(step["type"]) for step in leaf.get("pipeline") or ()) or "nothing"}; LoadRasterImage was '
            'expected'
        )
    pipeline = [*load, *steps, PackRasterInputs()]
    own = DATASETS.build({**without_labels(leaf), 'pipeline': pipeline, 'test_mode': True})
    return [(own, i) for i in range(len(own))]


def _cropped(sample: dict[str, Any], size: int, random: np.random.Generator) -> dict[str, Any]:
    height, width = sample['inputs'].shape[-2:]
    top, left = (int(random.integers(max(side - size, 0) + 1)) for side in (height, width))
    return cut(sample, (left, top, left + size, top + size))


# Candidates ----------------------------------------------------------------------------------------------------------


def find_candidates(
    runs: Sequence[str | Path], strengths: Sequence[float] = (), statistics: Sequence[float] = ()
) -> list[Candidate]:
    """The checkpoints of runs, each in several variants that cost no training.

    Args:
        runs: Folders of runs, with a configuration and checkpoints ``iter_N.pth``; or checkpoints in such folders. The
            last checkpoint of the first one is the least adapted candidate, and the first of the result.
        strengths: Of the correction to equal shares, 0 to 1; without it they are candidates anyway.
        statistics: Weights of the target's statistics of batch normalisation, likewise.

    Raises:
        ConfigError: There is no such checkpoint, or a folder without one configuration.
    """
    found: list[Candidate] = []
    for name, values in (('strengths', strengths), ('statistics', statistics)):
        for value in values:
            require_number(name, value, at_least=0, at_most=1)
    variants = [dict.fromkeys((0.0, *map(float, values))) for values in (statistics, strengths)]
    for run in map(Path, runs):
        folder, checkpoints = (run.parent, [run]) if run.suffix == '.pth' else (run, own_checkpoints(run))
        configs = sorted(folder.glob('*.py'))
        if not checkpoints or not checkpoints[0].is_file():
            raise ConfigError(f'{run}: no checkpoint was found; a folder with iter_N.pth was expected, or such a file')
        if len(configs) != 1:
            raise ConfigError(f'{folder} has {len(configs)} configurations (*.py); the one of the run was expected')
        for checkpoint, weight, strength in itertools.product(checkpoints, *variants):
            found.append(Candidate(configs[0], checkpoint, strength, weight))
    return list(dict.fromkeys(found))


# Choice --------------------------------------------------------------------------------------------------------------


@dataclass
class Selection:
    """Judges candidates on the same crops, and chooses one.

    Args:
        candidates: The least adapted one first; see :func:`find_candidates`.
        criteria: Names of `CRITERIA`, the first of which chooses.
        margin: By how much a candidate has to be better than the least adapted one.
        number: Images of the target that are looked at.
        size: Largest side of a crop in pixels.
        seed: Which images, and where in them.
        options: Options of criteria by their names.
        records: Folder that keeps what is known of each candidate, for the next call; None: none is.
        data: Configurations whose images of the target are looked at, see :func:`target_crops`; by default those of
            the candidates.
        device: ``'cpu'``, ``'cuda:1'``, ...; by default a GPU if there is one.

    Raises:
        ConfigError: A name is unknown, or a number makes no sense.
    """

    candidates: Sequence[Candidate]
    criteria: Sequence[str] = DEFAULT_CRITERIA
    margin: float = MARGIN
    number: int = 40
    size: int = 512
    seed: int = 0
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    records: Path | None = None
    data: Sequence[Config] = ()
    device: str | None = None

    def __post_init__(self) -> None:
        install()
        for name in self.criteria:
            require_one_of('criteria', name, CRITERIA)
        if self.criteria[0] == MixVal.name:
            raise ConfigError(
                f'{MixVal.name} compares by ranks, which know no margin: it cannot be the first criterion'
            )
        require_number('margin', self.margin, at_least=0)
        require_number('number', self.number, at_least=1)
        require_number('size', self.size, at_least=1)

    def judge(self) -> list[Judged]:
        """Scores of all candidates; those of one network share its passes.

        Raises:
            ConfigError: A configuration cannot work.
            CheckpointError: A checkpoint cannot be read or does not fit.
            DataError: Images cannot be read.
        """
        found = {candidate: known for candidate in self.candidates if (known := self._known(candidate)) is not None}
        groups: dict[tuple[Path, float], list[Candidate]] = {}
        for candidate in self.candidates:
            if candidate not in found:
                groups.setdefault((candidate.checkpoint, candidate.statistics), []).append(candidate)
        for group in track(list(groups.values()), 'candidates', console=Console(stderr=True)):
            with quiet_log():  # what is said of each checkpoint would break the bar
                own = self._judge(group)
            for judged in own:
                found[judged.candidate] = judged
                if (path := self._path(judged.candidate)) is not None:
                    result = asdict(judged)
                    del result['candidate']
                    write_json(dict(about=self._about(judged.candidate), result=result), path, overwrite=True)
        return [found[candidate] for candidate in self.candidates]

    def choose(self, judged: Sequence[Judged]) -> tuple[Choice, list[str | None]]:
        """The candidate to take, and why others are out of the question."""
        name = self.criteria[0]
        values = CRITERIA[name].compared([own.scores[name] for own in judged])
        expected = torch.tensor(list(self.expected.values()))
        reasons = inadmissible([torch.tensor(own.shares) for own in judged], expected)
        return choose(values, reasons, self.margin), reasons

    def sentence(self, judged: Sequence[Judged], choice: Choice, reasons: Sequence[str | None]) -> str:
        """What was chosen, and why, in words; and which of its classes have died."""
        least, chosen = self.candidates[0], self.candidates[choice.candidate]
        name = self.criteria[0]
        if choice.verdict == 'none':
            return f'Do not use any: classes died in all candidates. The least adapted one is {least}.'
        if choice.verdict == 'adapted' and (out := reasons[0]) is not None:
            text = f'Adapted is better: {chosen} is chosen, for {least} is out: {out}.'
        elif choice.verdict == 'adapted':
            text = f'Adapted is better: {chosen} is chosen, {choice.gain:.3f} above {least} in {name}.'
        elif choice.gain > 0:
            text = (
                f'No clear difference: {least} stays, for the best other candidate is {choice.gain:.3f} above it in '
                f'{name}, less than {self.margin:g}.'
            )
        else:
            text = f'{least} stays: no candidate is above it in {name}.'
        expected = torch.tensor(list(self.expected.values()))
        dead = dead_classes(torch.tensor(judged[choice.candidate].shares), expected)
        if names := [own for own, died in zip(self.expected, dead.tolist()) if died]:
            text += f' In its maps there is hardly any {", ".join(names)}, which the source has.'
        return text

    def table(self, judged: Sequence[Judged], choice: Choice, reasons: Sequence[str | None]) -> str:
        """All candidates with their values, in Markdown."""
        rows = []
        for i, (own, reason) in enumerate(zip(judged, reasons)):
            values = [f'{own.scores[name].value:.3f}' for name in self.criteria]
            rows.append([str(own.candidate), *values, reason or ('**chosen**' if i == choice.candidate else '')])
        return markdown_table(['candidate', *self.criteria, 'note'], rows)

    def save(self, judged: Sequence[Judged], choice: Choice, reasons: Sequence[str | None], text: str) -> None:
        """Write what was found to the folder of the records: ``selection.md`` and ``selection.json``."""
        if self.records is None:
            return
        chosen = self.candidates[choice.candidate]
        if chosen.statistics:
            self._save_adapted(chosen)
        rows = [
            {**asdict(own), 'candidate': str(own.candidate), 'reason': reason} for own, reason in zip(judged, reasons)
        ]
        found = dict(
            verdict=choice.verdict,
            sentence=self.sentence(judged, choice, reasons),
            candidate=str(chosen),
            checkpoint=str(self._file(chosen)),
            config=str(chosen.config),
            strength=chosen.strength,
            statistics=chosen.statistics,
            gain=choice.gain,
            classes=list(self.expected),
            candidates=rows,
        )
        write_text(text, self.records / 'selection.md', overwrite=True)
        write_json(found, self.records / 'selection.json', overwrite=True)

    def prediction(self, candidate: Candidate) -> list[str]:
        """The command that makes maps with a candidate that was saved."""
        file = self._file(candidate)
        command = ['python', 'tools/predict.py', str(candidate.config), str(file), 'INPUT', '-o', 'maps']
        if candidate.strength:
            command += ['--class-prior', 'uniform', '--prior-strength', f'{candidate.strength:g}']
        return command

    def _file(self, candidate: Candidate) -> Path:
        if not candidate.statistics or self.records is None:
            return candidate.checkpoint
        return self.records / f'{candidate.checkpoint.stem}_statistics.pth'

    def _save_adapted(self, candidate: Candidate) -> None:
        with quiet_log():
            norms = running_norms(self.model(candidate))
        changes = {
            f'{name}.{key}': getattr(norm, key)
            for name, norm in norms.items()
            for key in ('running_mean', 'running_var')
        }
        save_changed(candidate.checkpoint, changes, self._file(candidate), overwrite=True)

    def _judge(self, group: Sequence[Candidate]) -> list[Judged]:
        model = self.model(group[0])
        classes = tuple(model.dataset_meta['classes'])
        if classes != tuple(self.expected):
            names = ', '.join(self.expected)
            raise ConfigError(f'{group[0]} has the classes {", ".join(classes)}, but {self.candidates[0]} has {names}')
        expected = torch.tensor(list(self.expected.values()))
        shifts = [offsets_of(model, candidate.strength) for candidate in group]
        criteria = [
            [CRITERIA[name](len(classes), **self.options.get(name, {})) for name in self.criteria] for _ in group
        ]
        shares = look(observe(model, self._crops), criteria, len(classes), shifts)
        return [
            Judged(
                candidate,
                tuple(own_shares.tolist()),
                {criterion.name: criterion.compute(expected) for criterion in own},
            )
            for candidate, own, own_shares in zip(group, criteria, shares)
        ]

    @functools.cached_property
    def _crops(self) -> list[dict[str, Any]]:
        """What all candidates are shown."""
        return target_crops(self._data, self.number, self.size, self.seed)

    @functools.cached_property
    def _statistics_crops(self) -> list[dict[str, Any]]:
        """What the target's statistics are of: not the crops by which candidates are judged, where there are enough."""
        return target_crops(self._data, self.number, self.size, self.seed + 1)

    @functools.cached_property
    def _data(self) -> Sequence[Config]:
        return self.data or [load_config(path) for path in dict.fromkeys(own.config for own in self.candidates)]

    @functools.cached_property
    def expected(self) -> dict[str, float]:
        """Shares of the classes in the source's labels, by the configuration of the least adapted candidate."""
        return label_shares(load_config(self.candidates[0].config))

    def model(self, candidate: Candidate) -> BaseSegmentor:
        """A candidate's network, with its statistics of batch normalisation, before any correction of shares.

        Raises:
            ConfigError: It has no batch normalisation whose statistics could be the target's.
        """
        model = init_model(candidate.config, candidate.checkpoint, self.device)
        if candidate.statistics:
            images = ((seen.image[None], seen.valid[None]) for seen in observe(model, self._statistics_crops))
            adapt_batch_statistics(model, images, candidate.statistics)
        return model

    # Records ---------------------------------------------------------------------------------------------------------

    def _path(self, candidate: Candidate) -> Path | None:
        if self.records is None:
            return None
        own = f'{candidate.checkpoint.absolute()} {candidate.strength:g} {candidate.statistics:g}'
        place = hashlib.sha256(own.encode()).hexdigest()
        return self.records / f'{place[:16]}.json'

    # Several candidates share a checkpoint, and all share the images.

    @functools.cached_property
    def _weights(self) -> dict[Path, str]:
        return {path: pooch.file_hash(str(path)) for path in {own.checkpoint for own in self.candidates}}

    @functools.cached_property
    def _configs(self) -> dict[Path, Any]:
        return {path: load_config(path).to_dict() for path in {own.config for own in self.candidates}}

    @functools.cached_property
    def _images(self) -> list[tuple[str, int, int]]:
        paths = [crop['data_samples'].img_path for crop in self._crops]
        return [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in paths]

    def _about(self, candidate: Candidate) -> dict[str, Any]:
        """What decides the scores, as JSON gives it back."""
        keys = ('criteria', 'number', 'size', 'seed', 'options')
        about = {key: getattr(self, key) for key in keys} | dict(
            strength=candidate.strength, statistics=candidate.statistics
        )
        weights, config = self._weights[candidate.checkpoint], self._configs[candidate.config]
        about |= dict(weights=weights, config=config, images=self._images, expected=self.expected)
        return json.loads(json.dumps(about, default=str))

    def _known(self, candidate: Candidate) -> Judged | None:
        path = self._path(candidate)
        if path is None or not path.is_file():
            return None
        known = json.loads(path.read_text(encoding='utf-8'))
        if known['about'] != self._about(candidate):
            return None
        result = known['result']
        scores = {name: _score(**score) for name, score in result['scores'].items()}
        return Judged(candidate, result['shares'], scores)


def offsets_of(model: Any, strength: float) -> Tensor | None:
    """What a correction to equal shares of the classes adds to the logits of :func:`init_model`'s model, ``(K,)``."""
    if not strength:
        return None
    prior = PriorOptions('uniform', strength).resolve(model.cfg, model.dataset_meta['classes'])
    return torch.tensor(prior.offsets, device=next(model.parameters()).device)


def _score(
    value: float | None, plain: float | None, per_class: list | None, parts: Mapping[str, float | None]
) -> Score:
    """A score of what JSON keeps, which has no NaN."""

    def number(known: float | None) -> float:
        return math.nan if known is None else known

    of_classes = None if per_class is None else tuple(map(number, per_class))
    return Score(number(value), number(plain), of_classes, {name: number(part) for name, part in parts.items()})
