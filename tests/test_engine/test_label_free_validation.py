import json

import pytest
import torch

from mmrs.apis import train
from mmrs.evaluation.label_free import Consistency, observe
from mmrs.utils import ConfigError
from mmrs.utils.config import load_config
from tests.tiny_runs import quick_start, write_adaptation_config, write_clips, write_regression_config  # noqa: F401

SETTINGS = {'label_free_validation.criteria': ['consistency', 'entropy'], 'label_free_validation.number': 2}


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp('validation')
    return write_adaptation_config(root / 'base.py', write_clips(root / 'data', val=3))


def validations(folder):
    lines = [line for file in sorted(folder.glob('*/vis_data/scalars.json')) for line in file.read_text().splitlines()]
    return [record for record in map(json.loads, lines) if 'consistency' in record]


def test_scores_without_labels_stand_beside_those_with(config, tmp_path):
    options = {**SETTINGS, 'default_hooks.checkpoint.save_best': 'consistency', 'train_cfg.val_interval': 1}
    runner = train(config, tmp_path / 'run', cfg_options=options)
    first, last = validations(tmp_path / 'run')
    parts = [value for name, value in last.items() if name.startswith('consistency/')]
    assert len(parts) == 4
    assert last['consistency'] == pytest.approx(sum(parts) / 4)
    assert last['dead_classes'] in range(7)
    assert -2 < last['entropy'] < 0
    assert last['mIoU'] >= 0
    best = max((first, last), key=lambda record: record['consistency'])
    assert (tmp_path / 'run' / f'best_consistency_iter_{best["step"]}.pth').is_file()
    # What was logged is what the criterion says of the last network.
    loop = runner.val_loop
    chosen = list(loop._samples(2))
    assert sum(loop.expected.tolist()) == pytest.approx(1)
    criterion = Consistency(6)
    with torch.no_grad():
        for seen in observe(runner.model.eval(), chosen):
            criterion.update(seen)
        parts = {f'consistency/{name}': value for name, value in criterion.compute(torch.ones(6) / 6).parts.items()}
    assert set(parts) < set(last)
    assert loop.unlabelled_scores(99)['consistency'] == pytest.approx(last['consistency'], abs=1e-6)


def test_nothing_is_predicted_for_metrics_that_are_not_there(config, tmp_path, monkeypatch):
    options = {**SETTINGS, 'val_dataloader': None, 'val_evaluator': None, 'test_dataloader': None}
    runner = train(config, tmp_path / 'run', cfg_options=options)
    (last,) = validations(tmp_path / 'run')
    assert 'mIoU' not in last
    assert [step['type'] for step in runner.cfg.val_dataloader.dataset.pipeline] == [
        'LoadRasterImage',
        'PackRasterInputs',
    ]
    monkeypatch.setattr(runner.model, 'val_step', None)
    monkeypatch.setattr(type(runner.val_loop.dataloader), '__iter__', None)
    runner.val_loop.run()
    sample = runner.val_loop.dataloader.dataset[0]
    assert 'gt_sem_seg' not in sample['data_samples']
    assert 'img_dir/val' in sample['data_samples'].img_path


def test_a_validation_leaves_the_training_as_it_is(config, tmp_path):
    with_it, without = (
        train(config, tmp_path / name, cfg_options={**options, 'train_cfg.val_interval': 1}).model.state_dict()
        for name, options in (('with', SETTINGS), ('without', {}))
    )
    assert all(torch.equal(with_it[name], value) for name, value in without.items())


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        ({'label_free_validation': True}, r'label_free_validation is True'),
        ({'label_free_validation.criteria': ['sharpness']}, r'val_cfg\.criteria is .sharpness'),
        ({'label_free_validation.number': 0}, r'val_cfg\.number is 0'),
        ({**SETTINGS, 'default_hooks.checkpoint.save_best': 'mixval'}, r'save_best is .mixval.*consistency'),
    ],
)
def test_bad_settings(config, tmp_path, options, named):
    with pytest.raises(ConfigError, match=named):
        train(config, tmp_path / 'run', cfg_options=options)


def test_a_method_that_learns_from_pairs(tmp_path):
    """It has no labels to say which classes to expect, and its validation data are no images."""
    data = [write_clips(tmp_path / name, seed=seed) for seed, name in enumerate(('source', 'target'))]
    file = write_regression_config(tmp_path / 'base.py', *data)
    options = {**SETTINGS, 'default_hooks.checkpoint.save_best': 'consistency', 'default_hooks.checkpoint.rule': None}
    with pytest.raises(ConfigError, match=r'val_dataloader has a PairedDataset, which gives pairs'):
        train(file, tmp_path / 'pairs', cfg_options=options)
    runner = train(file, tmp_path / 'run', cfg_options={**options, 'val_dataloader': None, 'val_evaluator': None})
    (last,) = validations(tmp_path / 'run')
    assert 0 <= last['consistency'] <= 1
    assert 'dead_classes' not in last
    assert runner.cfg.val_cfg.expected is None


def test_shares_of_other_classes(config, tmp_path):
    runner = train(config, tmp_path / 'run', cfg_options=SETTINGS)
    runner.val_loop.expected = torch.ones(2) / 2
    with pytest.raises(ConfigError, match=r'expected has 2 shares, but the model has 6 classes'):
        runner.val_loop.run()


def test_images_without_a_target(config):
    with pytest.raises(ConfigError, match=r'val_dataloader, or a target in train_dataloader'):
        load_config(config.with_name('base.py'), {**SETTINGS, 'val_dataloader': None})
