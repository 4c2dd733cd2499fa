import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from mmrs.apis import selection as selection_module
from mmrs.apis import train
from mmrs.apis.class_prior import PriorOptions
from mmrs.apis.inference import init_model
from mmrs.apis.selection import Candidate, Judged, Selection, find_candidates, target_crops
from mmrs.evaluation.label_free import Score, observe
from mmrs.evaluation.label_free.choice import Choice
from mmrs.models.batch_statistics import running_norms
from mmrs.utils import ConfigError
from mmrs.utils.config import load_config
from mmrs.weights import read_checkpoint, state_dict_of
from tests.tiny_runs import quick_start, write_adaptation_config, write_clips, write_config  # noqa: F401
from tools.analysis_tools import select_checkpoint


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A network trained on the source, and an adapted one; two iterations each."""
    root = tmp_path_factory.mktemp('runs')
    data = write_clips(root / 'data', val=5)
    folders = []
    for config in (write_config(root / 'plain.py', data), write_adaptation_config(root / 'base.py', data)):
        folders.append(root / config.stem)
        train(config, folders[-1], cfg_options={'randomness.seed': 0})
    for file in (data / 'ann_dir' / 'val').iterdir():  # of the target there are no labels
        file.unlink()
    return folders


@pytest.fixture
def selection(runs, tmp_path):
    def build(**settings):
        known = dict(candidates=find_candidates(runs, [0.5]), records=tmp_path / 'selection')
        return Selection(number=3, size=48, device='cpu', **known | settings)

    return build


def test_candidates_are_the_checkpoints_the_last_one_first(runs):
    found = find_candidates(runs, [0.5, 1])
    assert [(own.checkpoint.name, own.strength) for own in found[:6]] == [
        (name, strength) for name in ('iter_2.pth', 'iter_1.pth') for strength in (0.0, 0.5, 1.0)
    ]
    assert [own.config.name for own in found[::6]] == ['plain.py', 'adapted_base.py']
    assert str(found[1]) == f'{runs[0].parent.name}/plain/iter_2.pth, equal shares 0.5'
    only, again = runs[0] / 'iter_1.pth', runs[0]
    assert len(find_candidates([only, again])) == 2


def test_what_is_no_candidate(runs, tmp_path):
    with pytest.raises(ConfigError, match=r'no checkpoint was found'):
        find_candidates([tmp_path])
    with pytest.raises(ConfigError, match=r'no checkpoint was found'):
        find_candidates([tmp_path / 'iter_9.pth'])
    (tmp_path / 'iter_1.pth').write_bytes(b'')
    with pytest.raises(ConfigError, match=r'has 0 configurations'):
        find_candidates([tmp_path])
    with pytest.raises(ConfigError, match=r'strengths'):
        find_candidates(runs, [2])


def test_crops_are_drawn_by_a_seed(runs):
    config = load_config(runs[1] / 'adapted_base.py')
    first, again, other = (target_crops([config], 3, 40, seed) for seed in (0, 0, 1))
    assert [crop['inputs'].shape for crop in first] == [(3, 40, 40)] * 3
    assert all(torch.equal(a['inputs'], b['inputs']) for a, b in zip(first, again))
    assert not all(torch.equal(a['inputs'], b['inputs']) for a, b in zip(first, other))
    paths = [crop['data_samples'].img_path for crop in first]
    assert len(set(paths)) == 3
    assert all('img_dir/val' in path for path in paths)
    assert len(target_crops([config], 99, 500)) == 5
    assert 'gt_sem_seg' not in first[0]['data_samples']


def test_images_that_no_training_has_seen_come_first(runs):
    plain, adapted = (load_config(runs[i] / name) for i, name in enumerate(('plain.py', 'adapted_base.py')))
    adapted.train_dataloader.dataset.target.ann_file = 'seen.txt'
    (Path(adapted.train_dataloader.dataset.target.data_root) / 'seen.txt').write_text('clip0\nclip1\nclip3\n')

    def names(configs, number):
        return [Path(crop['data_samples'].img_path).stem for crop in target_crops(configs, number, 40)]

    assert names([plain, adapted], 2) == ['clip2', 'clip4']
    assert names([adapted], 4)[:2] == ['clip2', 'clip4']
    assert sorted(names([adapted], 9)) == sorted(names([plain], 9)) == [f'clip{i}' for i in range(5)]
    adapted.val_dataloader = adapted.test_dataloader = None
    assert names([adapted], 9) == ['clip0', 'clip1', 'clip3']


def test_crops_are_as_large_as_a_test_sees_them(runs):
    config = load_config(runs[1] / 'adapted_base.py')
    config.val_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale_factor=0.5, keep_ratio=True))
    assert {crop['inputs'].shape for crop in target_crops([config], 5, 500)} == {(3, 32, 32)}


def test_a_configuration_of_one_domain_has_its_target_in_the_test(runs):
    config = load_config(runs[0] / 'plain.py')
    config.val_dataloader.dataset.data_prefix.img_path = 'img_dir/train'  # of the source
    assert 'img_dir/val' in target_crops([config], 1, 40)[0]['data_samples'].img_path
    config.val_dataloader, config.test_dataloader = config.test_dataloader, None
    assert 'img_dir/val' in target_crops([config], 1, 40)[0]['data_samples'].img_path
    config.val_dataloader.dataset.pipeline[0] = dict(type='LoadImageFromFile')
    with pytest.raises(ConfigError, match=r'LoadImageFromFile.*LoadRasterImage was expected'):
        target_crops([config], 1, 40)
    config.val_dataloader = None
    with pytest.raises(ConfigError, match='no data set of the target'):
        target_crops([config], 1, 40)


def test_candidates_of_other_classes(selection, monkeypatch):
    shares = dict.fromkeys(('road', 'roof'), 0.5)
    monkeypatch.setattr('mmrs.apis.selection.label_shares', lambda config: shares)
    with pytest.raises(
        ConfigError, match=r'has the classes impervious_surface.*, but .*plain/iter_2.pth has road, roof'
    ):
        selection().judge()


def test_what_is_seen_is_what_is_predicted(runs):
    """A shifted view is what the model says once its prior has been changed; sources have statistics of their own."""
    options = {'model.data_preprocessor.source_mean': [90.0] * 3, 'model.data_preprocessor.source_std': [30.0] * 3}
    model = init_model(runs[1] / 'adapted_base.py', runs[1] / 'iter_2.pth', 'cpu', options)
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 64, 96), np.uint8))
    sample = SegDataSample(metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96)))
    sample.valid_map = PixelData(data=torch.arange(96).expand(1, 64, 96) > 10)
    crop = dict(inputs=image, data_samples=sample)
    prior = PriorOptions('uniform', 1.0).resolve(model.cfg, model.dataset_meta['classes'])
    (seen,), (of_source,) = observe(model, [crop]), observe(model, [crop], 'source')
    valid = seen.valid
    assert valid.sum() == 64 * 85
    assert (seen.image[:, ~valid] == 0).all()
    expected = (image - torch.tensor([90.0])) / 30
    torch.testing.assert_close(of_source.image[:, valid], expected[:, valid])

    def predicted():
        batch = dict(inputs=[image], data_samples=[sample.clone()])
        with torch.no_grad():
            return model.test_step(batch)[0].seg_logits.data.softmax(0)

    torch.testing.assert_close(seen.probability, predicted(), rtol=0, atol=1e-5)
    view = seen.shifted(torch.tensor(prior.offsets))
    moved, asked = view.under('shift'), view.predict(seen.image)
    PriorOptions('uniform', 1.0).apply(model, model.cfg, model.dataset_meta['classes'])
    torch.testing.assert_close(view.probability, predicted(), rtol=0, atol=1e-5)
    (again,) = observe(model, [crop])
    torch.testing.assert_close(moved, again.under('shift'), rtol=0, atol=1e-5)
    torch.testing.assert_close(asked, again.probability, rtol=0, atol=1e-5)
    assert torch.equal(view.features, seen.features)


def test_what_a_test_pads_is_not_looked_at(runs):
    options = {'model.data_preprocessor.test_cfg': dict(size_divisor=32)}
    model = init_model(runs[0] / 'plain.py', runs[0] / 'iter_2.pth', 'cpu', options)
    image = torch.zeros(3, 40, 50, dtype=torch.uint8)
    (seen,) = observe(model, [dict(inputs=image, data_samples=SegDataSample())])
    assert seen.image.shape == (3, 64, 64)
    assert seen.valid.sum() == 40 * 50
    assert seen.valid[:40, :50].all()


def test_what_is_known_of_a_candidate_is_kept(selection, runs, monkeypatch):
    judged = selection().judge()
    assert len(judged) == 8
    for own in judged:
        assert sum(own.shares) == pytest.approx(1)
        assert set(own.scores) == set(selection().criteria)
    asked = []
    build = Selection._judge
    monkeypatch.setattr(Selection, '_judge', lambda self, group: asked.append(group) or build(self, group))
    again = selection().judge()
    assert asked == []
    for own, other in zip(judged, again):
        assert list(own.shares) == list(other.shares)
        for name, score in own.scores.items():
            assert other.scores[name].value == pytest.approx(score.value, nan_ok=True)
            assert dict(other.scores[name].parts) == pytest.approx(dict(score.parts), nan_ok=True)
    for image in (runs[0].parent / 'data/img_dir/val').iterdir():
        os.utime(image, (1, 1))  # other files of the same names
    selection().judge()
    assert len(asked) == 4
    asked.clear()
    loaded = []
    load = selection_module.target_crops
    monkeypatch.setattr(
        selection_module, 'target_crops', lambda configs, *own: loaded.append(configs) or load(configs, *own)
    )
    selection(seed=1).judge()
    assert len(asked) == 4
    (configs,) = loaded  # all see the same images, loaded once
    assert [Path(config.filename).name for config in configs] == ['plain.py', 'adapted_base.py']


@pytest.mark.parametrize('weight', [0.3, 1.0])
def test_statistics_of_the_target(selection, runs, weight):
    """What is judged is what the saved checkpoint predicts, which a long way round gives too."""
    own = selection(candidates=find_candidates(runs[:1], [0.5], [weight]))
    judged = {(c.candidate.checkpoint.name, c.candidate.statistics, c.candidate.strength): c for c in own.judge()}
    assert len(judged) == 8
    adapted = judged['iter_2.pth', weight, 0.5]
    entropies = {place: known.scores['entropy'].plain for place, known in judged.items()}
    assert len(set(entropies.values())) == 8
    assert str(adapted.candidate).endswith(f"iter_2.pth, target's statistics {weight:g}, equal shares 0.5")
    choice = Choice(list(own.candidates).index(adapted.candidate), 'adapted', 0.1)
    own.save(own.judge(), choice, [None] * 8, '')
    found = json.loads((own.records / 'selection.json').read_text())
    assert (found['statistics'], found['strength']) == (weight, 0.5)
    assert own.prediction(adapted.candidate)[3] == found['checkpoint'] == str(own.records / 'iter_2_statistics.pth')
    again = selection(candidates=[Candidate(adapted.candidate.config, Path(found['checkpoint']), 0.5)], records=None)
    assert again.judge()[0].scores['entropy'].plain == pytest.approx(adapted.scores['entropy'].plain, rel=1e-5)
    # Over a single layer, the first: its statistics are those of the images through the layer before.
    crops = target_crops([load_config(adapted.candidate.config)], 3, 48, seed=1)
    model = init_model(adapted.candidate.config, adapted.candidate.checkpoint, 'cpu')
    name, first = next(iter(running_norms(model).items()))
    values, kept = [], first.running_mean.clone()
    first.register_forward_pre_hook(lambda layer, inputs: values.append(inputs[0].double()))
    for seen in observe(model, crops):
        seen.predict(seen.image)
    mean = torch.cat([value.flatten(2) for value in values], 2).mean((0, 2))
    saved = state_dict_of(read_checkpoint(found['checkpoint']), '')[f'{name}.running_mean']
    torch.testing.assert_close(saved.double(), (1 - weight) * kept.double() + weight * mean, rtol=1e-4, atol=1e-5)


def test_choice_in_words(selection):
    own = selection()
    names = [str(candidate) for candidate in own.candidates]
    shares = list(own.expected.values())
    judged = [Judged(candidate, shares, {}) for candidate in own.candidates]
    little, less, adapted, none = (own.sentence(judged, choice, [None]) for choice in [
        Choice(0, 'kept', 0.031), Choice(0, 'kept', -0.2), Choice(3, 'adapted', 0.1), Choice(0, 'none', math.nan)
    ])  # fmt: skip
    assert len({little, less, adapted, none}) == 4
    assert all(names[0] in text for text in (little, less, adapted, none))
    assert names[3] in adapted
    assert '0.100' in adapted
    assert '0.031' in little
    assert '0.08' in little
    assert 'died long ago' in own.sentence(judged, Choice(3, 'adapted', 0.1), ['died long ago'])
    assert 'hardly any' not in little
    judged[3] = Judged(own.candidates[3], [0, *shares[1:]], {})
    assert 'hardly any impervious_surface' in own.sentence(judged, Choice(3, 'adapted', 0.1), [None])


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        (dict(criteria=['sharpness']), 'sharpness'),
        (dict(criteria=['mixval', 'entropy']), 'mixval'),
        (dict(margin=-1), 'margin'),
        (dict(number=0), 'number'),
    ],
)
def test_bad_settings(runs, settings, named):
    with pytest.raises(ConfigError, match=named):
        Selection(find_candidates(runs), **settings)


def test_tool(runs, tmp_path, capsys, monkeypatch):
    out = tmp_path / 'out'
    arguments = [*map(str, runs), '--strengths', '1', '--number', '2', '--size', '40', '-o', str(out)]
    assert select_checkpoint.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.count('| plain/') + printed.count('/plain/iter_') >= 4
    found = json.loads((out / 'selection.json').read_text())
    assert found['verdict'] in ('kept', 'adapted')
    assert len(found['candidates']) == 8
    assert (out / 'selection.md').read_text() == printed
    if found['verdict'] == 'kept':
        assert found['checkpoint'] == str(runs[0] / 'iter_2.pth')

    def dead(self):
        scores = {name: Score(math.nan, math.nan) for name in self.criteria}
        return [type(own)(own.candidate, own.shares, scores) for own in judge(self)]

    judge = Selection.judge
    monkeypatch.setattr(Selection, 'judge', dead)
    assert select_checkpoint.main(arguments) == 1
    assert 'classes died in all' in capsys.readouterr().out


def test_images_of_real_bands_and_sizes(tmp_path):
    """Images that are smaller than a crop, and a configuration's own loader of bands."""
    data = write_clips(tmp_path / 'data', val=1)
    Image.new('RGB', (32, 40)).save(data / 'img_dir' / 'val' / 'clip0.png')
    config = load_config(write_config(tmp_path / 'c.py', data))
    (crop,) = target_crops([config], 9, 100)
    assert crop['inputs'].shape == (3, 40, 32)


def test_teachers_that_are_whole_networks_are_asked():
    images = torch.rand(3, 2, 8, 8)

    class Teacher(torch.nn.Module):
        backbone = torch.nn.Identity()

        def logits(self, images):
            return -images

    class Model(torch.nn.Module):
        def __init__(self, teacher):
            super().__init__()
            self.weight, self.teacher = torch.nn.Parameter(torch.zeros(1)), teacher

        def inference(self, images, metas):
            return images

        def data_preprocessor(self, batch):
            return dict(inputs={domain: own['inputs'] for domain, own in batch.items()})

    crops = [dict(inputs=image, data_samples=SegDataSample()) for image in images]
    for teacher, factor in ((Teacher(), -1), (torch.nn.Identity(), 1), (None, 1)):
        for seen, image in zip(observe(Model(teacher), crops), images):
            torch.testing.assert_close(seen.taught, (factor * image).softmax(0))
