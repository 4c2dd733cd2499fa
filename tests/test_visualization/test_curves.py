import json

import numpy as np
import pytest
from PIL import Image

from mmrs.utils import ConfigError, DataError, OutputError
from mmrs.visualization.curves import plot_curves, read_scalars, smoothed
from tools.analysis_tools import plot_curves as tool


def write_run(folder, steps=range(10, 110, 10), time='20260101_000000', offset=0.0, tail=''):
    file = folder / time / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    lines = []
    for step in steps:
        lines.append(dict(lr=0.1, loss=offset + 100 / step, confident_share=step / 100, time=0.5, iter=step, step=step))
        if step % 50 == 0:
            lines.append(dict(mIoU=float(step), aAcc=float('nan'), time=0.1, step=step))
    file.write_text('\n'.join(map(json.dumps, lines)) + '\n' + tail)
    return folder


def test_read_scalars(tmp_path):
    curves = read_scalars(write_run(tmp_path / 'a'))
    assert set(curves) == {'lr', 'loss', 'confident_share', 'mIoU', 'aAcc'}
    steps, values = curves['mIoU']
    assert steps.tolist() == values.tolist() == [50, 100]
    assert np.isnan(curves['aAcc'][1]).all()
    (file,) = (tmp_path / 'a').glob('*/*/scalars.json')
    assert set(read_scalars(file)) == set(curves)


def test_a_resumed_run_replaces_what_it_repeats(tmp_path):
    write_run(tmp_path, range(10, 110, 10))
    write_run(tmp_path, range(60, 160, 10), time='20260102_000000', offset=5)
    steps, values = read_scalars(tmp_path)['loss']
    assert steps.tolist() == list(range(10, 160, 10))
    assert values[4] == 2
    assert values[5] == pytest.approx(5 + 100 / 60)
    assert read_scalars(tmp_path)['mIoU'][0].tolist() == [50, 100, 150]


def test_an_unfinished_last_line_is_left_out(tmp_path):
    assert len(read_scalars(write_run(tmp_path, tail='{"loss": 1'))['loss'][0]) == 10


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'run: no such folder'),
        ({}, r'run holds no scalars\.json'),
        ({'scalars.json': 'oh\n{}\n'}, r'scalars\.json, line 1 is no JSON'),
        ({'scalars.json': '[1]\n{}\n'}, r'scalars\.json, line 1 is no JSON object'),
    ],
)
def test_bad_input(tmp_path, content, message):
    run = tmp_path / 'run'
    if content is not None:
        run.mkdir()
        for name, text in content.items():
            (run / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_scalars(run)


def test_smoothed():
    values = np.array([0.0, 3, 6, 9, np.nan])
    np.testing.assert_allclose(smoothed(values, 3), [1.5, 3, 6, 7.5, 9])
    np.testing.assert_allclose(smoothed(values[:2], 9), [1.5, 1.5])
    np.testing.assert_allclose(smoothed(values[:4], 1), values[:4])


def test_plot_curves(tmp_path):
    runs = {name: read_scalars(write_run(tmp_path / name)) for name in ('a', 'b')}
    assert plot_curves(runs, tmp_path / 'c.png') == ['loss', 'mIoU', 'aAcc', 'confident_share']
    assert Image.open(tmp_path / 'c.png').width > 600
    with pytest.raises(OutputError, match=r'c\.png exists'):
        plot_curves(runs, tmp_path / 'c.png')
    assert plot_curves(runs, tmp_path / 'c.png', keys=['l*'], window=1, overwrite=True) == ['lr', 'loss']
    with pytest.raises(ConfigError, match=r"no run has 'mIuO'; there is .*mIoU"):
        plot_curves(runs, tmp_path / 'd.png', keys=['mIuO'])
    assert not (tmp_path / 'd.png').exists()


def test_tool(tmp_path, capsys):
    paths = [str(write_run(tmp_path / 'x' / name)) for name in ('source_only', 'adapted')]
    assert tool.main([*paths, '-o', str(tmp_path / 'c.pdf'), '--title', 'two runs']) == 0
    assert 'of source_only, adapted' in capsys.readouterr().out
    assert (tmp_path / 'c.pdf').stat().st_size > 1000
    assert tool.main([*paths, '--list']) == 0
    assert 'mIoU (2)' in capsys.readouterr().out
    assert tool.main([*paths, '-o', str(tmp_path / 'd.png'), '--names', 'one']) == 2
    assert '1 names for 2 runs' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main(paths)
    (file,) = (tmp_path / 'x' / 'adapted').glob('*/*/scalars.json')
    assert tool.run_names([paths[0], str(file)]) == ['source_only', 'adapted']
