import itertools
import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rich.console import Console

from mmrs.apis import compare
from mmrs.apis.compare import plan_runs
from mmrs.studies import trials as module
from mmrs.studies.trials import PAIRS, Trials
from mmrs.utils.errors import ConfigError, DataError, UserError

SOURCE_ONLY = {0: 40.0, 1: 44.0}


class Tools:
    """Stands in for train.py and test.py: runs of two iterations whose score is told by method, tau and seed."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []

    def __call__(self, tool, arguments, log, poll=None, interval=1.0):
        self.calls.append((tool, list(arguments)))
        after = {key: value for key, value in itertools.pairwise(arguments) if key.startswith('--')}
        folder = Path(after['--work-dir'])
        if tool == 'test.py':
            score = 50 + 10 * float(after['--prior-strength'])
            folder.mkdir(parents=True)
            Path(after['--metrics']).write_text(json.dumps({'mIoU': score, 'aAcc': None, 'IoU.water': score}))
            return 0
        options = dict(text.split('=', 1) for text in arguments[arguments.index('--cfg-options') + 1 :])
        iterations = int(options.get('train_cfg.max_iters', 300 if '--schedule' in after else 600))
        score = SOURCE_ONLY[int(options.get('randomness.seed', 0))] + 8 * float(options.get('class_prior.tau', 0))
        score += 3 * ('st_dasegnet' in folder.parent.name) + 2 * int(options.get('labelled_images.number', 0))
        records = [
            dict(step=i, loss=1.0, time=0.2 + 0.05 * (i > 1), confident_share=0.5, disc_accuracy_source=0.6)
            for i in range(1, 5)
        ]
        records.append({'mIoU': score, 'aAcc': 70.0, 'IoU.water': score, 'step': iterations})
        file = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
        file.parent.mkdir(parents=True)
        file.write_text(''.join(json.dumps(record) + '\n' for record in records))
        (folder / f'iter_{iterations}.pth').touch()
        (folder / 'config.py').write_text('')
        return 0


@pytest.fixture
def tools(monkeypatch, tmp_path):
    monkeypatch.setattr(compare, 'run_tool', tools := Tools())
    monkeypatch.setattr(module, 'run_tool', tools)
    monkeypatch.chdir(tmp_path)
    for file in PAIRS['gid5'].made:
        (tmp_path / 'data' / file).parent.mkdir(parents=True)
        (tmp_path / 'data' / file).touch()
    return tools


def build(**options):
    quiet = Console(file=StringIO(), width=200)
    return Trials(**{'out': Path('out'), 'pairs': ['gid5'], 'seeds': [0, 1], 'console': quiet, **options})


def test_rows_gains_and_starts(tools):
    trials = build(taus=[0.0, 1.0], strengths=[0.0, 0.5])
    markdown, table = trials.run()
    rows = {
        (row['method'], row['tau in training'], row['strength afterwards']): row
        for row in json.loads(table.read_text())['rows']
    }
    # A network that is neutral has nothing to correct.
    assert set(rows) == {
        (m, *own) for m in ('source_only', 'st_dasegnet') for own in ((0.0, 0.0), (0.0, 0.5), (1.0, 0.0))
    }
    assert rows['source_only', 0.0, 0.0]['mIoU']['values'] == [40.0, 44.0]
    assert rows['source_only', 1.0, 0.0]['gain']['values'] == [8.0, 8.0]
    assert rows['st_dasegnet', 1.0, 0.0]['gain']['values'] == [11.0, 11.0]
    assert rows['st_dasegnet', 0.0, 0.5]['gain']['values'] == [15.0, 11.0]
    assert (
        rows['st_dasegnet', 0.0, 0.5]['overall accuracy']['values']
        != rows['st_dasegnet', 0.0, 0.0]['overall accuracy']['values']
    )
    assert rows['st_dasegnet', 0.0, 0.0]['discriminator accuracy']['values'] == [60.0, 60.0]
    assert rows['st_dasegnet', 0.0, 0.5]['ms of an iteration']['values'] == [200.0, 200.0]
    line = next(x for x in markdown.read_text().splitlines() if x.startswith('| source_only | imagenet | 1 | 0 |'))
    assert '| 0 1 | 50.0 ± 2.8 | 8.0 ± 0.0 | 70.0 ± 0.0 | 50.0 ± 2.8 |' in line
    # An adaptation starts from the training of its own seed and tau.
    started = [
        call for tool, call in tools.calls if tool == 'train.py' and 'st_dasegnet' in call[call.index('--work-dir') + 1]
    ]
    for call in started:
        run = Path(call[call.index('--work-dir') + 1])
        of_tau = run.parent.name.removeprefix('st_dasegnet_')
        assert f'load_from=out/gid5/two_branch_{of_tau}_first_half/{run.name}/iter_300.pth' in call
    assert len(started) == 4
    # Nothing is done twice, and seeds that are there stay in the table.
    number = len(tools.calls)
    _, table = build(taus=[0.0, 1.0], strengths=[0.0, 0.5], seeds=[0]).run()
    assert len(tools.calls) == number
    assert [row['seeds'] for row in json.loads(table.read_text())['rows']] == 6 * [[0, 1]]


def test_curves_over_labelled_images(tools, tmp_path):
    images = [f'image{i}' for i in range(9)]
    folder = tmp_path / 'data/gid5_clips/img_dir/val'
    folder.mkdir(parents=True)
    for name in images:
        (folder / f'{name}.png').touch()
    methods = ['source_only', 'source_and_labelled', 'few_labels']
    markdown, table, picture = build(methods=methods, labels=[2, 1]).run()
    assert (markdown.name, table.name, picture.name) == ('gid5_labels.md', 'gid5_labels.json', 'gid5_labels.svg')
    assert all(f'<!-- {text}' in picture.read_text() for text in (*methods, 'labelled images of the target'))
    rows = {(row['method'], row['labelled images']): row for row in json.loads(table.read_text())['rows']}
    expected = [('source_only', 0), *((method, k) for method in methods[1:] for k in (1, 2))]
    assert list(rows) == expected
    assert rows['few_labels', 2]['mIoU']['values'] == [44.0, 48.0]
    assert rows['few_labels', 2]['gain']['values'] == [4.0, 4.0]
    # Labels are drawn from one half of the target, and nobody is scored on it.
    pool, scored = (Path(f'out/gid5/{kind}.txt').read_text().split() for kind in ('labelled', 'scored'))
    assert sorted(pool + scored) == images
    assert (len(pool), len(scored)) == (4, 5)
    for _, call in tools.calls:
        options = dict(text.split('=', 1) for text in call[call.index('--cfg-options') + 1 :])
        name = Path(call[call.index('--work-dir') + 1]).parent.name
        scores = {options[f'{role}_dataloader.dataset.ann_file'] for role in ('val', 'test')}
        assert scores == {str(Path('out/gid5/scored.txt').absolute())}
        given = {key: value for key, value in options.items() if key.startswith('labelled_images')}
        if name.startswith('source_only'):
            assert (name, given) == ('source_only_imagenet_tau0_k0', {})
        else:
            assert given.pop('labelled_images.names') == str(Path('out/gid5/labelled.txt').absolute())
            assert name.endswith(f'_imagenet_tau0_k{given["labelled_images.number"]}')
    # It is another matter than a trial without: neither runs nor tables are in each other's way.
    _, plain = build(methods=['source_only']).run()
    assert plain.name == 'gid5.json'
    assert (Path('out/gid5/source_only_imagenet_tau0')).is_dir()
    assert [row['mIoU']['values'] for row in json.loads(plain.read_text())['rows']] == [[40.0, 44.0]]
    with pytest.raises(ConfigError, match=r'5 labelled images .* there are 9'):
        build(methods=methods, labels=[5]).run()


def test_a_pretraining_comes_before_all_that_starts_from_it():
    entries = build(starts=['random', 'pretrained']).entries('gid5')
    starts = {entry.name: entry.warm_start for entry in entries}
    assert starts == {
        'source_only_random_tau0': None,
        'contrast': None,
        'source_only_pretrained_tau0': 'contrast/iter_600.pth',
        'two_branch_random_tau0_first_half': None,
        'st_dasegnet_random_tau0': 'two_branch_random_tau0_first_half/iter_300.pth',
        'two_branch_pretrained_tau0_first_half': 'contrast/iter_600.pth',
        'st_dasegnet_pretrained_tau0': 'two_branch_pretrained_tau0_first_half/iter_300.pth',
    }
    runs = {run.entry.name: run for run in plan_runs(entries, [0], Path('out'))}
    assert runs['contrast'].config.model.type == 'Contrast'
    assert runs['contrast'].config.model.backbone.init_cfg is None
    assert runs['source_only_pretrained_tau0'].warm_start == Path('out/contrast/seed_0/iter_600.pth')


def test_a_method_that_another_starts_from_has_a_row_of_its_own(tools):
    _, table = build(methods=['source_only', 'st_dasegnet', 'two_branch'], seeds=[0]).run()
    trained = {Path(call[call.index('--work-dir') + 1]).parent.name: call for _, call in tools.calls}
    assert '--schedule' not in trained['two_branch_imagenet_tau0']
    assert 'adamw_600_first_half' in trained['two_branch_imagenet_tau0_first_half']
    rows = json.loads(table.read_text())['rows']
    assert [row['method'] for row in rows] == ['source_only', 'st_dasegnet', 'two_branch']


def test_what_fails_does_not_keep_the_rest_from_being_done(tools, monkeypatch):
    def failing(tool, arguments, log, poll=None, interval=1.0):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text('no such table')
        return 1

    monkeypatch.setattr(module, 'run_tool', failing)
    with pytest.raises(UserError, match='no such table'):
        build(methods=['source_only'], strengths=[0.5, 0.0]).run()
    rows = json.loads(Path('out/gid5.json').read_text())['rows']
    assert [row['seeds'] for row in rows] == [[], [0, 1]]
    # Pairs whose files are missing stop it before anything is trained.
    before = len(tools.calls)
    with pytest.raises(DataError, match='csmask'):
        build(pairs=['gid5', 'landsat2sentinel'], seeds=[7]).run()
    assert len(tools.calls) == before


def test_an_estimate_trains_a_few_iterations_of_what_has_not_run(tools):
    # Of 600 iterations each, but for the two of 300 that an adaptation consists of.
    assert build(seeds=[0]).estimate() == pytest.approx(0.25 * (600 + 300 + 300))
    build(seeds=[0], methods=['source_only']).run()
    before = len(tools.calls)
    assert build(seeds=[0], methods=['source_only']).estimate() == 0
    assert build(seeds=[0, 1], methods=['source_only']).estimate() == pytest.approx(0.25 * 600)
    assert len(tools.calls) == before


def test_conversion_of_scenes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match='csmask'):
        build().prepare('landsat2sentinel')
    rng = np.random.default_rng(0)
    arrays = dict(img=rng.random((8, 6, 6), np.float32), msk=rng.integers(0, 4, (8, 6, 1), np.uint8))
    (tmp_path / 'downloads' / 'csmask').mkdir(parents=True)
    for sensor in ('landsat5', 'sentinel2'):
        np.savez(tmp_path / 'downloads' / 'csmask' / sensor, **arrays)
    build().prepare('landsat2sentinel')
    with rasterio.open('data/reflectance/landsat5/images/scene.tif') as image:
        assert np.array_equal(image.read(), arrays['img'].transpose(2, 0, 1))
    with rasterio.open('data/reflectance/sentinel2/labels/scene.tif') as labels:
        assert np.array_equal(labels.read(1), arrays['msk'][..., 0])


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (dict(pairs=['nowhere']), 'nowhere'),
        (dict(starts=['warm']), 'warm'),
        (dict(methods=['none']), 'none'),
        (dict(taus=[2]), '2'),
        (dict(labels=[0]), 'labels is 0'),
    ],
)
def test_arguments_that_cannot_work(options, named):
    with pytest.raises(ConfigError, match=named):
        build(**options)


@pytest.mark.parametrize('pair', PAIRS)
def test_each_training_has_as_many_iterations(pair, tmp_path):
    entries = build().entries(pair)
    iterations = {run.entry.name: run.iterations for run in plan_runs(entries, [0], tmp_path)}
    names = ('source_only_imagenet_tau0', 'two_branch_imagenet_tau0_first_half', 'st_dasegnet_imagenet_tau0')
    assert iterations == dict(zip(names, (600, 300, 300)))
    starts = {entry.name: entry.warm_start for entry in entries if entry.warm_start}
    assert starts == {'st_dasegnet_imagenet_tau0': 'two_branch_imagenet_tau0_first_half/iter_300.pth'}
