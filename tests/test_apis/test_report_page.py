"""What a report page says of real, tiny runs."""

import html
import json
import os
import re
import statistics

import numpy as np
import pytest
from PIL import Image

from mmrs.apis import SegInferencer, evaluate, train
from mmrs.apis.report import _choice, _differences, _Maps, write_report
from mmrs.apis.report_runs import find_runs, group_runs
from mmrs.apis.selection import Judged, Selection, find_candidates
from mmrs.evaluation.label_free import Score
from mmrs.evaluation.label_free.choice import Choice
from mmrs.utils.errors import CheckpointError, ConfigError, DataError, OutputError
from mmrs.visualization.curves import read_scalars
from tests.tiny_runs import quick_start, write_adaptation_config, write_clips, write_config  # noqa: F401
from tools.analysis_tools import report

pytestmark = pytest.mark.slow

SETTINGS = dict(number=2, size=64, tiles=1, device='cpu')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Two seeds of a network trained on the source, and an adapted one; two iterations each."""
    root = tmp_path_factory.mktemp('runs')
    data = write_clips(root / 'data')
    plain, adapted = write_config(root / 'plain.py', data), write_adaptation_config(root / 'base.py', data)
    for config, name, seed in ((plain, 'plain', 0), (plain, 'plain', 1), (adapted, 'adapted', 0)):
        train(config, root / name / f'seed_{seed}', cfg_options={'randomness.seed': seed})
    return root


@pytest.fixture(scope='module')
def runs(root):
    return [root / 'plain' / 'seed_0', root / 'plain' / 'seed_1', root / 'adapted' / 'seed_0']


@pytest.fixture(scope='module')
def page(runs, root):
    left_out = write_report(runs, root / 'report.html', **SETTINGS)
    return left_out, (root / 'report.html').read_text(encoding='utf-8')


def rows(text: str, section: str) -> dict[str, list[str]]:
    """Cells of the tables of a section by the first one of each row."""
    inside = text[text.index(f'<section id="{section}"') :]
    inside = inside[: inside.index('</section>')]
    found = {}
    for row in re.findall(r'<tr>(<th scope="row">.*?)</tr>', inside, re.DOTALL):
        first, *others = (html.unescape(cell) for cell in re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row, re.DOTALL))
        found[first] = others
    return found


def test_scores_are_means_and_spreads_over_the_seeds(page, runs):
    _, text = page
    logged = [{key: values[-1] for key, (_, values) in read_scalars(run).items()} for run in runs]
    found = rows(text, 'scores')
    for key, title in (('mIoU', 'mIoU'), ('aAcc', 'overall accuracy'), ('IoU.building', 'IoU building')):
        first, second, adapted = (own[key] for own in logged)
        spread, alone = found[title]
        mean, deviation = statistics.fmean((first, second)), statistics.stdev((first, second))
        assert spread.startswith(f'{mean:.1f} ± {deviation:.1f} (')
        assert alone == f'{adapted:.1f}'
    gain = logged[2]['mIoU'] - logged[0]['mIoU']
    assert f'adapted over plain: {gain:+.1f} points of mIoU' in text


def test_areas_are_those_of_the_maps(page, runs, root):
    images = [np.asarray(Image.open(file)) for file in sorted((root / 'data' / 'img_dir' / 'val').iterdir())]
    for column, run in ((0, runs[0]), (1, runs[2])):
        (config,) = run.glob('*.py')
        inferencer = SegInferencer(config, run / 'iter_2.pth', device='cpu')
        maps = np.stack([inferencer.predict(image).labels for image in images])
        for i, name in enumerate(inferencer.classes):
            share = rows(page[1], 'areas')[name][column]
            assert float(share) == pytest.approx(100 * (maps == i).mean(), abs=0.051)


def test_disagreement_counts_pixels_with_data():
    first, second = np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8)
    second[0], first[3], second[3, :2] = 1, 255, 255
    maps = _Maps([], dict(a=[first], b=[second], c=[first]), ['x', 'y'], [])
    assert maps.disagreement(0) == 5 / 15
    assert maps.shares('b').tolist() == [13 / 18, 5 / 18]
    assert _Maps([], dict(a=[first + 255], b=[second]), ['x', 'y'], []).disagreement(0) == 0


def test_settings_that_differ_are_shown(page, runs):
    found = rows(page[1], 'settings')
    assert found['model.type'] == ['EncoderDecoder', 'STDASegNet']
    assert found['custom_hooks'] == ['–', 'TeacherEMAHook(decay=0.999)']
    assert found['train_dataloader.dataset.target.data_prefix'] == ['–', 'dict(img_path=img_dir/val)']
    assert not [key for key in found if key.startswith(('randomness', 'work_dir', 'crop', 'train_cfg'))]
    nodes = [dict(a=1, b=dict(c=[1, 2], d=3)), dict(a=1, b=dict(c=[1, 3], d=3)), dict(a=1)]
    assert list(_differences(nodes)) == [('b', [dict(c=[1, 2], d=3), dict(c=[1, 3], d=3), None])]
    assert list(_differences(nodes[:2])) == [('b.c', [[1, 2], [1, 3]])]


def test_what_is_missing_is_left_out_with_the_reason(page, runs, tmp_path):
    left_out, text = page
    assert {'Choice without labels', 'Confusion matrices'} == left_out.keys()
    assert all(f'Left out: {reason}' in html.unescape(text) for reason in left_out.values())
    (config,) = runs[0].glob('*.py')
    bare = tmp_path / 'bare'
    bare.mkdir()
    (bare / config.name).write_text(config.read_text())
    left_out = write_report([bare], tmp_path / 'bare.html', **SETTINGS)
    assert len(left_out) == 10  # all but how to reproduce it
    assert 'iter_N.pth' in left_out['Maps']


def test_a_page_is_the_same_again_and_nothing_is_overwritten_unasked(page, runs, root, tmp_path, capsys):
    out = tmp_path / 'again.html'
    arguments = [*map(str, runs), '-o', str(out), '--number', '2', '--size', '64', '--tiles', '1', '--device', 'cpu']
    assert report.main(arguments) == 0
    assert 'left out: Choice without labels: ' in capsys.readouterr().out
    assert out.read_bytes() == (root / 'report.html').read_bytes()
    before = out.stat()
    assert report.main(arguments) == 2
    assert str(out) in capsys.readouterr().err
    assert out.stat() == before
    with pytest.raises(OutputError, match=r'again\.html'):
        write_report(runs, out)


def test_choice_and_confusion_matrices(runs, root, tmp_path):
    (config,) = runs[2].glob('*.py')
    found = evaluate(config, runs[2] / 'iter_2.pth', work_dir=runs[2])
    selection = Selection(find_candidates([runs[0] / 'iter_2.pth', runs[2] / 'iter_2.pth']), records=tmp_path)
    judged = [Judged(own, [1 / 6] * 6, dict(consistency=Score(0.5, 0.5))) for own in selection.candidates]
    selection.save(judged, Choice(1, 'adapted', 0.25), ['it has died', None], '')
    first, second = map(str, selection.candidates)
    file = tmp_path / 'selection.json'
    left_out = write_report(runs, tmp_path / 'a.html', selection=file, names=['Source', 'Ours'], **SETTINGS)
    assert not left_out
    text = (tmp_path / 'a.html').read_text(encoding='utf-8')
    assert rows(text, 'choice-without-labels')[second][:2] == ['chosen', '0.500']
    assert rows(text, 'choice-without-labels')[first][:2] == ['it has died', '0.500']
    assert html.escape(selection.sentence(judged, Choice(1, 'adapted', 0.25), ['it has died', None])) in text
    assert '<th scope="col">impervious_surface, %</th>' in text
    matrix = np.array(found['confusion_matrix'])
    shares = [f'{100 * n / row.sum():.1f}' for row in matrix for n in row]
    inside = text[text.index('<section id="confusion-matrices"') :]
    cells = re.findall(r'<rect class="cell".*?<text[^>]*>(.*?)</text>', inside[: inside.index('</section>')], re.DOTALL)
    assert cells == shares
    assert f'Ours, mIoU {found["mIoU"]:.1f}' in text
    (metrics,) = runs[2].glob('*/metrics.json')
    os.utime(metrics, (1, 1))  # older than the checkpoint: of another training
    assert 'Confusion matrices' in write_report(runs, tmp_path / 'c.html', **SETTINGS)
    for verdict, mark in (('kept', 'stays'), ('none', '')):
        selection.save(judged, Choice(0, verdict, 0.0), [None, None], '')
        section, _ = _choice(file)
        assert section.blocks[1].rows[0][:2] == [first, mark]
    known = json.loads(file.read_text())
    for broken in ('{', '[]', json.dumps({**known, 'verdict': 'best'}), json.dumps({**known, 'candidates': []})):
        file.write_text(broken)
        with pytest.raises(DataError, match=r'selection\.json'):
            write_report(runs, tmp_path / 'b.html', selection=file, **SETTINGS)
    assert not (tmp_path / 'b.html').exists()


def test_groups_and_their_names(runs, root, tmp_path):
    groups = group_runs(find_runs(runs))
    assert [(group.name, [run.seed for run in group.runs]) for group in groups] == [('plain', [0, 1]), ('adapted', [0])]
    assert [group.name for group in group_runs(find_runs(runs[:1]))] == ['plain']
    assert find_runs([runs[0] / 'iter_1.pth'])[0].checkpoint == runs[0] / 'iter_1.pth'
    with pytest.raises(ConfigError, match='seed_0'):
        group_runs(find_runs([runs[0], runs[0]]))
    with pytest.raises(ConfigError, match='2 different'):
        group_runs(find_runs(runs), ['one'])


def test_broken_runs_are_errors(runs, tmp_path):
    with pytest.raises(DataError, match='nowhere'):
        find_runs([tmp_path / 'nowhere'])
    with pytest.raises(DataError, match=r'iter_9\.pth'):
        find_runs([runs[0] / 'iter_9.pth'])
    with pytest.raises(ConfigError, match='0 configurations'):
        find_runs([tmp_path])
    (config,) = runs[0].glob('*.py')
    (tmp_path / config.name).write_text(config.read_text())
    scalars = tmp_path / 'time' / 'vis_data' / 'scalars.json'
    scalars.parent.mkdir(parents=True)
    scalars.write_text('{"loss": 1, "step"\n{}\n')
    with pytest.raises(DataError, match=r'scalars\.json, line 1'):
        write_report([tmp_path], tmp_path / 'a.html', **SETTINGS)
    (tmp_path / 'iter_2.pth').write_bytes(b'cut')
    with pytest.raises(CheckpointError, match='no checkpoint'):
        find_runs([tmp_path])
    with pytest.raises(ConfigError, match='tiles'):
        write_report(runs, tmp_path / 'a.html', tiles=-1)
