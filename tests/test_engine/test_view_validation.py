from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub, MMLogger

from mmrs.engine.hooks import CollapseWatchHook
from mmrs.engine.view_validation import effective_rank, view_recall
from mmrs.models.losses.contrast import spread
from mmrs.utils.errors import ConfigError


def test_the_rank_of_directions_that_are_known():
    for rank in (1, 3, 5):
        rows = torch.eye(6)[:rank].double() * 4
        assert effective_rank(torch.cat([rows, -rows])) == pytest.approx(rank)
    assert effective_rank(torch.ones(4, 3)) == pytest.approx(1)  # all is one: no direction at all
    values = np.array([4.0, 1.0])  # of directions that are not of one length
    shares = values / values.sum()
    rows = torch.tensor([[4.0, 0], [-4, 0], [0, 1], [0, -1]])
    assert effective_rank(rows) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_recall_and_spread_by_hand():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 12, 5)) + 3
    centred = features - features.mean((0, 1))
    first, second = centred / np.linalg.norm(centred, axis=-1, keepdims=True)
    hits = [np.argmax(second @ row) == i for i, row in enumerate(first)]
    hits += [np.argmax(first @ row) == i for i, row in enumerate(second)]
    assert 0 < np.mean(hits) < 1
    assert view_recall(torch.from_numpy(features)) == pytest.approx(np.mean(hits))
    assert spread(torch.from_numpy(first)).item() == pytest.approx(first.std(0).mean() * 5**0.5)
    assert spread(torch.ones(4, 2) / 2**0.5) == 0


def test_a_collapse_is_told_once_each_time_that_it_comes(logged):
    hub = MessageHub.get_instance('collapse')
    runner = SimpleNamespace(message_hub=hub, logger=MMLogger.get_current_instance(), iter=0)
    hook = CollapseWatchHook(least=0.1, iterations=3)
    for runner.iter, value in enumerate([0.05] * 2 + [0.5] + [0.05] * 5 + [0.2] + [0.0] * 3):
        hub.update_scalar('train/share_spread_local', value)
        CollapseWatchHook.after_train_iter(hook, runner, 0, None, {'share_spread_local': torch.tensor(value)})
        hook = CollapseWatchHook(least=0.1, iterations=3)  # as after a resume
    told = [record.getMessage() for record in logged.records if 'collapsed' in record.getMessage()]
    assert [text.split(':')[0] for text in told] == ['iteration 6', 'iteration 12']
    assert 'model.local_loss.temperature' in told[0]


@pytest.mark.parametrize('arguments', [dict(least=-1), dict(iterations=0)])
def test_settings_out_of_range(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        CollapseWatchHook(**arguments)
