import json
import shutil

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import from_origin

from mmrs.engine.checkpoint import read_checkpoint
from tests.tiny_runs import write_clips, write_config
from tools import test as test_tool

TRANSFORM = from_origin(500000, 5400000, 0.09, 0.09)


def run(tmp_path, config, checkpoint, *options) -> dict:
    file = tmp_path / 'metrics.json'
    arguments = [config, checkpoint, '--work-dir', tmp_path / 'work', '--metrics', file, *options]
    assert test_tool.main([str(arg) for arg in arguments]) == 0
    return json.loads(file.read_text())


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        test_tool.main(['--help'])
    assert end.value.code == 0
    assert 'examples:' in capsys.readouterr().out


def test_scores_label_maps_and_pictures(finished, clips, tmp_path):
    out, pictures = tmp_path / 'out', tmp_path / 'pictures'
    metrics = run(tmp_path, finished.config, finished.checkpoint, '--out', out, '--show-dir', pictures)

    # The scores follow from the label maps that were written.
    matrix = np.zeros((6, 6), int)
    for name in ('clip0.png', 'clip1.png'):
        label = np.asarray(Image.open(clips / 'ann_dir' / 'val' / name))
        prediction = np.asarray(Image.open(out / name))
        assert prediction.dtype == np.uint8
        assert 1 <= prediction.min() <= prediction.max() <= 6  # ids as in the data set's own label maps
        np.add.at(matrix, (label[label > 0].astype(int) - 1, prediction[label > 0].astype(int) - 1), 1)
    assert metrics['confusion_matrix'] == matrix.tolist()
    iou = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    assert metrics['mIoU'] == pytest.approx(100 * iou.mean())
    assert metrics['aAcc'] == pytest.approx(100 * np.trace(matrix) / matrix.sum())
    assert metrics['classes']['car']['IoU'] == pytest.approx(100 * iou[4])
    assert metrics['classes']['car']['pixels'] == matrix[4].sum()
    assert set(metrics['classes']['tree']) == {'IoU', 'F1', 'Acc', 'Precision', 'pixels'}
    assert metrics['images'] == 2

    picture = Image.open(pictures / 'clip0.png')
    assert picture.width > 3 * 64
    assert len(list(tmp_path.glob('work/*/confusion_matrix.png'))) == 1
    log = next(tmp_path.glob('work/*/*.log')).read_text()
    assert 'confusion matrix' in log
    assert 'low_vegetation' in log


def test_the_training_folder_is_left_alone(finished, tmp_path):
    work_dir = tmp_path / 'run'
    shutil.copytree(finished.work_dir, work_dir)
    before = {path: path.stat().st_mtime_ns for path in work_dir.iterdir() if path.is_file()}
    arguments = [finished.config, finished.checkpoint, '--work-dir', work_dir]
    assert test_tool.main([str(arg) for arg in arguments]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in work_dir.iterdir() if path.is_file()}
    assert len(list(work_dir.glob('*/metrics.json'))) == 1


def test_georeferenced_images_give_georeferenced_label_maps(finished, tmp_path):
    clips = write_clips(tmp_path / 'clips', train=1, val=1)
    folder = clips / 'img_dir' / 'val' / 'sub'
    folder.mkdir()
    bands = np.asarray(Image.open(clips / 'img_dir' / 'val' / 'clip0.png')).transpose(2, 0, 1).copy()
    bands[:, :, :5] = 0
    profile = dict(driver='GTiff', width=64, height=64, count=3, dtype='uint8', nodata=0)
    with rasterio.open(folder / 'area1.tif', 'w', crs='EPSG:32632', transform=TRANSFORM, **profile) as file:
        file.write(bands)
    (clips / 'ann_dir' / 'val' / 'sub').mkdir()
    shutil.copy(clips / 'ann_dir' / 'val' / 'clip0.png', clips / 'ann_dir' / 'val' / 'sub' / 'area1.png')
    out = tmp_path / 'out'
    run(tmp_path, write_config(tmp_path / 'tiny.py', clips), finished.checkpoint, '--out', out)
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob('*.*')) == ['clip0.png', 'sub/area1.tif']
    with rasterio.open(out / 'sub' / 'area1.tif') as file:
        assert file.crs == 'EPSG:32632'
        assert file.transform == TRANSFORM
        assert file.nodata == 255
        labels = file.read(1)
        assert file.colormap(1)[2][:3] == (0, 0, 255)  # building
    assert (labels[:, :5] == 255).all()
    assert 1 <= labels[:, 5:].min() <= labels[:, 5:].max() <= 6


@pytest.mark.parametrize('which', ['finished', 'adapted'])
def test_tta(which, request, tmp_path):
    trained = request.getfixturevalue(which)
    plain = run(tmp_path / 'a', trained.config, trained.checkpoint)
    augmented = run(tmp_path / 'b', trained.config, trained.checkpoint, '--tta')
    assert augmented['tta']
    assert np.sum(augmented['confusion_matrix']) == np.sum(plain['confusion_matrix'])
    assert augmented['confusion_matrix'] != plain['confusion_matrix']


def test_tta_of_one_size_without_flips_changes_nothing(finished, tmp_path):
    config = finished.config.with_name(f'identity_{finished.config.name}')
    config.write_text(
        f"_base_ = './{finished.config.name}'\n"
        "tta_pipeline = [dict(type='LoadRasterImage'), dict(type='TestTimeAug', transforms=["
        "[dict(type='RandomFlip', prob=0.0)], [dict(type='LoadRasterAnnotations')], [dict(type='PackSegInputs')]])]\n"
    )
    plain = run(tmp_path / 'a', finished.config, finished.checkpoint)
    augmented = run(tmp_path / 'b', config, finished.checkpoint, '--tta')
    assert augmented['confusion_matrix'] == plain['confusion_matrix']


def fails(capsys, *argv) -> str:
    assert test_tool.main([str(arg) for arg in argv]) == 2
    return capsys.readouterr().err


def test_outputs_are_not_overwritten_unasked(finished, tmp_path, capsys):
    common = [finished.config, finished.checkpoint, '--work-dir', tmp_path / 'work']
    full = tmp_path / 'full'
    full.mkdir()
    (full / 'clip0.png').touch()
    for option in ('--out', '--show-dir'):
        assert f'{full} is not empty' in fails(capsys, *common, option, full)
    assert 'exists already' in fails(capsys, *common, '--metrics', full / 'clip0.png')
    assert test_tool.main([str(arg) for arg in [*common, '--out', full, '--overwrite']]) == 0
    assert (full / 'clip0.png').stat().st_size > 0


def test_checkpoint_that_matches_nothing(finished, tmp_path, capsys):
    torch.save({'layer.weight': torch.zeros(3)}, tmp_path / 'foreign.pth')
    message = fails(capsys, finished.config, tmp_path / 'foreign.pth', '--work-dir', tmp_path / 'work')
    assert 'none of its 1 weights matches' in message
    assert 'does not exist' in fails(capsys, finished.config, tmp_path / 'no.pth', '--work-dir', tmp_path / 'work')


def test_class_count_differs(finished, tmp_path, capsys):
    state = read_checkpoint(finished.checkpoint)['state_dict']
    state = {key: value[:5] if 'conv_seg' in key else value for key, value in state.items()}
    torch.save(state, tmp_path / 'five.pth')
    options = ['--work-dir', tmp_path / 'work', '--cfg-options', 'model.decode_head.num_classes=5']
    message = fails(capsys, finished.config, tmp_path / 'five.pth', *options)
    assert 'model.decode_head.num_classes is 5' in message
    assert 'test_dataloader.dataset (PotsdamDataset) has 6 classes' in message
