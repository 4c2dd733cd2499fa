import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from mmrs.datasets.loveda import LoveDADataset
from mmrs.evaluation.submission import (
    SubmissionFormat,
    SubmissionMetric,
    check_dataset,
    check_submission,
    submission_format,
)
from mmrs.registry import DATASETS, METRICS
from mmrs.utils.errors import ConfigError, DataError

FORM = SubmissionFormat('the server', (6, 8), 7, {'Test/Rural': range(3, 6), 'Test/Urban': range(6, 8)})


def png(labels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, 'PNG')
    return buffer.getvalue()


def write_zip(path, files: dict[str, bytes]):
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def labels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 7, (6, 8)).astype(np.uint8)


GOOD = {f'{n}.png': png(labels(n)) for n in (6, 7)}


def test_loveda_takes_its_test_set_as_published():
    form = submission_format('LoveDADataset')
    assert form.image_size == (1024, 1024)
    assert form.num_classes == len(LoveDADataset.METAINFO['classes']) == 7
    rural, urban = ([str(n) for n in numbers] for numbers in (range(4191, 5167), range(5167, 5987)))
    for names in (rural, urban, rural + urban):
        form.check_names(names, 'here')
    with pytest.raises(DataError, match=r'here: 819 of the 820 images of Test/Urban are there; 5167 are missing'):
        form.check_names(urban[1:], 'here')
    with pytest.raises(
        DataError, match=r'3514, .* and 672 more do not belong.*Test/Rural 4191 to 5166, Test/Urban 5167'
    ):
        form.check_names([str(n) for n in range(3514, 4191)], 'here')


def test_data_set_without_a_server():
    with pytest.raises(ConfigError, match=r'PotsdamDataset has no test server.*that have one: .*LoveDADataset'):
        submission_format('PotsdamDataset')


@pytest.mark.parametrize('numbers', [(6, 7), (3, 4, 5), (3, 4, 5, 6, 7)])
def test_right_submissions(tmp_path, numbers):
    check_submission(write_zip(tmp_path / 'a.zip', {f'{n}.png': png(labels(n)) for n in numbers}), FORM)


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        (
            {f'results/{name}': data for name, data in GOOD.items()},
            r'a.zip: results/6.png, results/7.png found; .*with',
        ),
        ({'results/': b'', **GOOD}, r'results/ found; the server expects PNG files at the top level'),
        ({**GOOD, 'readme.txt': b''}, r'readme.txt found'),
        ({'6.png': GOOD['6.png']}, r'1 of the 2 images of Test/Urban are there; 7 are missing'),
        ({**GOOD, '8.png': GOOD['6.png']}, r'8 do not belong to the test set'),
        ({'0006.png': GOOD['6.png'], '7.png': GOOD['7.png']}, r'1 of the 2 images of Test/Urban are there; 6 are miss'),
        ({}, r'there are no images. Expected: Test/Rural 3 to 5, Test/Urban 6 to 7'),
        ({**GOOD, '7.png': png(labels() + np.uint8(1))}, r'7.png has the value 7; 0 to 6 are expected'),
        ({**GOOD, '7.png': png(labels()[:5])}, r'7.png has height and width \(5, 8\); \(6, 8\) is expected'),
        ({**GOOD, '7.png': png(np.zeros((6, 8, 3), np.uint8))}, r'7.png has type RGB; L is expected'),
        ({**GOOD, '7.png': png(labels().astype(np.uint16))}, r'7.png has type I;16; L is expected'),
    ],
)
def test_wrong_submissions(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        check_submission(write_zip(tmp_path / 'a.zip', files), FORM)


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_an_image_twice(tmp_path):
    path = write_zip(tmp_path / 'a.zip', GOOD)
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('6.png', GOOD['6.png'])
    with pytest.raises(DataError, match='6 appear more than once'):
        check_submission(path, FORM)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(LoveDADataset, 'SUBMISSION', FORM)


def sample(name: str, prediction: np.ndarray) -> dict:
    return dict(
        img_path=f'/data/{name}.png', pred_sem_seg=dict(data=torch.from_numpy(prediction.astype(np.int64))[None])
    )


def test_metric_writes_what_was_predicted(small, tmp_path):
    metric = METRICS.build(dict(type='SubmissionMetric', dataset_type='LoveDADataset', out_dir=str(tmp_path)))
    for n in (7, 6):  # the order of the processes is not that of the names
        metric.process({}, [sample(str(n), labels(n))])
    assert metric.evaluate(2) == dict(images=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['6.png', '7.png', 'submission.zip']
    with zipfile.ZipFile(metric.path) as archive:
        assert archive.namelist() == ['6.png', '7.png']
        for n in (6, 7):
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(archive.read(f'{n}.png')))), labels(n))
            assert archive.read(f'{n}.png') == (tmp_path / f'{n}.png').read_bytes()


def test_metric_leaves_no_zip_that_the_server_would_not_take(small, tmp_path):
    metric = SubmissionMetric('LoveDADataset', tmp_path)
    metric.process({}, [sample('6', labels())])
    with pytest.raises(DataError, match='1 of the 2 images'):
        metric.evaluate(1)
    assert [path.name for path in tmp_path.iterdir()] == ['6.png']
    with pytest.raises(DataError, match=r'/data/7.png has height and width \(6, 9\); the server expects \(6, 8\)'):
        metric.process({}, [sample('7', np.zeros((6, 9)))])


@pytest.fixture
def make_dataset(small, tmp_path):
    folder = tmp_path / 'Test' / 'Urban' / 'images_png'
    folder.mkdir(parents=True)
    for n in (6, 7):
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(folder / f'{n}.png')

    def make(**kwargs):
        prefix = dict(img_path='Test/Urban/images_png')
        return DATASETS.build(dict(type='LoveDADataset', data_root=str(tmp_path), data_prefix=prefix, **kwargs))

    return make


@pytest.mark.filterwarnings('ignore:.*of LoveDA has 820')
def test_data_set_is_looked_at_before_the_test(make_dataset, tmp_path):
    check_dataset(make_dataset())
    (tmp_path / 'names.txt').write_text('7\n')
    with pytest.raises(DataError, match=r'images_png: 1 of the 2 images of Test/Urban are there; 6 are missing'):
        check_dataset(make_dataset(ann_file='names.txt'))
    with pytest.raises(DataError, match='6 are missing'):
        check_dataset(make_dataset(indices=[1]))
    with pytest.raises(ConfigError, match='gives LoveDADataset the classes water, land, but the server expects backgr'):
        check_dataset(make_dataset(class_map=dict(water='water', land=['barren', 'forest', 'agriculture'])))
