import itertools
import json
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mmrs.apis import compare
from mmrs.apis.tile_selection import TileSelection
from mmrs.evaluation.tile_choice import Tiles
from mmrs.studies.tile_study import TileStudy, _Choice, rows_of
from mmrs.studies.trials import PAIRS
from mmrs.utils.errors import ConfigError

CLASSES = ('building', 'farmland', 'forest', 'meadow', 'water')
NAMES = [f'clip_{i:02d}' for i in range(18)]


class Tools:
    """Stands in for train.py: a run's score is the mean number of its tiles; that of the source's network is 1."""

    def __init__(self) -> None:
        self.calls: dict[str, dict[str, str]] = {}

    def __call__(self, tool, arguments, log, poll=None, interval=1.0):
        folder = Path(dict(itertools.pairwise(arguments))['--work-dir'])
        options = dict(text.split('=', 1) for text in arguments[arguments.index('--cfg-options') + 1 :])
        self.calls[f'{folder.parent.name}/{folder.name}'] = options
        score = 1.0
        if (names := options.get('train_dataloader.dataset.target.ann_file')) is not None:
            score = float(np.mean([int(Path(name).stem[5:]) for name in Path(names).read_text().split()]))
        records = [dict(step=1, loss=1.0, time=0.2), {'mIoU': score, 'aAcc': 70.0, 'step': 600}]
        file = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
        file.parent.mkdir(parents=True)
        file.write_text(''.join(json.dumps(record) + '\n' for record in records))
        (folder / 'iter_600.pth').write_text(f'weights of {folder}')
        (folder / 'config.py').write_text('')
        return 0


@pytest.fixture
def tools(monkeypatch, tmp_path):
    monkeypatch.setattr(compare, 'run_tool', tools := Tools())
    monkeypatch.chdir(tmp_path)
    data = tmp_path / 'data'
    for file in PAIRS['gid5'].made:
        (data / file).parent.mkdir(parents=True)
        (data / file).touch()
    (data / 'gid5_clips' / 'classes.yaml').write_text(
        'classes:\n' + ''.join(f'  - {{name: {name}, id: {i}, color: "#00000{i}"}}\n' for i, name in enumerate(CLASSES))
    )
    for kind, name in itertools.product(('img_dir', 'ann_dir'), NAMES):
        path = data / 'gid5_clips' / kind / 'val' / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ones((4, 4, 3) if kind == 'img_dir' else (4, 4), np.uint8)).save(path)

    looked = []

    def look(self, facts):
        """The pool, of which the network is the less sure the higher the number."""
        looked.append(self)
        names = sorted(Path(self.cfg_options['test_dataloader.dataset.ann_file']).read_text().split())
        rng = np.random.default_rng(0)
        number = len(names)
        table = Tiles(
            np.linspace(0.1, 0.9, number), rng.dirichlet(np.ones(5), number), np.ones(number), np.ones(number, bool),
            np.zeros(number, bool), CLASSES, rng.normal(size=(number, 3)), rng.normal(size=(number, 5, 3)),
        )  # fmt: skip
        return [SimpleNamespace(name=name) for name in names], table

    monkeypatch.setattr(TileSelection, 'look', look)
    tools.looked = looked
    return tools


def build(**options):
    own = dict(out=Path('out'), pairs=['gid5'], numbers=[2, 4], draws=3, seeds=[0, 1], method='dacs')
    quiet = Console(file=StringIO(), width=200)
    return TileStudy(**{**own, 'option': 'train_dataloader.dataset.target.ann_file={}', 'console': quiet, **options})


def read(path):
    return Path(path).read_text().split()


def test_choices_are_compared_on_images_that_none_can_choose(tools):
    markdown, table = build(criteria=['uncertainty', 'gradient']).run()
    pool, held_out = (read(f'out/gid5/lists/{name}.txt') for name in ('pool', 'held_out'))
    assert (len(pool), len(held_out)) == (12, 6)
    assert sorted(pool + held_out) == [f'{name}.png' for name in NAMES]
    for name, options in tools.calls.items():
        assert read(options['val_dataloader.dataset.ann_file']) == held_out
        assert read(options['test_dataloader.dataset.ann_file']) == held_out
        if not name.startswith('source_only'):
            chosen = read(options['train_dataloader.dataset.target.ann_file'])
            assert len(set(chosen)) == int(name.split('_')[1].split('/')[0])
            assert set(chosen) <= set(pool)
    assert len(tools.calls) == 2 * (1 + 2 * (3 + 2))
    # The least sure of the pool are its last ones, and a smaller number is a part of a larger one.
    for number in (2, 4):
        names = tools.calls[f'uncertainty_{number}/seed_0']['train_dataloader.dataset.target.ann_file']
        assert read(names) == sorted(pool)[::-1][:number]
    lists = json.loads(Path('out/gid5/lists/seed_0.json').read_text())['chosen']
    assert lists['random_2_draw1'] == lists['random_4_draw1'][:2] != lists['random_2_draw0']

    rows = {(row['number'], row['criterion']): row for row in json.loads(table.read_text())['rows']}
    values = {key: np.mean([int(name[5:7]) for name in names]) for key, names in lists.items()}
    random = [values[f'random_2_draw{i}'] for i in range(3)]
    assert rows[2, 'random']['mIoU']['values'] == pytest.approx([own for own in random for _ in range(2)])
    row = rows[2, 'uncertainty']
    assert row['gain']['values'] == pytest.approx([values['uncertainty_2'] - np.mean(random)] * 2)
    assert (row['beaten'], row['draws']) == (2 * sum(values['uncertainty_2'] > own for own in random), 6)
    text = markdown.read_text()
    assert 'source_only, on the same images: 1.0 ± 0.0' in text
    assert [line.split('|')[2].strip() for line in text.splitlines() if line.startswith('| 2')] == [
        'random', 'uncertainty', 'gradient',
    ]  # fmt: skip

    # Nothing is done twice; what is new is added.
    trained, looks = len(tools.calls), len(tools.looked)
    build(criteria=['uncertainty', 'gradient']).run()
    assert (len(tools.calls), len(tools.looked)) == (trained, looks) == (22, 2)
    build(criteria=['uncertainty', 'diversity'], seeds=[0]).run()
    assert (len(tools.calls), len(tools.looked)) == (trained + 2, looks + 1)


def test_gains_are_over_random_draws_of_the_same_seed():
    scores = {
        _Choice('random', 5, 0): {0: 10.0, 1: 30.0},
        _Choice('random', 5, 1): {0: 20.0},
        _Choice('balanced', 5): {0: 18.0, 1: 31.0, 2: 99.0},
        _Choice('gradient', 10): {0: 5.0},
    }
    first, second, third = rows_of(scores)
    assert (first['criterion'], first['mIoU'].mean, first['gain'].mean) == ('random', 20.0, None)
    assert second['gain'].values == (3.0, 1.0)  # a seed without random draws has no gain
    assert (second['runs'], second['beaten'], second['draws']) == (3, 2, 3)
    assert (third['number'], third['gain'].mean, third['draws']) == (10, None, 0)


def test_an_estimate_counts_all_runs(tools):
    # 0.2 s for 600 iterations of each of 2 * (1 + 2 * (3 + 4)) runs.
    assert build().estimate() == pytest.approx(0.2 * 600 * 30)


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        (dict(criteria=['best']), 'best'),
        (dict(criteria=['random']), 'random'),
        (dict(numbers=[0]), '0'),
        (dict(held_out=1.0), 'held_out'),
        (dict(method='none'), 'none'),
        (dict(option='key'), 'key'),
    ],
)
def test_arguments_of_a_study_that_cannot_work(options, named):
    with pytest.raises(ConfigError, match=named):
        build(**options)
