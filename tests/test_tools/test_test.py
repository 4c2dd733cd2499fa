import argparse
import inspect
import json
import shutil
import zipfile

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import from_origin

from mmrs.apis import SegInferencer, init_model
from mmrs.apis.testing import without_labels
from mmrs.datasets.isprs import PotsdamDataset
from mmrs.datasets.loveda import LoveDADataset
from mmrs.evaluation.submission import SubmissionFormat
from mmrs.utils import CheckpointError, ConfigError
from mmrs.weights import read_checkpoint
from tests.tiny_runs import write_clips, write_config
from tools import predict
from tools import test as test_tool
from tools.deployment import export_onnx
from tools.model_converters import stdasegnet2mmrs

TRANSFORM = from_origin(500000, 5400000, 0.09, 0.09)


def run(tmp_path, config, checkpoint, *options) -> dict:
    file = tmp_path / 'metrics.json'
    arguments = [config, checkpoint, '--work-dir', tmp_path / 'work', '--metrics', file, *options]
    assert test_tool.main([str(arg) for arg in arguments]) == 0
    return json.loads(file.read_text())


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


def test_a_checkpoint_with_other_objects_needs_the_switch(finished, tmp_path, capsys):
    state = dict(read_checkpoint(finished.checkpoint), args=argparse.Namespace(lr=1))
    torch.save(state, tmp_path / 'theirs.pth')
    arguments = [str(finished.config), str(tmp_path / 'theirs.pth'), '--work-dir', str(tmp_path / 'work')]
    assert test_tool.main(arguments) == 2
    error = capsys.readouterr().err
    assert 'argparse.Namespace' in error
    assert '--trust-checkpoint' in error
    assert test_tool.main([*arguments, '--trust-checkpoint']) == 0
    with pytest.raises(CheckpointError, match='Namespace'):
        SegInferencer(finished.config, tmp_path / 'theirs.pth', device='cpu')
    assert SegInferencer(finished.config, tmp_path / 'theirs.pth', device='cpu', trust_checkpoint=True).classes
    with pytest.raises(CheckpointError, match='Namespace'):
        read_checkpoint(tmp_path / 'theirs.pth')


@pytest.mark.parametrize(
    ('tool', 'function', 'arguments'),
    [
        (test_tool, 'evaluate', ['CONFIG', 'FILE']),
        (predict, 'SegInferencer', ['CONFIG', 'FILE', 'INPUT', '-o', 'OUT']),
        (export_onnx, 'export_onnx', ['CONFIG', 'FILE', '-o', 'OUT']),
        (stdasegnet2mmrs, 'convert_st_dasegnet', ['FILE', 'OUT', '--config', 'CONFIG']),
    ],
)
def test_every_tool_that_reads_checkpoints_has_the_switch(tool, function, arguments, monkeypatch):
    given = []

    def record(*args, **kwargs):
        given.append(inspect.signature(real).bind(*args, **kwargs).arguments['trust_checkpoint'])
        raise ConfigError('that is enough')

    real = getattr(tool, function)
    monkeypatch.setattr(tool, function, record)
    assert tool.main(arguments) == tool.main([*arguments, '--trust-checkpoint']) == 2
    assert given == [False, True]


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


NAMES = PotsdamDataset.METAINFO['classes']


@pytest.mark.parametrize(('order', 'options'), [((5, 4, 3, 2, 1, 0), ['--tta']), ((1, 2, 0, 4, 5, 3), [])])
def test_the_same_classes_in_another_order(finished, clips, tmp_path, order, options):
    """The data set's own ids, in a table in another order than that of the checkpoint."""
    rows = [f'  - {{name: {NAMES[i]}, id: {i + 1}}}\n' for i in order]
    (tmp_path / 'classes.yaml').write_text('classes:\n' + ''.join(rows) + '  - {name: none, id: 0, ignore: true}\n')
    keys = dict(type='RemoteSensingDataset', classes_file=tmp_path / 'classes.yaml')
    settings = [f'test_dataloader.dataset.{key}={value}' for key, value in keys.items()]
    out = tmp_path / 'out'
    other = run(tmp_path, finished.config, finished.checkpoint, '--out', out, *options, '--cfg-options', *settings)
    matrix = np.zeros((6, 6), int)
    for name in ('clip0.png', 'clip1.png'):  # ids as in the data set's label maps
        label = np.asarray(Image.open(clips / 'ann_dir' / 'val' / name))
        prediction = np.asarray(Image.open(out / name))
        np.add.at(matrix, (label[label > 0].astype(int) - 1, prediction[label > 0].astype(int) - 1), 1)
    iou = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    place = [list(other['classes']).index(name) for name in NAMES]
    assert np.array(other['confusion_matrix'])[np.ix_(place, place)].tolist() == matrix.tolist()
    assert [other['classes'][name]['IoU'] for name in NAMES] == pytest.approx(100 * iou, nan_ok=True)
    (tmp_path / 'own').mkdir()
    own = run(tmp_path / 'own', finished.config, finished.checkpoint, *options)
    assert own['confusion_matrix'] == matrix.tolist()
    assert {key: own[key] for key in own if key.startswith(('IoU', 'mIoU'))} == {
        key: other[key] for key in other if key.startswith(('IoU', 'mIoU'))
    }


def test_other_classes_are_refused(finished, tmp_path, capsys):
    names = [{'tree': 'Tree'}.get(name, name) for name in NAMES]
    options = ['--cfg-options', f'test_dataloader.dataset.class_map={dict(zip(names, NAMES))}']
    message = fails(capsys, finished.config, finished.checkpoint, '--work-dir', tmp_path / 'work', *options)
    assert f'test_dataloader.dataset has the classes {", ".join(names)}' in message
    assert f'the checkpoint {finished.checkpoint} has {", ".join(NAMES)}' in message
    assert "'Tree' and 'tree' are spelt differently" in message
    assert message.count('\n') == 1


# Labels are asked for in every way that --format-only has to undo: by the pipeline and by the data prefix.
SUBMISSION = """
model['decode_head']['num_classes'] = 7
submission_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='LoveDADataset', data_root='{data}', pipeline=test_pipeline, test_mode=True, data_prefix=dict(
        img_path='Test/Urban/images_png', seg_map_path='Test/Urban/masks_png')))
"""


@pytest.fixture
def loveda(clips, tmp_path, monkeypatch):
    """Config and checkpoint for a small test set: the images 5167 to 5169, of 64 x 64 pixels."""
    form = SubmissionFormat('the server', (64, 64), 7, {'Test/Urban': range(5167, 5170)})
    monkeypatch.setattr(LoveDADataset, 'SUBMISSION', form)
    monkeypatch.setitem(LoveDADataset.NUMBERS, 'Test/Urban', range(5167, 5170))
    folder = tmp_path / 'loveda' / 'Test' / 'Urban' / 'images_png'
    folder.mkdir(parents=True)
    for i in range(3):
        shutil.copy(clips / 'img_dir' / 'train' / f'clip{i}.png', folder / f'{5167 + i}.png')
    config = write_config(tmp_path / 'loveda.py', clips, extra=SUBMISSION.format(data=tmp_path / 'loveda'))
    torch.manual_seed(0)
    torch.save(init_model(config, device='cpu').state_dict(), tmp_path / 'weights.pth')
    return config, tmp_path / 'weights.pth'


def test_a_submission_has_the_order_of_the_server(loveda, tmp_path):
    config, checkpoint = loveda
    names = LoveDADataset.METAINFO['classes']
    found = {}
    for kind, classes in dict(own=names, turned=names[::-1]).items():
        weights = torch.load(checkpoint)
        torch.save(dict(state_dict=weights, meta=dict(dataset_meta=dict(classes=classes))), tmp_path / f'{kind}.pth')
        arguments = [config, tmp_path / f'{kind}.pth', '--format-only', '--out', tmp_path / kind]
        assert test_tool.main([str(arg) for arg in [*arguments, '--work-dir', tmp_path / 'work']]) == 0
        found[kind] = np.asarray(Image.open(tmp_path / kind / '5167.png'))
    assert len(np.unique(found['own'])) > 1
    np.testing.assert_array_equal(found['turned'], 6 - found['own'])  # the first output is now the last class


@pytest.mark.parametrize('options', [[], ['--tta']])
def test_submission(loveda, tmp_path, options):
    out = tmp_path / 'out'
    arguments = [*loveda, '--format-only', '--out', out, '--work-dir', tmp_path / 'work', *options]
    assert test_tool.main([str(arg) for arg in arguments]) == 0
    names = ['5167.png', '5168.png', '5169.png']
    assert sorted(path.name for path in out.iterdir()) == [*names, 'submission.zip']
    dataset = dict(type='RemoteSensingDataset', metainfo=dict(classes=tuple('abcdefg')))
    named = {'test_dataloader.dataset': dataset}
    inferencer = SegInferencer(*loveda, device='cpu', cfg_options=named)
    with zipfile.ZipFile(out / 'submission.zip') as archive:
        assert archive.namelist() == names
        for name in names:
            with archive.open(name) as file, Image.open(file) as image:
                assert image.mode == 'L'
                labels = np.asarray(image)
            assert labels.max() <= 6
            if not options:
                assert len(np.unique(labels)) > 1
                image = np.asarray(Image.open(tmp_path / 'loveda' / 'Test' / 'Urban' / 'images_png' / name))
                assert np.array_equal(labels, inferencer.predict(image).labels)
    assert not list(tmp_path.glob('work/*/metrics.json'))


def test_submissions_that_cannot_be(loveda, finished, tmp_path, capsys):
    config, checkpoint = loveda
    common = ['--format-only', '--work-dir', tmp_path / 'work']
    assert 'needs --out' in fails(capsys, config, checkpoint, *common)
    common += ['--out', tmp_path / 'out']
    assert 'no scores for --metrics' in fails(capsys, config, checkpoint, *common, '--metrics', tmp_path / 'm.json')
    message = fails(capsys, finished.config, finished.checkpoint, *common)
    assert 'PotsdamDataset has no test server' in message
    assert 'LoveDADataset' in message
    image = tmp_path / 'loveda' / 'Test' / 'Urban' / 'images_png' / '5168.png'
    Image.open(image).resize((32, 64)).save(image)
    message = fails(capsys, config, checkpoint, *common)
    assert '5168.png has height and width (64, 32); the server expects (64, 64)' in message
    image.unlink()
    message = fails(capsys, config, checkpoint, *common, '--overwrite')
    assert '2 of the 3 images of Test/Urban are there; 5168 are missing' in message


def test_labels_are_taken_out_of_branches():
    pack = dict(type='PackSegInputs')
    pipeline = [
        dict(type='LoadRasterImage'),
        dict(type='LoadRasterAnnotations'),
        dict(type='TestTimeAug', transforms=[[dict(type='RandomFlip')], [dict(type='LoadAnnotations')], [pack]]),
    ]
    assert without_labels(pipeline) == [
        dict(type='LoadRasterImage'),
        dict(type='TestTimeAug', transforms=[[dict(type='RandomFlip')], [pack]]),
    ]
