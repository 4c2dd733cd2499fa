import json

import numpy as np

from mmrs.geo.label_maps import open_classes
from tests.test_apis.test_raster_scores import blobs, write_map
from tools import consensus
from tools.analysis_tools import consensus_study


def test_maps_that_name_their_classes(tmp_path, capsys):
    files = [str(write_map(tmp_path / f'{name}.tif', blobs(i))) for i, name in enumerate('abc')]
    image = str(write_map(tmp_path / 'image.tif', blobs(0)))
    command = [image, *files, '-o', str(tmp_path / 'out.tif')]
    assert consensus.main(command) == 0
    text = capsys.readouterr().out
    assert 'Annotators' in text
    assert f'consensus: {tmp_path}/out.tif' in text
    assert open_classes(tmp_path / 'out.tif') == open_classes(files[0])
    assert consensus.main(command) == 2
    assert 'out.tif exists already' in capsys.readouterr().err
    assert consensus.main([*command, '--overwrite', '--smoothness', '0']) == 0
    assert consensus.main(command[:2] + command[4:]) == 2
    assert '1 mask was given' in capsys.readouterr().err


def test_the_study(tmp_path):
    (tmp_path / 'classes.yaml').write_text('classes: [{name: a, id: 0}, {name: b, id: 1}, {name: c, id: 2}]')
    for name in '01':
        mask = np.kron(np.random.default_rng(int(name)).integers(0, 3, (4, 4)), np.ones((25, 25))).astype(np.uint8)
        write_map(tmp_path / 'masks' / f'{name}.tif', mask)
        write_map(tmp_path / 'images' / f'{name}.tif', mask)
    command = [str(tmp_path / 'images'), str(tmp_path / 'masks'), '--classes', str(tmp_path / 'classes.yaml')]
    assert consensus_study.main([*command, '-o', str(tmp_path / 'out'), '--seeds', '4', '--size', '90']) == 0
    found = json.loads((tmp_path / 'out' / 'study.json').read_text())['seeds']['4']
    assert found['mIoU']['consensus'] > found['mIoU']['swaps']
    assert '| mIoU of consensus |' in (tmp_path / 'out' / 'study.md').read_text()
