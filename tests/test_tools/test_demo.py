import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mmrs.apis import demo as module
from mmrs.apis.demo import ADAPTED, GAP, SOURCE_ONLY, Demo, choose_images, draw_panel, make_pair
from mmrs.datasets.isprs import VaihingenDataset
from mmrs.utils.config import load_config
from mmrs.utils.errors import OutputError
from tools import demo as tool

PAIR = dict(potsdam_tiles=(1, 0), vaihingen_areas=(1, 1), potsdam_size=640, vaihingen_size=512, workers=1)
SHORT = """
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
{loaders}
model = dict(test_cfg=dict(mode='whole'))
"""


def console() -> Console:
    return Console(file=StringIO(), width=160)


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('data') / 'pair'
    assert make_pair(folder, GAP, **PAIR)
    return folder


def test_pair_is_made_once_and_converted_by_the_real_converters(data):
    settings = json.loads((data / 'vaihingen' / 'conversion.json').read_text())
    assert (settings['data'], settings['labels'], settings['clip_size']) == ('Vaihingen', 'eroded', 512)
    for split in ('potsdam_irrg/img_dir/train', 'vaihingen/img_dir/train', 'vaihingen/ann_dir/val'):
        assert len(list((data / split).glob('*.png'))) == 1
    before = {path: path.stat().st_mtime_ns for path in data.rglob('*.*')}
    assert not make_pair(data, GAP, **PAIR)
    assert {path: path.stat().st_mtime_ns for path in data.rglob('*.*')} == before
    with pytest.raises(OutputError, match='another synthetic pair'):
        make_pair(data, 0.7, **PAIR)


def test_clips_of_an_earlier_pair_are_not_kept(tmp_path):
    make_pair(tmp_path, 0.5, **PAIR)
    clips = sorted(tmp_path.glob('vaihingen/img_dir/*/*.png'))
    before = [clip.read_bytes() for clip in clips]
    # As if the archives had been replaced, and the conversion interrupted.
    make_pair(tmp_path, 1.0, overwrite=True, **PAIR)
    assert [clip.read_bytes() for clip in clips] != before


def test_configs_and_data_roots(tmp_path):
    source_only, adapted = Demo(tmp_path / 'out').entries()
    assert (source_only.name, adapted.name) == ('source_only_demo', 'st_dasegnet_demo')
    assert source_only.cfg_options == adapted.cfg_options == ()
    load_from = load_config(ADAPTED).get('load_from')
    assert adapted.warm_start == (f'source_only_demo/{Path(load_from).name}' if load_from else None)
    # A pair elsewhere: every loader, and nothing but loaders.
    moved = Demo(tmp_path / 'out', data=tmp_path / 'other').entries()
    assert f'train_dataloader.dataset.data_root={tmp_path}/other/potsdam_irrg' in moved[0].cfg_options
    assert set(moved[1].cfg_options) == {
        f'train_dataloader.dataset.source.data_root={tmp_path}/other/potsdam_irrg',
        f'train_dataloader.dataset.target.data_root={tmp_path}/other/vaihingen',
        f'val_dataloader.dataset.data_root={tmp_path}/other/vaihingen',
        f'test_dataloader.dataset.data_root={tmp_path}/other/vaihingen',
    }


def test_the_warm_start_is_a_checkpoint_that_source_only_writes():
    adapted, source_only = load_config(ADAPTED), load_config(SOURCE_ONLY)
    if adapted.get('load_from') is None:
        pytest.skip('the demo starts from random weights')
    step = int(Path(adapted.load_from).stem.removeprefix('iter_'))
    hook, last = source_only.default_hooks.checkpoint, source_only.train_cfg.max_iters
    assert step % hook.interval == 0
    assert 0 < step <= last
    kept = hook.get('max_keep_ckpts', -1)
    assert kept < 0 or step > last - kept * hook.interval


def test_images_are_chosen_by_their_labels():
    even = np.array([[1, 2], [3, 4]], np.uint8)
    uneven = np.array([[1, 1], [1, 2]], np.uint8)
    one, ignored = np.full((2, 2), 1, np.uint8), np.zeros((2, 2), np.uint8)
    labels = {'area2_0': one, 'area2_1': uneven, 'area5_0': even, 'area5_1': even, 'area7_0': ignored}
    assert choose_images(labels, 2) == ['area5_0', 'area2_1']
    assert choose_images(labels, 9) == ['area5_0', 'area2_1', 'area7_0']


def test_panel():
    red, blue = (np.full((512, 512, 3), colour, np.uint8) for colour in ((250, 0, 0), (0, 0, 250)))
    panel = draw_panel([('image', [red, blue]), ('label', [blue, red])], side=200)
    found = [(panel == colour).all(-1) for colour in ((250, 0, 0), (0, 0, 250))]
    assert all(0.95 < mask.sum() / (2 * 200 * 200) < 1.05 for mask in found)
    rows, columns = np.nonzero(found[0])
    assert panel.shape[0] < 520
    assert panel.shape[1] < 440
    # Red is at the top left and at the bottom right.
    assert found[0][rows.min() + 100, columns.min() + 100]
    assert found[0][rows.max() - 100, columns.max() - 100]
    assert not found[0][rows.max() - 100, columns.min() + 100]


def test_other_gaps_have_their_own_folders(monkeypatch):
    made = []
    monkeypatch.setattr(Demo, 'run', lambda demo: made.append(demo))
    assert tool.main([]) == 0
    assert tool.main(['--gap', '0.8', '--seeds', '0', '1']) == 0
    assert tool.main(['--gap', '0.8', '-o', 'mine']) == 0
    assert [(str(d.out), str(d.data)) for d in made] == [
        ('work_dirs/demo', 'data/synthetic'),
        ('work_dirs/demo_gap_0.8', 'data/synthetic_gap_0.8'),
        ('mine', 'data/synthetic_gap_0.8'),
    ]
    assert made[1].seeds == [0, 1]


@pytest.fixture
def short(tmp_path, monkeypatch):
    """The demo's own configurations, cut to two iterations on small crops."""
    loaders = 'train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)\n'
    loaders += 'val_dataloader = dict(num_workers=0, persistent_workers=False)\ntest_dataloader = val_dataloader'
    for name, base, extra in (('SOURCE_ONLY', SOURCE_ONLY, ''), ('ADAPTED', ADAPTED, "load_from = 'any/iter_1.pth'")):
        path = tmp_path / 'short' / f'{name.lower()}.py'
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"_base_ = '{base}'\n" + SHORT.format(loaders=loaders) + extra)
        monkeypatch.setattr(module, name, path)


@pytest.mark.slow
def test_end_to_end(tmp_path, data, short):
    """All steps in earnest, in miniature; then again, with nothing left to do."""
    first = Demo(tmp_path / 'out', data, rows=1, pair=PAIR, console=console())
    comparison = first.run()
    printed = first.console.file.getvalue()
    for part in (
        'source only',
        'ST-DASegNet',
        'IoU building',
        'overall accuracy',
        'confident target pixels',
        'demo.png',
    ):
        assert part in printed
    runs = [tmp_path / 'out' / f'short_{name}' / 'seed_0' for name in ('source_only', 'adapted')]
    for run in runs:
        scores = json.loads((run / 'test' / 'scores.json').read_text())
        assert scores['mIoU'] == pytest.approx(comparison.values[run.parent.name][0]['mIoU'])
        assert scores['images'] == 1
        assert len(list((run / 'test' / 'pictures').glob('*.png'))) == 1
    assert 'source_only/seed_0/iter_1.pth fits the model in part' in (runs[1] / 'output.log').read_text()
    picture = np.asarray(Image.open(tmp_path / 'out' / 'demo.png'))
    assert picture.shape[1] > 4 * 300
    for column in (1, 2, 3):  # labels and both predictions: nearly all of it in the colours of classes
        width = picture.shape[1] // 4
        inside = picture[60:300, column * width + 30 : (column + 1) * width - 30].reshape(-1, 3)
        palette = np.array(VaihingenDataset.METAINFO['palette'])
        assert (inside[:, None] == palette).all(-1).any(-1).mean() > 0.6

    logs = sorted(tmp_path.rglob('*.log'))
    sizes = [log.stat().st_size for log in logs]
    second = Demo(tmp_path / 'out', data, rows=1, pair=PAIR, console=console())
    assert second.run().values == comparison.values
    assert (
        [log.stat().st_size for log in logs] == sizes == [log.stat().st_size for log in sorted(tmp_path.rglob('*.log'))]
    )
    table = [line for line in printed.splitlines() if '│' in line]
    assert table == [line for line in second.console.file.getvalue().splitlines() if '│' in line]
