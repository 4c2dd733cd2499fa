import pytest
import torch

from mmrs.models.adaptors.st_dasegnet_release import rename_release, rename_stage
from mmrs.models.necks import DomainDisentangledNeck
from mmrs.models.necks.domain_disentangled import DisentangleStage
from mmrs.utils import ConfigError

CASES = ['dsk_C16_r8_L8', 'dsk_C16_r4_L2', 'ds2_C32_r8_L8', 'ds2_C32_r8_L2_big', 'ml_ds2_r4_L8', 'ml_dsk_r4_L8']


class OneStage(torch.nn.Module):
    def __init__(self, stage):
        super().__init__()
        self.stage = stage

    def forward(self, x_s, x_t):
        return tuple([out] for out in self.stage(x_s[0], x_t[0]))


def build(case, channels):
    parts = case.split('_')
    universal = 'ds2' in parts
    if parts[0] == 'ml':  # the release's neck over several stages ignores r
        prefix = 'segmentor.neck.'
        neck = DomainDisentangledNeck(channels, 'ds2' if universal else 'dsk', reduction=8, min_channels=8)
        return neck, lambda name: rename_release(f'dsk_neck.{name}').removeprefix(prefix)
    reduction, minimum = (int(next(p[1:] for p in parts if p[0] == letter)) for letter in 'rL')
    stage = DisentangleStage(channels[0], reduction, minimum, universal)
    return OneStage(stage), lambda name: f'stage.{rename_stage(name)}'


@pytest.mark.parametrize('case', CASES)
def test_outputs_and_gradients_match_the_release(golden, case):
    recorded = golden('necks.pt')[case]
    neck, rename = build(case, [x.shape[1] for x in recorded['x_s']])
    neck.load_state_dict({rename(name): value for name, value in recorded['state'].items()})
    x_s, x_t = ([x.clone().requires_grad_() for x in recorded[key]] for key in ('x_s', 'x_t'))
    out_s, out_t = neck(x_s, x_t)
    for key, outputs in (('out_s', out_s), ('out_t', out_t)):
        for value, expected in zip(outputs, recorded[key]):
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    loss = sum((out**2).sum() for out in [*out_s, *out_t])
    torch.testing.assert_close(loss, recorded['loss'], rtol=1e-6, atol=0)
    loss.backward()

    def close(gradient, expected, name):
        assert (gradient - expected).abs().max() <= 1e-4 * expected.abs().max().clamp(min=1e-6), name

    for key, inputs in (('grad_x_s', x_s), ('grad_x_t', x_t)):
        for x, expected in zip(inputs, recorded[key]):
            close(x.grad, expected, key)
    parameters = dict(neck.named_parameters())
    assert len(parameters) == len(recorded['grad_params'])
    for name, expected in recorded['grad_params'].items():
        close(parameters[rename(name)].grad, expected, name)


@pytest.mark.parametrize(
    ('channels', 'widened'),
    [([32, 64, 160, 256], 288), ([64, 128, 320, 512], 576), ([256, 512, 1024, 2048], 2304)],
)
def test_last_stage_grows_as_published(channels, widened):
    assert DomainDisentangledNeck(channels).out_channels == (*channels[:3], widened)
    assert DomainDisentangledNeck(channels, 'dsk').out_channels == tuple(channels)


def test_unused_stages_pass_through_and_stay_frozen():
    neck = DomainDisentangledNeck([8, 8, 16], used_stages=(0, 2))
    x_s, x_t = ([torch.randn(2, c, 4, 4) for c in (8, 8, 16)] for _ in range(2))
    out_s, out_t = neck(x_s, x_t)
    assert out_s[1] is x_s[1]
    assert out_t[1] is x_t[1]
    (out_s[0].sum() + out_t[0].sum() + out_s[2].sum() + out_t[2].sum()).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None) == ('stages.1.' not in name), name


def test_unknown_variant():
    with pytest.raises(ConfigError, match="expected 'ds2' or 'dsk'"):
        DomainDisentangledNeck([8], 'ds3')
