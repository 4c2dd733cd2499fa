"""Each tool makes MMEngine safe before it reads what others have made."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader

from mmrs.apis.demo import Demo
from mmrs.install import install
from mmrs.utils.config import find_registered
from mmrs.weights.remote import load_from_file
from tests.tiny_runs import REPOSITORY
from tools import adapt, card, predict, test, train
from tools.analysis_tools import calibrate, compare_priors, probe, report, select_checkpoint, select_tiles
from tools.deployment import export_onnx
from tools.model_converters import stdasegnet2mmrs

ATTACK = "open('attacked', 'w')"

INIT_CFG = 'model.backbone.init_cfg.checkpoint=FILE'

#: Command lines that load a checkpoint; CONFIG, FILE and OUT are filled in.
CHECKPOINTS = {
    'resume': (train, ['CONFIG', '--work-dir', 'OUT', '--resume', 'FILE']),
    'load_from': (train, ['CONFIG', '--work-dir', 'OUT', '--cfg-options', 'load_from=FILE']),
    'init_cfg': (
        train,
        [*('CONFIG', '--work-dir', 'OUT', '--cfg-options'), 'model.backbone.init_cfg.type=Pretrained', INIT_CFG],
    ),
    'test': (test, ['CONFIG', 'FILE', '--work-dir', 'OUT']),
    'adapt': (adapt, ['CONFIG', 'FILE', 'raster.tif', '-o', 'OUT.pth']),
    'predict': (predict, ['CONFIG', 'FILE', 'raster.tif', '-o', 'OUT']),
    'compare_priors': (compare_priors, ['CONFIG', 'FILE', 'raster.tif', '-o', 'OUT', '--priors', 'uniform']),
    'card': (card, ['FILE']),
    'calibrate': (calibrate, ['CONFIG', 'FILE', '-o', 'OUT']),
    'probe': (probe, ['CONFIG', '--checkpoints', 'FILE']),
    'report': (report, ['FILE', '-o', 'OUT']),
    'tiles': (select_tiles, ['CONFIG', 'FILE', 'raster.tif', '-o', 'OUT.gpkg']),
    'select': (select_checkpoint, ['FILE', '-o', 'OUT']),
    'export': (export_onnx, ['CONFIG', 'FILE', '-o', 'OUT']),
    'convert': (stdasegnet2mmrs, ['FILE', 'OUT', '--config', 'CONFIG']),
}  # fmt: skip

#: Command lines that read a configuration.
CONFIGS = {
    'check_dataset': ['CONFIG'],
    'analysis_tools.band_statistics': ['CONFIG'],
    'analysis_tools.benchmark': ['CONFIG', '--iters', '1'],
    'analysis_tools.browse_dataset': ['CONFIG', '-o', 'OUT'],
    'analysis_tools.camera_study': ['-o', 'OUT', '--configs', 'CONFIG', 'CONFIG', 'CONFIG'],
    'analysis_tools.compare_seeds': ['CONFIG', '-o', 'OUT', '--dry-run', '--cfg-options', 'model.type=x'],
}

#: Tools that read neither, or the project's own configurations alone.
OTHERS = {
    'analysis_tools.benchmark_windows',
    'analysis_tools.consensus_study',
    'analysis_tools.plot_curves',
    'analysis_tools.selection_study',
    'analysis_tools.show_camera_changes',
    'analysis_tools.tile_study',
    'analysis_tools.trials',
    'areas',
    'consensus',
    'doctor',
    'download_dataset',
    'evaluate_raster',
    'recommend',
}


def is_installed() -> bool:
    registering = import_module('mmengine.registry.registry')
    return CheckpointLoader._schemes[''] is load_from_file and registering.get_object_from_string is find_registered


@pytest.fixture
def filled(config, tmp_path, monkeypatch):
    """Fills in the names of a command line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = dict(CONFIG=str(config), FILE=str(tmp_path / 'evil.pth'), OUT=str(tmp_path / 'out'))

    def fill(arguments):
        for name, value in names.items():
            arguments = [argument.replace(name, value) for argument in arguments]
        return arguments

    return fill


class Evil:
    def __reduce__(self):
        return eval, (ATTACK,)


@pytest.mark.usefixtures('not_installed')
@pytest.mark.parametrize('case', CHECKPOINTS)
def test_a_checkpoint_that_holds_a_program_is_refused(case, filled, capsys):
    assert not is_installed()
    torch.save(dict(state_dict={}, meta=Evil()), 'evil.pth')
    tool, arguments = CHECKPOINTS[case]
    assert tool.main(filled(arguments)) == 2
    assert 'evil.pth is refused: it holds an object of' in capsys.readouterr().err
    assert not Path('attacked').exists()
    assert is_installed()


@pytest.mark.usefixtures('not_installed')
@pytest.mark.parametrize('name', CONFIGS)
def test_a_type_imports_nothing(name, config, filled):
    assert not is_installed()
    Path('attack.py').write_text(f'class Attack:\n    {ATTACK}\n')
    for old in ('SourceDataset', "'RemoteSensingDataset'", "'VaihingenDataset'", "'PotsdamDataset'"):
        config.write_text(config.read_text().replace(old, "'attack.Attack'"))
    assert 'attack.Attack' in config.read_text()
    tool = import_module(f'tools.{name}')
    assert tool.main(filled(CONFIGS[name])) == (0 if '--dry-run' in CONFIGS[name] else 2)
    assert not Path('attacked').exists()
    assert is_installed()


@pytest.mark.usefixtures('not_installed')
def test_the_demo(tmp_path):
    Demo(tmp_path).entries()
    assert is_installed()


def test_every_tool_is_looked_at():
    files = {'.'.join(path.relative_to(REPOSITORY / 'tools').with_suffix('').parts)
             for path in (REPOSITORY / 'tools').glob('**/*.py')}  # fmt: skip
    known = {tool.__name__.removeprefix('tools.') for tool, _ in CHECKPOINTS.values()} | {*CONFIGS, *OTHERS, 'demo'}
    assert {name for name in files if not name.startswith('dataset_converters.')} == known


@pytest.mark.usefixtures('not_installed')
def test_a_second_call_changes_nothing():
    install()
    CheckpointLoader.register_scheme('mine://', dict)
    install()
    assert is_installed()
    assert CheckpointLoader._schemes['mine://'] is dict
