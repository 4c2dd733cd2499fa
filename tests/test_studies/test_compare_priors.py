import re

import numpy as np
import pytest
import rasterio

from mmrs.prediction.areas import AREA_COLUMNS
from mmrs.utils.errors import ConfigError
from tests.tiny_runs import quick_start, write_clips, write_config  # noqa: F401
from tools import predict
from tools import train as train_tool
from tools.analysis_tools import compare_priors as tool


@pytest.mark.slow
def test_the_table_says_what_the_maps_cover_and_what_was_asked_for(tmp_path, capsys):
    clips = write_clips(tmp_path / 'clips')
    config = write_config(tmp_path / 'tiny.py', clips)
    assert train_tool.main([str(config), '--work-dir', str(tmp_path / 'run')]) == 0
    command, scene = [str(config), str(tmp_path / 'run' / 'iter_2.pth')], clips / 'img_dir' / 'val'
    # The table of areas is a prior itself, where each class has some.
    table = tmp_path / 'shares.csv'
    names = ('impervious_surface', 'building', 'low_vegetation', 'tree', 'car', 'clutter')
    table.write_text('class,m2\n' + ''.join(f'{name},{i}\n' for i, name in enumerate(names, 1)))
    options = ['-o', str(tmp_path / 'out'), '--device', 'cpu', '--prior-strength', '1']
    assert tool.main([*command, str(scene), *options, '--priors', 'uniform', str(table)]) == 0
    rows = [re.split(r' *\| *', line)[1:-1] for line in (tmp_path / 'out' / 'areas.md').read_text().splitlines()]
    assert rows[0] == ['class', 'learned', 'uniform', 'shares']
    for column, wanted in ((2, np.full(6, 100 / 6)), (3, 100 * np.arange(1, 7) / 21)):
        labels = []
        for path in sorted((tmp_path / 'out' / rows[0][column]).glob('*.tif')):
            with rasterio.open(path) as raster:
                labels.append(raster.read(1).ravel())
        covered = np.bincount(np.concatenate(labels), minlength=6)[:6]
        cells = [f'{100 * n / covered.sum():.1f} ({share:.1f})' for n, share in zip(covered, wanted)]
        assert [row[column] for row in rows[2:]] == cells
    assert len({tuple(row[i] for row in rows) for i in (1, 2, 3)}) == 3
    with pytest.raises(ConfigError, match='uniform is there twice'):
        tool.compare_priors(*command, [scene], tmp_path / 'out', ['uniform', 'uniform'])

    # predict.py writes the areas of its maps, and replaces no other table.
    areas = tmp_path / 'areas.csv'
    arguments = [*command, str(scene), '-o', str(tmp_path / 'maps'), '--device', 'cpu', '--areas', str(areas)]
    assert predict.main(arguments) == 0
    assert areas.read_text().splitlines()[0] == ','.join(AREA_COLUMNS)
    assert len(areas.read_text().splitlines()) == 1 + 2 * 6
    assert predict.main([*arguments, '--resume']) == 0
    areas.write_text('mine')
    assert predict.main([*arguments, '--resume']) == 2
    assert predict.main([*arguments[:-1], str(tmp_path / 'areas.txt')]) == 2
    assert areas.read_text() == 'mine'
