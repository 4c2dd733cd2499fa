"""A trial of what a training comes to later, which leaves no trace."""

import pytest
import rasterio
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from torch import nn

from mmrs.apis import train
from mmrs.registry import HOOKS, METRICS, MODELS, TRANSFORMS
from mmrs.utils.errors import ConfigError, DataError, OutputError
from mmrs.weights import read_checkpoint
from tests.conformance import changes, run_config, write_data
from tests.tiny_runs import quick_start, write_adaptation_config, write_clips, write_config, write_regression_config  # noqa: F401


@pytest.mark.parametrize('preflight', [True, False])
def test_the_gradients_of_a_step_that_has_begun_stay(tmp_path, preflight):
    data = write_data(tmp_path / 'data')
    for folder, resume in (('whole', None), ('resumed', str(tmp_path / 'whole' / 'iter_2.pth'))):
        config, _ = run_config('source only', data, tmp_path / 'config', iterations=3, accumulated=3)
        config.default_hooks.checkpoint.max_keep_ckpts = 9
        train(config, tmp_path / folder, preflight=preflight and resume is not None, resume=resume)
    assert changes(*(read_checkpoint(tmp_path / folder / 'iter_3.pth') for folder in ('whole', 'resumed'))) == set()


class Watch(Hook):
    """Notes what happens before the first iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        raise AssertionError('the training has begun')


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tiny')
    return write_config(folder / 'tiny.py', write_clips(folder / 'clips'))


def fails(tiny, tmp_path, kind, options, *texts, **arguments):
    """The error of a run that must end before its first iteration."""
    config = Config.fromfile(tiny)
    config.custom_hooks = [*config.get('custom_hooks', []), dict(type=Watch)]
    config.merge_from_dict(options)
    with pytest.raises(kind) as error:
        train(config, tmp_path / 'run', **arguments)
    for text in texts:
        assert text in str(error.value)
    assert not list((tmp_path / 'run').glob('**/*.pth'))


def test_without_it_the_training_begins(tiny, tmp_path):
    fails(tiny, tmp_path, AssertionError, {'default_hooks.checkpoint.save_best': 'mIoU'}, 'begun', preflight=False)


def test_labels_that_validation_does_not_have(tiny, tmp_path):
    options = {'val_dataloader.dataset.data_prefix': dict(_delete_=True, img_path='img_dir/val')}
    fails(tiny, tmp_path, ValueError, options, 'clip0.png has no label path')


SAVE_BEST, RULE = 'default_hooks.checkpoint.save_best', 'default_hooks.checkpoint.rule'
UNSCORED = {'val_dataloader': None, 'val_cfg': None, 'val_evaluator': None}


@pytest.mark.parametrize(
    ('options', 'texts'),
    [
        ({SAVE_BEST: 'mFscore', RULE: 'greater'}, ["save_best is 'mFscore'", 'aAcc, mIoU, mF1, mAcc']),
        ({SAVE_BEST: ['mIoU', 'mDice'], RULE: 'greater'}, ["save_best is 'mDice'", 'aAcc, mIoU, mF1, mAcc']),
        ({SAVE_BEST: 'mIoU', **UNSCORED}, ["save_best is 'mIoU'", 'val_dataloader']),
        ({SAVE_BEST: 'auto', **UNSCORED}, ["save_best is 'auto'", 'val_dataloader']),
        ({'custom_hooks': [dict(type=Watch), dict(type='EarlyStoppingHook', monitor='mDice', rule='greater')]},
         ["EarlyStoppingHook.monitor is 'mDice'"]),
        ({'param_scheduler': [dict(type='ReduceOnPlateauLR', monitor='mDice', rule='greater')]},
         ["ReduceOnPlateauLR.monitor is 'mDice'"]),
    ],
)  # fmt: skip
def test_a_score_that_no_metric_gives(tiny, tmp_path, options, texts):
    fails(tiny, tmp_path, ConfigError, options, *texts)


class Crooked(nn.Module):
    def forward(self):
        raise RuntimeError('a crooked\nfailure')


@METRICS.register_module()
class NeedsTwo(BaseMetric):
    """A user's score that one sample does not give."""

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        if len(results) < 2:
            raise ValueError('too few samples')
        return dict(spread=1.0)


def test_a_score_of_several_samples(tiny, tmp_path):
    config = Config.fromfile(tiny)
    config.val_evaluator = [dict(type='NeedsTwo', prefix='own')]
    config.default_hooks.checkpoint.save_best = 'own/spread'
    config.default_hooks.checkpoint.rule = 'greater'
    train(config, tmp_path)
    (log,) = tmp_path.glob('*/*.log')
    assert 'NeedsTwo of val_evaluator cannot score a single sample (ValueError: too few samples)' in log.read_text()
    assert list(tmp_path.glob('best_own_spread*'))


@TRANSFORMS.register_module()
class Crooks(BaseTransform):
    """A transform of the user's own, with a mistake in it."""

    def transform(self, results):
        return results['no such key']


def test_the_transform_that_fails_is_named(tiny, tmp_path):
    pipeline = [dict(type='LoadRasterImage'), dict(type='Crooks')]
    for part, what in (('train', 'a training batch'), ('val', 'a validation sample')):
        options = {f'{part}_dataloader.dataset.pipeline': pipeline}
        fails(tiny, tmp_path, ConfigError, options, f'{what} fails in Crooks of the pipeline: KeyError', overwrite=True)


@MODELS.register_module()
class CrookedHead(MODELS.get('mmseg.SegformerHead')):  # type: ignore[misc]
    """Fails where it is told to."""

    fails_in = 'train'

    def __init__(self, fails_in, **kwargs):
        super().__init__(**kwargs)
        self.fails_in = fails_in
        self.crooked = Crooked()

    def forward(self, inputs):
        if (self.fails_in == 'train') == self.training:
            self.crooked()
        return super().forward(inputs)


@pytest.mark.parametrize(('mode', 'what'), [('train', 'a training batch'), ('val', 'a validation sample')])
def test_the_part_of_the_model_that_fails_is_named(tiny, tmp_path, mode, what):
    options = {'model.decode_head.type': 'CrookedHead', 'model.decode_head.fails_in': mode}
    expected = f'{what} fails in model.decode_head.crooked (Crooked): RuntimeError: a crooked failure'
    fails(tiny, tmp_path, ConfigError, options, expected)


@HOOKS.register_module()
class FullDisk(Hook):
    """A storage that takes no more."""

    def before_save_checkpoint(self, runner, checkpoint):
        raise OSError(28, 'No space left on device')


def test_a_checkpoint_that_cannot_be_written(tiny, tmp_path):
    options = {'custom_hooks': [dict(type=Watch), dict(type='FullDisk')]}
    fails(tiny, tmp_path, OutputError, options, 'cannot be written', 'No space left')
    assert not list((tmp_path / 'run').glob('.*'))


def test_a_training_image_that_is_no_image(tmp_path):
    data = write_clips(tmp_path / 'clips', train=1)
    (data / 'img_dir' / 'train' / 'clip0.png').write_text('no image')
    fails(write_config(tmp_path / 'tiny.py', data), tmp_path, DataError, {}, 'clip0.png cannot be read')


def test_16_bits_through_a_transform_for_8(tmp_path):
    data = write_clips(tmp_path / 'clips')
    for path in sorted(data.glob('img_dir/*/*.png')):
        with rasterio.open(path) as image:
            pixels = image.read().astype('uint16') * 39
        path.unlink()
        profile = dict(driver='GTiff', count=3, height=pixels.shape[1], width=pixels.shape[2], dtype='uint16')
        with rasterio.open(path.with_suffix('.tif'), 'w', **profile) as image:
            image.write(pixels)
    pipeline = [dict(type='LoadRasterImage'), dict(type='PhotoMetricDistortion'), dict(type='PackSegInputs')]
    options = {'train_dataloader.dataset.target.pipeline': pipeline}
    file = write_adaptation_config(tmp_path / 'tiny.py', data)
    fails(file, tmp_path, ConfigError, options, '.tif is loaded as float32', 'PhotoMetricDistortion')


def test_a_transfer_is_tried_before_its_reference_is_trained(tmp_path):
    data = [write_clips(tmp_path / name, seed=i) for i, name in enumerate(('source', 'target'))]
    file = write_regression_config(tmp_path / 'tiny.py', *data)
    config = Config.fromfile(file)
    config.model.feature_cache = str(tmp_path / 'cache')
    config.default_hooks.checkpoint.save_best = 'mIoU'
    own = tmp_path / 'run' / 'preflight' / 'notes.txt'  # of the user
    own.parent.mkdir(parents=True)
    own.write_text('mine')
    with pytest.raises(ConfigError, match=r"save_best is 'mIoU'.*regression/loss"):
        train(config, tmp_path / 'run')
    assert list((tmp_path / 'run').iterdir()) == [own.parent]
    assert own.read_text() == 'mine'
    config = Config.fromfile(file)
    config.model.feature_cache = str(tmp_path / 'cache')
    train(config, tmp_path / 'run')
    train(config, tmp_path / 'plain', preflight=False)
    assert not (tmp_path / 'run' / '.preflight').exists()
    one, other = (read_checkpoint(tmp_path / name / 'iter_2.pth') for name in ('run', 'plain'))
    assert changes(one['state_dict'], other['state_dict']) == set()
