"""The pages hold together, and every block of the worked examples runs as it stands, on small arrays."""

import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmrs.registry import DATASETS
from mmrs.utils.config import load_config
from tests.tiny_runs import REPOSITORY, quick_start  # noqa: F401

PAGE, METHOD_PAGE = (REPOSITORY / 'docs' / f'adding_a_{what}.md' for what in ('dataset', 'method'))
ROOT_PAGES = [REPOSITORY / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')]
PAGES = sorted((REPOSITORY / 'docs').glob('*.md')) + ROOT_PAGES


def prose(page: Path) -> str:
    return re.sub(r'^```.*?^```', '', page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings: lower case, hyphens for spaces, no other signs."""
    headings = re.findall(r'^#+ (.*)$', prose(page), re.MULTILINE)
    return {re.sub(r'[^\w-]', '', heading.lower().replace(' ', '-')) for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target, anchor in re.findall(r'\]\((?!\w+:)([^()#\s]*)#?([^()\s]*)\)', prose(page)):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f'{target}#{anchor}'


def test_every_page_is_in_the_navigation_once():
    listed = re.findall(r'^ +- (\S+\.md)$', (REPOSITORY / 'mkdocs.yml').read_text(), re.MULTILINE)
    names = [page.name for page in PAGES if page not in ROOT_PAGES] + ['index.md', 'contributing.md', 'changelog.md']
    assert sorted(listed) == sorted(names)


def test_the_terms_of_the_glossary_are_in_order():
    terms = re.findall(r'^- \*\*(.+?)\*\*: ', (REPOSITORY / 'docs' / 'glossary.md').read_text(), re.MULTILINE)
    assert len(terms) > 50
    assert terms == sorted(set(terms), key=str.lower)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec('mkdocs'), reason='needs requirements/docs.txt')
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'id="mmrs.apis.inference.SegInferencer"' in (tmp_path / 'api' / 'mmrs.apis' / 'index.html').read_text()


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the fenced blocks."""
    return re.findall(r'^```(\w+)\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    return [line for language, text in blocks(page) if language == 'bash' for line in text.splitlines()]


def write_files(page: Path, folder: Path) -> None:
    """Those that a page shows whole."""
    for language, text in blocks(page):
        if match := re.match(r'# file: (\S+)\n', text):
            assert language in ('python', 'yaml')
            file = folder / match[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text[match.end() :])


def write_arrays(folder: Path, size: int = 256) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for sensor, brightness in (('landsat5', 0.2), ('sentinel2', 0.3)):
        mask = rng.choice([0, 1, 3, 4], (size // 32, size // 32)).repeat(32, 0).repeat(32, 1).astype(np.uint8)
        image = brightness * mask[..., None] * np.linspace(0.5, 1, 6) + rng.normal(0, 0.02, (size, size, 6))
        np.savez_compressed(folder / f'{sensor}.npz', img=image.astype(np.float32), msk=mask[..., None])


@pytest.fixture
def workplace(tmp_path):
    """A checkout, as far as the page's commands look at it."""
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    write_arrays(tmp_path / 'downloads' / 'csmask')
    write_files(PAGE, tmp_path)
    return tmp_path


def words_of(command: str) -> list[str]:
    """Those of a command without the first, but shorter trainings."""
    words = shlex.split(command)
    assert words[0] == 'python', command
    if 'tools/train.py' in words:  # two iterations instead of the page's
        words += ['--cfg-options', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2']
        words += ['default_hooks.checkpoint.interval=2', 'default_hooks.logger.interval=1']
    return [word.replace('iter_300', 'iter_2') for word in words[1:]]


@pytest.fixture
def run(workplace, monkeypatch, capsys):
    """Runs a command at the workplace; what it prints."""
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(workplace)
    monkeypatch.setenv('MMRS_CACHE', str(workplace / 'cache'))

    def run(command: str) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, 'argv', words_of(command))
        status = 0
        try:
            runpy.run_path(sys.argv[0], run_name='__main__')
        except SystemExit as end:
            status = end.code
        assert not status, command
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_every_command_of_the_worked_example_runs(workplace, run):
    assert [command.split()[1] for command in commands(PAGE)] == [
        'arrays2geotiff.py',
        'tools/check_dataset.py',
        'tools/analysis_tools/band_statistics.py',
        'tools/train.py',
        'tools/test.py',
    ]
    printed = {command.split()[1]: run(command) for command in commands(PAGE)}
    assert '0 errors, 1 warnings' in printed['tools/check_dataset.py']
    assert (workplace / 'domains.png').stat().st_size > 10_000
    line = printed['tools/analysis_tools/band_statistics.py'].strip().splitlines()[-1]
    settings = eval(line.removeprefix('data_preprocessor = '), {'dict': dict})
    arrays = np.load(workplace / 'downloads/csmask/landsat5.npz')['img'].astype(np.float64)
    np.testing.assert_allclose(settings['source_mean'], arrays.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(settings['source_std'], arrays.std((0, 1)), rtol=1e-5)
    (metrics,) = (workplace / 'work_dirs/landsat2sentinel').glob('*/metrics.json')
    scores = json.loads(metrics.read_text())
    assert list(scores['classes']) == ['shadow', 'water', 'land', 'cloud']
    assert sum(map(sum, scores['confusion_matrix'])) == 256 * 256
    assert list((workplace / 'pictures').glob('*.png'))

    # The page's own class of data sets.
    config = load_config('reflectance.py')
    data = DATASETS.build(config.val_dataloader.dataset)
    assert data.metainfo['classes'] == ('shadow', 'water', 'land', 'cloud')
    assert data[0]['inputs'].shape == (6, 256, 256)
    parts = config.train_dataloader.dataset
    assert [parts.source.type, parts.target.type, type(data).__name__] == ['ReflectanceDataset'] * 3


def test_what_the_page_quotes_is_in_the_configurations():
    config = load_config(REPOSITORY / 'configs/st_dasegnet/landsat2sentinel.py')
    source = config.train_dataloader.dataset.source
    assert (source.type, source.data_root, source.classes_file) == (
        'RasterDataset', 'data/reflectance/landsat5', '../classes.yaml',
    )  # fmt: skip
    assert source.windows == dict(size=192, stride=64)
    (printed,) = re.findall(r'^data_preprocessor = (dict\(.*\))$', PAGE.read_text(), re.MULTILINE)
    for name, values in eval(printed, {'dict': dict}).items():
        np.testing.assert_allclose(config.model.data_preprocessor[name], values, atol=6e-5)


@pytest.mark.slow
def test_the_method_of_the_page(workplace, run):
    run('python arrays2geotiff.py downloads/csmask')
    for name in ('configs', 'tools'):
        (workplace / name).unlink()
    for name in ('configs', 'mmrs', 'tests', 'tools'):
        shutil.copytree(REPOSITORY / name, workplace / name, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(REPOSITORY / 'pyproject.toml', workplace)
    write_files(METHOD_PAGE, workplace)
    (entry,) = (text for _, text in blocks(METHOD_PAGE) if text.startswith('# in METHODS'))
    suite = workplace / 'tests' / 'conformance.py'
    suite.write_text(suite.read_text().replace('METHODS = {\n', f'METHODS = {{\n{entry}', 1))
    own_path = os.pathsep.join((str(workplace), str(workplace / 'tests' / 'quick_start')))
    printed = []
    for command in commands(METHOD_PAGE):  # in processes, which have the copied package
        done = subprocess.run(
            [sys.executable, *words_of(command)],
            env={**os.environ, 'PYTHONPATH': own_path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f'{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}'
        printed.append(done.stdout)
    _, conformance, own = printed
    (scalars,) = (workplace / 'work_dirs').glob('maximum_squares_*/*/vis_data/scalars.json')
    record = json.loads(scalars.read_text().splitlines()[0])
    assert record['loss_squares'] < 0
    assert record['loss'] == pytest.approx(record['loss_seg'] + record['loss_squares'], rel=1e-5)
    assert int(re.search(r'(\d+) passed', conformance)[1]) > 10
    assert '1 passed' in own
