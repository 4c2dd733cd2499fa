import pytest

from mmrs.apis.training import train
from mmrs.engine.hooks import DiscriminatorWatchHook
from mmrs.utils import ConfigError
from tests.tiny_runs import quick_start, write_adaptation_config, write_clips, write_config  # noqa: F401


class Hub(dict):
    """The part of MMEngine's message hub that the hook uses."""

    get_info = dict.get
    update_info = dict.__setitem__

    def get_scalar(self, key):
        value = self[key]
        return type('Buffer', (), dict(current=lambda _: value))()


class Runner:
    def __init__(self):
        self.message_hub, self.iter, self.lines = Hub(), 0, []
        self.logger = type('Logger', (), dict(warning=lambda _, line: self.lines.append(line)))()

    def feed(self, hook, accuracies, name='disc_accuracy_source'):
        for accuracy in accuracies:
            self.message_hub[f'train/{name}'] = accuracy
            hook.after_train_iter(self, self.iter, outputs={'loss': 1.0, name: accuracy})
            self.iter += 1
        lines, self.lines = self.lines, []
        return lines


def test_one_warning_for_each_long_time_at_an_end():
    runner, hook = Runner(), DiscriminatorWatchHook(margin=0.05, iterations=3)
    assert runner.feed(hook, [1.0, 0.96, 0.9, 0.95]) == []
    (line,) = runner.feed(hook, [1.0, 0.99, 1.0, 1.0, 1.0, 1.0])
    assert 'iteration 6: the discriminator source' in line
    assert '100 %' in line
    assert 'for 3 iterations in a row' in line
    assert 'lower optim_wrapper.discriminator.optimizer.lr' in line
    assert runner.feed(hook, [0.5, 1.0, 1.0]) == []
    assert len(runner.feed(hook, [1.0])) == 1


def test_the_other_end_has_another_meaning_and_its_own_count():
    runner, hook = Runner(), DiscriminatorWatchHook(margin=0.05, iterations=3)
    assert runner.feed(hook, [1.0, 1.0, 0.0, 0.05]) == []
    (line,) = runner.feed(hook, [0.0], 'disc_accuracy_source')
    assert 'an accuracy of 0 %' in line
    assert 'higher optim_wrapper.discriminator.optimizer.lr' in line


def test_discriminators_are_counted_apart():
    runner, hook = Runner(), DiscriminatorWatchHook(iterations=2)
    for source, target in ((1.0, 1.0), (0.5, 1.0)):
        runner.message_hub.update({'train/disc_accuracy_source': source, 'train/disc_accuracy_target': target})
        hook.after_train_iter(runner, 0, outputs=dict(disc_accuracy_source=source, disc_accuracy_target=target))
    (line,) = runner.lines
    assert 'discriminator target' in line


def test_a_number_that_is_none_is_at_no_end():
    runner, hook = Runner(), DiscriminatorWatchHook(iterations=2)
    assert runner.feed(hook, [1.0, float('nan'), 1.0]) == []


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [(dict(margin=0.5), 'margin is 0.5'), (dict(margin=-0.1), 'margin'), (dict(iterations=0), 'iterations is 0')],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ConfigError, match=message):
        DiscriminatorWatchHook(**arguments)


WATCH = """
default_hooks = dict(discriminator=dict(type='DiscriminatorWatchHook', margin=0.49, iterations={iterations}))
train_cfg = dict(max_iters={most}, val_interval=100)
"""


def test_a_run_counts_on_when_it_is_resumed(tmp_path, warned, monkeypatch):
    # Discriminators that are always right.
    monkeypatch.setattr('mmrs.models.losses.GANLoss.boundary', property(lambda self: _AlwaysRight()))
    config = write_adaptation_config(tmp_path / 'config.py', write_clips(tmp_path / 'data'))
    text = config.read_text()
    config.write_text(text + WATCH.format(iterations=4, most=3))
    runner = train(config, tmp_path / 'run', pretrained=False)
    assert runner.message_hub.get_info('discriminator_streaks') == dict(disc_accuracy_source=3, disc_accuracy_target=3)
    assert not any('the discriminator ' in line for line in warned)
    config.write_text(text + WATCH.format(iterations=4, most=5))
    train(config, tmp_path / 'run', pretrained=False, resume='auto')
    assert len([line for line in warned if 'iteration 4: the discriminator ' in line]) == 2
    assert len([line for line in warned if ': the discriminator ' in line]) == 2


class _AlwaysRight:
    """Compared with a score: real ones, which come first, are above, and fake ones below."""

    calls = 0

    def __lt__(self, score):
        _AlwaysRight.calls += 1
        return (score == score) if _AlwaysRight.calls % 2 else (score != score)


def test_a_model_without_discriminators_is_left_alone(tmp_path, warned):
    config = write_config(tmp_path / 'config.py', write_clips(tmp_path / 'data'))
    config.write_text(
        config.read_text()
        + WATCH.format(iterations=1, most=1)
        .replace('default_hooks = dict(', 'default_hooks.update(')
        .replace('train_cfg = dict(', 'train_cfg.update(')
    )
    runner = train(config, tmp_path / 'run', pretrained=False)
    assert runner.message_hub.get_info('discriminator_streaks') is None
    assert not any('discriminator' in line for line in warned)
