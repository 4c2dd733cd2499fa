"""A whole study on tiny images with a tiny network."""

import json

import pytest
from PIL import Image
from rich.console import Console

from mmrs.studies.camera_study import FINE_TUNED, REFERENCE, CameraStudy, Configs, Job
from mmrs.utils import ConfigError
from tests.tiny_runs import quick_start, write_clips, write_config, write_regression_config  # noqa: F401
from tools.analysis_tools import camera_study as tool

CAMERA = """
camera = [dict(type='CameraChange', strength=1.0), dict(type='Misalignment', shift=0)]
test_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadRasterImage'), *camera, dict(type='LoadRasterAnnotations'), dict(type='PackRasterInputs')]))
"""
CHANGED = """
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadRasterImage'), dict(type='LoadRasterAnnotations'), *camera, dict(type='PackRasterInputs')]))
"""
TARGET = """
train_dataloader = dict(dataset=dict(target=dict(pipeline=[dict(type='LoadRasterImage'), *camera])))
"""


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('configs')
    data = write_clips(folder / 'data')
    write_config(folder / 'plain.py', data)
    regression = write_regression_config(folder / 'pairs.py', data, data)
    files = dict(
        reference=('plain.py', CAMERA),
        regression=(regression.name, CAMERA + TARGET),
        fine=('plain.py', CAMERA + CHANGED),
    )
    for name, (base, text) in files.items():
        (folder / f'{name}.py').write_text(f"_base_ = './{base}'\n{text}")
    return Configs(*(folder / f'{name}.py' for name in files))


@pytest.fixture(scope='module')
def finished(configs, tmp_path_factory):
    """One strength, with and without misalignment. Not to be changed."""
    study = CameraStudy(tmp_path_factory.mktemp('study'), (2.0,), (0.0, 4.0), ('local(3)',), (0,))
    study.configs = configs
    study.run()
    return study


def test_every_score_is_there(finished):
    scores = finished.scores()
    assert set(scores) == set(finished.jobs())
    assert len(scores) == 2 + 2 + 1
    assert all(0 <= values['mIoU'] <= 100 for values in scores.values())
    assert not list(finished.out.glob('*/strength*/**/*.pth'))


def settings_of(study, job) -> str:
    (dumped,) = (study.out / job.folder).glob('*.py')
    return dumped.read_text()


def test_each_run_has_its_own_settings(finished):
    tuned = settings_of(finished, Job(FINE_TUNED, 2.0, 0, 0))
    assert 'strength=2.0' in tuned
    assert "load_from='" in tuned
    moved = settings_of(finished, Job('local(3)', 2.0, 4.0, 0))
    assert 'strength=2.0' in moved
    assert 'shift=4.0' in moved
    assert "tolerance='local(3)'" in moved
    # Tests show what the other camera sees, in place.
    assert 'shift=0' in settings_of(finished, Job('local(3)', 2.0, 0.0, 0))


def test_finished_scores_are_left_alone(finished):
    times = {path: path.stat().st_mtime_ns for path in finished.out.rglob('scores.json')}
    finished.run()
    assert times == {path: path.stat().st_mtime_ns for path in finished.out.rglob('scores.json')}


def test_table(finished, tmp_path, configs):
    """Of made-up scores: 80 on the source's images and 40 on changed ones, so that 70 is 75 % of the loss."""
    study = CameraStudy(tmp_path, (1.0,), (0.0, 4.0), ('exact',), (0, 1), configs=configs)
    given = {(REFERENCE, 0, 0): 80, (REFERENCE, 1, 0): 40, ('exact', 1, 0): 70, ('exact', 1, 4): 50}
    for (method, strength, shift), score in given.items():
        for seed in (0, 1):
            file = tmp_path / Job(method, strength, shift, seed).folder / 'scores.json'
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(dict(mIoU=score + seed, aAcc=0)))
    assert study.save().read_text().splitlines() == [
        '| mIoU at strength, shift | 1 | 1, 4 px |',
        '| --- | ---: | ---: |',
        '| reference, source images | 80.5 ± 0.7 | 80.5 ± 0.7 |',
        '| reference, changed images | 40.5 ± 0.7 | 40.5 ± 0.7 |',
        '| regression, exact | 70.5 ± 0.7 [75 %] | 50.5 ± 0.7 [25 %] |',
        '| fine-tuned with labels | - | - |',
    ]


def test_a_change_that_costs_nothing(tmp_path, configs):
    """There is no share of it to win back."""
    study = CameraStudy(tmp_path, (1.0,), (0.0,), ('exact',), (0,), configs=configs)
    for method, strength in ((REFERENCE, 0), (REFERENCE, 1), ('exact', 1)):
        file = tmp_path / Job(method, strength, 0, 0).folder / 'scores.json'
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(dict(mIoU=50, aAcc=0)))
    assert study.save().read_text().splitlines()[4] == '| regression, exact | 50.0 |'


def test_configs_that_cannot_be_studied(configs, tmp_path):
    """It is told before anything is trained."""
    study = CameraStudy(tmp_path / 'study', configs=configs, tolerances=('local(2)',))
    with pytest.raises(ConfigError, match=r"tolerance 'local\(2\)'"):
        study.run()
    plain, still = configs.regression.with_name('pairs.py'), tmp_path / 'still.py'
    still.write_text(f"_base_ = '{plain}'\ncamera = [dict(type='CameraChange', strength=1.0)]\n")
    for file, message in ((plain, r'pairs\.py has no CameraChange'), (still, r'still\.py has no Misalignment')):
        study = CameraStudy(tmp_path / 'study', configs=Configs(configs.reference, file, configs.fine_tuned))
        with pytest.raises(ConfigError, match=message):
            study.run()
    assert not (tmp_path / 'study').exists()
    CameraStudy(tmp_path, shifts=(0,), configs=configs)._config(still)


def test_picture(finished):
    with Image.open(finished.draw(2.0, number=1)) as picture:
        assert picture.width > 1000


def test_another_study_in_the_same_folder(finished, configs):
    arguments = ['-o', str(finished.out), '--seeds', '1', '--cfg-options', 'train_cfg.max_iters=1']
    files = [str(getattr(configs, name)) for name in Configs.__annotations__]
    assert tool.main([*arguments, '--configs', *files]) == 2


def test_dry_run_makes_nothing(configs, tmp_path, capsys):
    study = CameraStudy(tmp_path / 'study', seeds=(0,), configs=configs, console=Console(width=200))
    study.run(dry_run=True)
    assert f'to do: {Job("gram", 2.0, 8.0, 0).folder}' in capsys.readouterr().out
    assert not (tmp_path / 'study').exists()
