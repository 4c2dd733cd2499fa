import pytest
import torch
from mmengine.config import Config

from mmrs.registry import MODELS
from mmrs.weights import read_checkpoint
from tests import parity
from tools.model_converters import stdasegnet2mmrs


@pytest.fixture
def release(golden, tmp_path):
    """A release's checkpoint file, the config of its model and what it should predict."""
    recorded = golden('train_mit64_decoder_only_t.pt')
    torch.save(dict(meta=dict(iter=3), state_dict=recorded['final_state']), tmp_path / 'iter_3.pth')
    Config(dict(default_scope='mmrs', model=parity.model_config(recorded['config']))).dump(tmp_path / 'config.py')
    return tmp_path, recorded


def run(folder, *options):
    paths = [str(folder / 'iter_3.pth'), str(folder / 'converted.pth'), '--config', str(folder / 'config.py')]
    return stdasegnet2mmrs.main([*paths, *options])


def test_converted_model_gives_the_originals_logits(release, capsys):
    folder, recorded = release
    assert run(folder) == 0
    assert f'{len(recorded["final_state"])} tensors' in capsys.readouterr().out
    parity.init_default_scope('mmrs')
    model = MODELS.build(parity.model_config(recorded['config']))
    model.load_state_dict(read_checkpoint(folder / 'converted.pth')['state_dict'])
    result = parity.Comparison(parity.TOLERANCES)
    parity.compare_logits(model, recorded['inference'], 'final', result)
    assert result.passed, str(result)
    assert len([name for name in recorded['inference'] if name.startswith('final')]) == 3


def test_nothing_is_overwritten_unasked(release, capsys):
    folder, _ = release
    (folder / 'converted.pth').write_text('precious')
    assert run(folder) == 2
    assert 'exists already' in capsys.readouterr().err
    assert (folder / 'converted.pth').read_text() == 'precious'
    assert run(folder, '--overwrite') == 0


def test_leftovers_are_refused(release, capsys):
    folder, recorded = release
    state = {**recorded['final_state'], 'auxiliary_head.weight': torch.zeros(1)}
    torch.save(dict(state_dict=state), folder / 'iter_3.pth')
    assert run(folder) == 2
    assert 'auxiliary_head.weight' in capsys.readouterr().err
    assert not (folder / 'converted.pth').exists()
