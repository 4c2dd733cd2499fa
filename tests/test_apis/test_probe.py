import numpy as np
import pytest
import torch
from mmengine.config import Config
from scipy.optimize import minimize

from mmrs.apis.probe import LinearProbe, _scores, probe
from mmrs.registry import MODELS
from mmrs.utils.errors import CheckpointError, DataError
from tests.tiny_runs import quick_start, write_clips, write_config  # noqa: F401
from tools.analysis_tools import probe as tool


def test_the_classifier_is_the_minimum_that_another_optimiser_finds():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 4)) * [1, 5, 0.2, 1] + 3
    labels = (features[:, 0] > 3).astype(int) + (features[:, 1] + rng.normal(size=200) > 5)
    found = LinearProbe(torch.from_numpy(features), torch.from_numpy(labels), 3, penalty=0.01)
    rows = (features - features.mean(0)) / features.std(0)

    def loss(parameters):
        weights, offsets = parameters[:12].reshape(4, 3), parameters[12:]
        logits = rows @ weights + offsets
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -log_p[np.arange(200), labels].mean() + 0.005 * (weights**2).sum()

    expected = minimize(loss, np.zeros(15), tol=1e-12).x
    np.testing.assert_allclose(found.weights.detach().numpy(), expected[:12].reshape(4, 3), atol=1e-4)
    logits = rows @ expected[:12].reshape(4, 3) + expected[12:]
    assert found(torch.from_numpy(features)).tolist() == logits.argmax(1).tolist()


def test_scores_by_hand():
    predicted, truth = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 0])
    # Class 0: 1 of 3 pixels, class 1: 2 of 3, class 2: 0 of 1, class 3 is nowhere.
    assert _scores(predicted, truth, 4) == pytest.approx(dict(mIoU=100 * (1 / 3 + 2 / 3 + 0) / 3, accuracy=60.0))


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('probe')
    return write_config(folder / 'tiny.py', write_clips(folder / 'data', val=6))


def test_a_checkpoint_is_probed_by_its_backbone(config, tmp_path, capsys):
    model = MODELS.build(Config.fromfile(config).model)
    state = model.state_dict()
    settings = dict(tiles=3, number=2, pixels=100, device='cpu')
    file = tmp_path / 'weights.pth'
    torch.save(dict(state_dict={**state, 'pretext.backbone.head.0.weight': torch.zeros(1)}), file)
    found = probe(config, file, **settings)
    assert (found['tiles'], found['images']) == (3, 2)
    assert {k: found[k] for k in ('mIoU', 'accuracy')} == {
        k: probe(config, file, **settings)[k] for k in ('mIoU', 'accuracy')
    }
    blind = {k: torch.zeros_like(v) if k.startswith('backbone.') else v for k, v in state.items()}
    torch.save(dict(state_dict=blind), tmp_path / 'blind.pth')
    blind = probe(config, tmp_path / 'blind.pth', **settings)
    assert blind['mIoU'] <= blind['accuracy'] / 5 + 1e-9  # one class for all pixels
    assert found['mIoU'] > blind['mIoU']
    tool.main(
        [str(config), '--checkpoints', 'random', str(file), '--tiles', '3', '--seeds', '0', '1', '--pixels', '50']
    )
    assert capsys.readouterr().out.count('\n| ') >= 4


def test_what_cannot_be_probed(config, tmp_path):
    file = tmp_path / 'weights.pth'
    torch.save(dict(state_dict={'segmentor.backbone.source.weight': torch.zeros(1)}), file)
    with pytest.raises(CheckpointError, match='backbone'):
        probe(config, file, tiles=2, device='cpu')
    torch.save(dict(state_dict={'backbone.weight': torch.zeros(1)}), file)
    with pytest.raises(CheckpointError, match='fit'):
        probe(config, file, tiles=2, device='cpu')
    with pytest.raises(DataError, match='6 images'):
        probe(config, tiles=10, device='cpu')
