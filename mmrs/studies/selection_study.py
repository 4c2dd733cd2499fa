"""How well criteria without labels choose among the runs of the trials, by the labels that these pairs do have."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch
from mmengine.config import Config
from mmseg.structures import SegDataSample
from rich.console import Console
from rich.progress import track
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from mmrs.apis.comparison import markdown_table
from mmrs.apis.selection import Candidate, Judged, Selection, find_candidates, offsets_of
from mmrs.engine.saved_runs import number_of, own_checkpoints
from mmrs.evaluation.label_free import CRITERIA, choose, inadmissible, observe
from mmrs.evaluation.label_free.choice import MARGIN
from mmrs.evaluation.label_free.consistency import agreement
from mmrs.evaluation.label_free.criterion import PRESENT
from mmrs.install import install
from mmrs.registry import DATASETS
from mmrs.studies.trials import PAIRS
from mmrs.utils.config import load_config
from mmrs.utils.errors import DataError, require_one_of
from mmrs.utils.files import write_json, write_text
from mmrs.utils.progress import quiet_log

__all__ = ['SelectionStudy']

#: Margins among which one is chosen on the other pairs.
_MARGINS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2)


@dataclass(frozen=True)
class _Case:
    """The candidates of one pair and seed, the network of the source alone first.

    Attributes:
        judged: What is known of them without labels.
        truth: mIoU over the classes with at least 0.5 % of the labelled pixels, in percent.
        accuracy: Overall accuracy, in percent.
        expected: Shares of the classes in the source's labels.
    """

    judged: Sequence[Judged]
    truth: np.ndarray
    accuracy: np.ndarray
    expected: Tensor

    def values(self, criterion: str) -> list[float]:
        return CRITERIA[criterion].compared([own.scores[criterion] for own in self.judged])

    def chosen(self, criterion: str, margin: float, among: Sequence[int] | None = None) -> int:
        """Which candidate is chosen, the first of some being the least adapted."""
        places = range(len(self.judged)) if among is None else among
        values = self.values(criterion)
        reasons = inadmissible([torch.tensor(self.judged[i].shares) for i in places], self.expected)
        return places[choose([values[i] for i in places], reasons, margin).candidate]

    def runs(self) -> Iterator[list[int]]:
        """The plain checkpoints of each run that kept several, the last one first."""
        plain = [i for i, own in enumerate(self.judged) if not (own.candidate.strength or own.candidate.statistics)]
        for _, group in itertools.groupby(plain, key=lambda i: self.judged[i].candidate.checkpoint.parent):
            if len(places := list(group)) > 1:
                yield places


#: By pair and seed.
_Cases = Mapping[tuple[str, int], _Case]


@dataclass
class SelectionStudy:
    """Judges the runs of the trials with labels and without.

    Args:
        runs: Folder of the trials' results.
        out: Folder of tables and of what is known of each candidate.
        pairs: Names of pairs.
        seeds: Seeds.
        start: What the networks started from.
        strengths: Of the correction to equal shares, for networks that were trained plainly.
        statistics: Weights of the target's statistics of batch normalisation, for the last checkpoint of each run.
        number: Images of the target that criteria look at; the scores with labels are of all.
        size: Largest side of an image in pixels.
    """

    runs: Path
    out: Path
    pairs: Sequence[str] = ('gid5', 'dubai')
    seeds: Sequence[int] = (0, 1, 2)
    start: str = 'imagenet'
    strengths: Sequence[float] = (0.5, 1.0)
    statistics: Sequence[float] = (0.5, 1.0)
    number: int = 40
    size: int = 512

    def __post_init__(self) -> None:
        install()
        for pair in self.pairs:
            require_one_of('pair', pair, PAIRS)

    def run(self) -> str:
        """Judge what has not been judged; returns the tables, which are written to the folder too."""
        cases = {(pair, seed): self._case(pair, seed) for pair in self.pairs for seed in self.seeds}
        text = '\n'.join([_among(cases), _within(cases), _margins(cases)])
        write_text(text, self.out / 'study.md', overwrite=True)
        return text

    def candidates(self, pair: str, seed: int) -> list[Candidate]:
        """All of a pair and seed, those of the network of the source alone first.

        Raises:
            DataError: It has not been trained.
        """
        folders = sorted(self.runs.glob(f'{pair}/*_{self.start}_tau*/seed_{seed}'))
        first = self.runs / pair / f'source_only_{self.start}_tau0' / f'seed_{seed}'
        if first not in folders or not own_checkpoints(first):
            raise DataError(f'{first} has no checkpoint: run tools/analysis_tools/trials.py first')
        found: list[Candidate] = []
        for folder in [first, *(own for own in folders if own != first and not own.parent.name.endswith('_half'))]:
            checkpoints = own_checkpoints(folder)
            if not checkpoints or not _finished(folder, checkpoints[0]):
                continue
            strengths = self.strengths if folder.parent.name.endswith('_tau0') else ()
            found += find_candidates(checkpoints[:1], strengths, self.statistics)
            found += find_candidates(checkpoints[1:], strengths) if checkpoints[1:] else []
        return found

    def _case(self, pair: str, seed: int) -> _Case:
        candidates = self.candidates(pair, seed)
        selection = Selection(
            candidates, tuple(CRITERIA), 0.0, self.number, self.size, records=self.out / f'{pair}_{seed}'
        )
        judged = selection.judge()
        truth = [self._scores(selection, own) for own in track(candidates, 'labels', console=Console(stderr=True))]
        return _Case(
            judged,
            np.array([own['mIoU'] for own in truth]),
            np.array([own['accuracy'] for own in truth]),
            torch.tensor(list(selection.expected.values())),
        )

    def _scores(self, selection: Selection, candidate: Candidate) -> dict[str, float]:
        """Of all labelled images of the target, in the size in which the network sees them."""
        name = f'{pooch.file_hash(str(candidate.checkpoint))[:16]}_{candidate.statistics:g}'
        if candidate.statistics:  # of as many images as are looked at
            name += f'_{self.number}_{self.size}'
        file = self.out / 'scores' / f'{name}.json'
        known: dict[str, Any] = json.loads(file.read_text(encoding='utf-8')) if file.is_file() else {}
        if f'{candidate.strength:g}' not in known:
            with quiet_log():
                model = selection.model(candidate)
            strengths = [0.0, *self.strengths]
            shifts = [offsets_of(model, strength) for strength in strengths]
            classes = len(selection.expected)
            matrices = [torch.zeros(classes, classes, dtype=torch.int64) for _ in strengths]
            for sample, label in _labelled(load_config(selection.candidates[0].config)):
                (seen,) = observe(model, [sample])
                for matrix, shift in zip(matrices, shifts):
                    matrix += _matrix(label, (seen if shift is None else seen.shifted(shift)).label, classes)
            known = {f'{strength:g}': _summary(matrix) for strength, matrix in zip(strengths, matrices)}
            write_json(known, file, overwrite=True)
        return known[f'{candidate.strength:g}']


def _finished(folder: Path, checkpoint: Path) -> bool:
    config = next(folder.glob('*.py'))
    return number_of(checkpoint) == load_config(config).train_cfg.max_iters


def _labelled(config: Config) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Test images without labels, and these, ``(H, W)``, in the size of the images."""
    for sample in DATASETS.build(config.test_dataloader.dataset):
        known, shape = sample['data_samples'], sample['inputs'].shape[-2:]
        label = F.interpolate(known.gt_sem_seg.data[None].float(), shape, mode='nearest-exact')[0, 0]
        yield dict(inputs=sample['inputs'], data_samples=SegDataSample(metainfo=known.metainfo)), label.long()


def _matrix(label: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Counts of the pairs of a label, over the rows, and a prediction, ``(K, K)``."""
    height, width = label.shape
    known = (label >= 0) & (label < classes)
    places = label[known] * classes + predicted[:height, :width].cpu()[known]
    return torch.bincount(places, minlength=classes**2).view(classes, classes)


def _summary(matrix: Tensor) -> dict[str, float]:
    """Scores in percent; mIoU over the classes with a share of the labelled pixels that counts."""
    present = matrix.sum(1) >= PRESENT * matrix.sum()
    accuracy = matrix.diagonal().sum() / matrix.sum()
    return dict(mIoU=100 * agreement(matrix)[present].mean().item(), accuracy=100 * accuracy.item())


# Tables --------------------------------------------------------------------------------------------------------------


def _among(cases: _Cases) -> str:
    """Among all candidates of a pair and seed."""
    rows = []
    for (pair, seed), case in cases.items():
        for name in CRITERIA:
            margin = MARGIN if name == 'consistency' else 0.0
            best, chosen = int(case.truth.argmax()), case.chosen(name, margin)
            rows.append([
                pair, str(seed), name,
                *(f'{case.truth[i]:.1f} / {case.accuracy[i]:.1f}' for i in (0, chosen, best)),
                f'{case.truth[chosen] - case.truth[0]:+.1f}', f'{case.truth[chosen] - case.truth[best]:+.1f}',
                f'{_spearman(case.values(name), case.truth):.2f}', str(case.judged[chosen].candidate),
            ])  # fmt: skip
    for name in CRITERIA:
        own = [row for row in rows if row[2] == name]
        gains, losses = ([float(row[i]) for row in own] for i in (6, 7))
        rows.append(['**all**', '', name, '', '', '', f'**{np.mean(gains):+.1f}**, worst {min(gains):+.1f}',
                     f'{np.mean(losses):+.1f}', f'{np.mean([float(row[8]) for row in own]):.2f}', ''])  # fmt: skip
    header = [
        'pair',
        'seed',
        'criterion',
        'source only',
        'chosen',
        'best',
        'gain',
        'below the best',
        'Spearman',
        'it chose',
    ]
    title = 'Among all candidates, mIoU / overall accuracy in %; consistency has its margin, others none.'
    return f'{title}\n\n{markdown_table(header, rows)}'


def _within(cases: _Cases) -> str:
    """Among the checkpoints of each run, means over the runs of a pair."""
    rows = []
    for pair, name in itertools.product(dict.fromkeys(pair for pair, _ in cases), CRITERIA):
        found = []
        for case in (own for (other, _), own in cases.items() if other == pair):
            for places in case.runs():
                truth, values = case.truth[places], [case.values(name)[i] for i in places]
                found.append(
                    [truth[0], case.truth[case.chosen(name, 0.0, places)], truth.max(), _spearman(values, truth)]
                )
        if found:
            *means, correlation = np.nanmean(found, axis=0)
            rows.append([pair, name, str(len(found)), *(f'{own:.1f}' for own in means), f'{correlation:.2f}'])
    header = ['pair', 'criterion', 'runs', 'last', 'chosen', 'best', 'Spearman']
    return f'Among the checkpoints of one run, means over runs, mIoU in %.\n\n{markdown_table(header, rows)}'


def _margins(cases: _Cases) -> str:
    """The gain of the default at each margin, and at the one that is best on all other pairs."""

    def gains(margin: float, pairs: Sequence[str]) -> list[float]:
        own = [case for (pair, _), case in cases.items() if pair in pairs]
        return [float(case.truth[case.chosen('consistency', margin)] - case.truth[0]) for case in own]

    pairs = list(dict.fromkeys(pair for pair, _ in cases))
    rows = [
        [f'{m:g}', *(f'{np.mean(gains(m, [pair])):+.1f}, worst {min(gains(m, [pair])):+.1f}' for pair in pairs)]
        for m in _MARGINS
    ]
    if len(pairs) > 1:
        left_out = []
        for pair in pairs:
            others = [other for other in pairs if other != pair]
            means = [float(np.mean(gains(margin, others))) for margin in _MARGINS]
            best = [margin for margin, mean in zip(_MARGINS, means) if mean > max(means) - 1e-6]
            margin = best[(len(best) - 1) // 2]  # the middle of those that do as well
            left_out.append(f'{np.mean(gains(margin, [pair])):+.1f} at {margin:g}')
        rows.append(['chosen on the others', *left_out])
    title = 'Gain of consistency over the network of the source, by its margin.'
    return f'{title}\n\n{markdown_table(["margin", *pairs], rows)}'


def _spearman(values: Sequence[float], truth: np.ndarray) -> float:
    known = np.isfinite(values)
    ranks = [rankdata(own[known]) for own in (np.asarray(values), np.asarray(truth))]
    return float(np.corrcoef(*ranks)[0, 1]) if known.sum() > 1 and all(own.std() for own in ranks) else math.nan
