from types import SimpleNamespace

import pytest
from mmengine.model import MMDistributedDataParallel

from mmrs.engine.hooks import TeacherEMAHook
from mmrs.utils import ConfigError


class Recorder:
    def __init__(self):
        self.alphas = []

    def update_teacher(self, alpha):
        self.alphas.append(alpha)


def alphas(hook, iterations, model=None):
    model = model or Recorder()
    for i in iterations:
        hook.before_train_iter(SimpleNamespace(iter=i, model=model), 0, None)
    return model.alphas


def test_alpha_follows_the_runner():
    assert alphas(TeacherEMAHook(0.9), [0, 1, 2, 9, 100]) == pytest.approx([0, 1 / 2, 2 / 3, 0.9, 0.9])


def test_a_resumed_run_goes_on_where_it_stopped():
    assert alphas(TeacherEMAHook(0.999), [500, 501]) == pytest.approx([1 - 1 / 501, 1 - 1 / 502])


def test_a_run_may_bring_its_own_teacher():
    assert alphas(TeacherEMAHook(copy_at_start=False), [0, 1]) == [0.5]
    assert alphas(TeacherEMAHook(0.9, warm_up=False), [0, 1, 2, 99]) == [0, 0.9, 0.9, 0.9]


def test_wrapped_models_are_unwrapped():
    wrapper = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    recorder = Recorder()
    wrapper.__dict__['_modules'] = {'module': recorder}
    TeacherEMAHook().before_train_iter(SimpleNamespace(iter=1, model=wrapper), 0, None)
    assert recorder.alphas == [0.5]


def test_decay_out_of_range():
    with pytest.raises(ConfigError, match='decay is 1'):
        TeacherEMAHook(decay=1)
