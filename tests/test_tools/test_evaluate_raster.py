import json
import re

import numpy as np

from tests.test_apis.test_raster_scores import blobs, count, write_map, write_raster
from tools import evaluate_raster


def row(text: str, name: str) -> list[str]:
    """Cells of a row of the first table."""
    return re.search(rf'│ {name} +│(.*)│', text)[1].replace('│', ' ').split()


def test_one_pair(tmp_path, capsys):
    predicted, labels = blobs(0, missing=0.1), blobs(1, missing=0.1)
    prediction, label = write_map(tmp_path / 'p.tif', predicted), write_raster(tmp_path / 'l.tif', labels)
    out = tmp_path / 'out'
    command = [str(prediction), str(label), '--erode', '3', '--out', str(out), '--errors-map']
    assert evaluate_raster.main(command) == 0
    text = capsys.readouterr().out
    counts = count(predicted, labels)
    for i, name in enumerate(('road', 'building', 'tree')):
        hit, labelled, found = counts[i, i], counts[i, :3].sum(), counts[:, i].sum()
        expected = [hit / (labelled + found - hit), 2 * hit / (labelled + found), hit / found, hit / labelled]
        assert row(text, name) == [*(f'{100 * value:.2f}' for value in expected), f'{labelled:,}']
    assert f'overall accuracy {100 * np.trace(counts) / counts[:, :3].sum():.2f}' in text
    assert 'Without boundaries (a disc of 3 px)' in text
    missing = 100 * counts[:, 3].sum() / counts.sum()
    assert f'missing: {missing:.3g} % of the labelled pixels have no prediction (not scored)' in text
    assert (out / 'p_errors.tif').is_file()
    assert evaluate_raster.main(command) == 2
    assert 'pass --overwrite' in capsys.readouterr().err
    assert evaluate_raster.main([*command, '--overwrite', '--missing-as-error']) == 0
    assert '(counted as wrong)' in capsys.readouterr().out


def test_a_nodata_value_that_is_a_class_is_told(tmp_path, capsys):
    predicted, labels = blobs(0), blobs(1)
    prediction = write_map(tmp_path / 'p.tif', predicted)
    label = write_raster(tmp_path / 'l.tif', labels, nodata=0)
    assert evaluate_raster.main([str(prediction), str(label)]) == 0
    text = capsys.readouterr().out
    assert f'l.tif: nodata 0 on {(labels == 0).sum()} pixels is road' in text
    assert row(text, 'road')[-1] == '0'


def test_folders_with_a_label_that_has_no_prediction(tmp_path, capsys):
    for i in range(2):
        write_map(tmp_path / 'maps' / f'{i}_image.tif', blobs(i))
    for i in range(3):
        write_raster(tmp_path / 'labels' / f'{i}_label.tif', blobs(i) + np.uint8(1))
    command = [str(tmp_path / 'maps'), str(tmp_path / 'labels'), '--reduce-zero-label', '--out', str(tmp_path / 'out')]
    command += ['--pred-suffix', '_image.tif', '--label-suffix', '_label.tif']
    assert evaluate_raster.main(command) == 1
    printed = capsys.readouterr()
    assert 'Scores of 2 rasters' in printed.out
    assert row(printed.out, 'mean') == [*['100.00'] * 4, f'{2 * 90 * 120:,}']
    assert printed.err.strip() == f'error: 2: {tmp_path}/maps/2_image.tif: no such file'
    found = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
    assert (found['mIoU'], list(found['files']), list(found['failed'])) == (100, ['0', '1'], ['2'])


def test_mistakes(tmp_path, capsys):
    prediction = str(write_map(tmp_path / 'p.tif', blobs(0)))
    assert evaluate_raster.main([prediction]) == 2
    assert capsys.readouterr().err.startswith('error: 1 files were given')
    assert evaluate_raster.main([prediction, str(tmp_path / 'l.tif')]) == 2
    assert capsys.readouterr().err.strip() == f'error: {tmp_path}/l.tif: no such file'
