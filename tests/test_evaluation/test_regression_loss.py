import re

import pytest
from mmengine.config import Config

from mmrs.registry import METRICS
from mmrs.utils import ConfigError, DataError
from tests.tiny_runs import REPOSITORY


def evaluated(*losses):
    metric = METRICS.build(dict(type='RegressionLoss'))
    metric.process({}, [{} if loss is None else dict(regression_losses=loss) for loss in losses])
    return metric.evaluate(size=len(losses))


def test_mean_of_the_pairs_that_have_something_in_common():
    found = evaluated(dict(stage4=1.0, loss=3.0), None, dict(stage4=2.0, loss=4.0))
    assert found == {'regression/stage4': 1.5, 'regression/loss': 3.5}


def test_a_diverged_student_is_not_left_out():
    assert evaluated(dict(loss=float('nan')), dict(loss=1.0))['regression/loss'] != 1


def test_no_pair_with_anything_in_common():
    with pytest.raises(DataError, match='none of the held-out pairs'):
        evaluated(None, None)


def test_images_that_are_no_pairs():
    with pytest.raises(ConfigError, match='RegressionLoss needs pairs'):
        METRICS.build(dict(type='RegressionLoss')).process({}, [dict(pred_sem_seg=None)])


def test_validation_is_logged_as_it_is():
    """Not as a mean over several validations, which losses of training are."""
    pattern = Config.fromfile(REPOSITORY / 'configs/_base_/default_runtime.py').log_processor.mean_pattern
    assert re.search(pattern, 'loss_stage4')
    assert re.search(pattern, 'decode.acc_seg')
    assert not re.search(pattern, 'regression/loss')
