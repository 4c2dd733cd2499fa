import math
import shutil

import numpy as np
import pytest
import torch

from mmrs.apis import train
from mmrs.apis.selection import Candidate, Judged
from mmrs.apis.testing import evaluate
from mmrs.evaluation.label_free import CRITERIA, Score
from mmrs.studies import selection_study as module
from mmrs.studies.selection_study import SelectionStudy
from mmrs.utils.errors import ConfigError, DataError
from tests.tiny_runs import quick_start, write_adaptation_config, write_clips, write_config  # noqa: F401


def case(consistency, truth, folders):
    """Candidates whose criteria are all worth the same."""
    judged = []
    for i, (value, folder) in enumerate(zip(consistency, folders)):
        score = Score(value, value, None, dict(inter=value, intra=value))
        own = Candidate(folder / 'c.py', folder / f'iter_{9 - i}.pth')
        judged.append(Judged(own, (0.5, 0.5), dict.fromkeys(CRITERIA, score)))
    truth = np.array(truth)
    return module._Case(judged, truth, truth + 20, torch.tensor([0.5, 0.5]))


def test_tables(tmp_path):
    first, second = tmp_path / 'a', tmp_path / 'b'
    folders = [first, first, second, second]
    cases = {
        ('gid5', 0): case([0.5, 0.4, 0.7, 0.6], [40.0, 42.0, 50.0, 55.0], folders),
        ('dubai', 0): case([0.5, 0.4, 0.55, 0.3], [50.0, 49.0, 45.0, 47.0], folders),
    }
    rows = {}
    for line in module._among(cases).splitlines()[4:]:
        pair, _, criterion, *row = [cell.strip() for cell in line.strip('|').split('|')]
        rows[pair, criterion] = row
    # Consistency alone has a margin, which keeps Dubai's first.
    assert rows['gid5', 'consistency'][:6] == ['40.0 / 60.0', '50.0 / 70.0', '55.0 / 75.0', '+10.0', '-5.0', '0.60']
    assert rows['dubai', 'consistency'][3:6] == ['+0.0', '+0.0', '-0.20']
    assert rows['dubai', 'entropy'][3] == '-5.0'
    assert rows['**all**', 'consistency'][3] == '**+5.0**, worst +0.0'
    within = next(line for line in module._within(cases).splitlines() if line.startswith('| gid5 | consistency |'))
    # Last, chosen and best, of the runs a (40, 40, 42) and b (50, 50, 55).
    assert within == '| gid5 | consistency | 2 | 45.0 | 45.0 | 48.5 | -1.00 |'
    margins = {line.split('|')[1].strip(): line for line in module._margins(cases).splitlines()[2:]}
    assert '+10.0' in margins['0.08']
    assert '-5.0' in margins['0.04']
    # The middle of those that do best on the other pair: of 0.06 to 0.2 on Dubai, of 0 to 0.15 on GID-5.
    others = [cell.strip() for cell in margins['chosen on the others'].split('|')[2:4]]
    assert others == [
        '+10.0 at 0.1',
        '+0.0 at 0.06',
    ]


def test_scores_by_hand():
    label = torch.tensor([[0, 1, 1], [2, 255, 0]])
    predicted = torch.tensor([[0, 1, 0, 9], [1, 1, 0, 9], [9, 9, 9, 9]])
    matrix = module._matrix(label, predicted, 3)
    assert matrix.tolist() == [[2, 0, 0], [1, 1, 0], [0, 1, 0]]
    summary = module._summary(matrix)
    assert summary['mIoU'] == pytest.approx(100 * (2 / 3 + 1 / 3 + 0) / 3)
    assert summary['accuracy'] == pytest.approx(100 * 3 / 5)
    # A class of one pixel in a thousand does not count.
    rare = torch.tensor([[999, 0], [1, 0]])
    assert module._summary(rare)['mIoU'] == pytest.approx(99.9)
    assert math.isnan(module._spearman([1.0, 1.0], np.array([1.0, 2.0])))


@pytest.mark.slow
def test_study_of_runs(tmp_path, monkeypatch):
    data = write_clips(tmp_path / 'data')
    runs = tmp_path / 'trials' / 'gid5'
    for name, config in (
        ('source_only_imagenet_tau0', write_config(tmp_path / 'plain.py', data)),
        ('st_dasegnet_imagenet_tau0', write_adaptation_config(tmp_path / 'base.py', data)),
    ):
        halved = [{'type': 'Resize', 'scale_factor': 0.5}, {'type': 'LoadRasterAnnotations'}, {'type': 'PackSegInputs'}]
        pipeline = {'test_dataloader.dataset.pipeline': [{'type': 'LoadRasterImage'}, *halved]}
        train(config, runs / name / 'seed_0', cfg_options={'val_dataloader': None, **pipeline})
    study = SelectionStudy(tmp_path / 'trials', tmp_path / 'out', ['gid5'], [0], number=2, strengths=[1.0])
    candidates = study.candidates('gid5', 0)
    # The last of each run in four variants, the one before in two.
    assert len(candidates) == 2 * (3 * 2 + 2)
    assert candidates[0].checkpoint == runs / 'source_only_imagenet_tau0' / 'seed_0' / 'iter_2.pth'
    text = study.run()
    assert text == (tmp_path / 'out' / 'study.md').read_text()
    assert '| gid5 | 0 | consistency |' in text
    scores = study._case('gid5', 0)
    plain = next(runs.glob('source*/seed_0/plain.py'))
    expected = evaluate(plain, candidates[0].checkpoint, work_dir=tmp_path / 'test')
    assert scores.accuracy[0] == pytest.approx(expected['aAcc'], abs=1)
    monkeypatch.setattr(module.Selection, 'model', None)  # nothing is done twice
    assert study.run() == text
    shutil.rmtree(runs / 'source_only_imagenet_tau0')
    with pytest.raises(DataError, match='source_only_imagenet_tau0'):
        study.candidates('gid5', 0)
    with pytest.raises(ConfigError, match='gid9'):
        SelectionStudy(tmp_path, tmp_path, ['gid9'])
