import pytest
import torch

from mmrs.models.discriminators import PatchDiscriminator
from mmrs.utils import ConfigError


def test_outputs_and_gradients_match_the_release(golden):
    cases = golden('disc.pt')
    assert {name.split('_')[0] for name in cases} == {'nc1', 'nc2', 'nc3'}
    for name, case in cases.items():
        discriminator = PatchDiscriminator(8, num_conv=int(name[2]), base_channels=4)
        renamed = {key.replace('discriminator.', 'layers.', 1): value for key, value in case['state'].items()}
        discriminator.load_state_dict(renamed)
        x = case['x'].clone().requires_grad_()
        out = discriminator(x)
        torch.testing.assert_close(out, case['out'], rtol=1e-4, atol=1e-5, msg=name)
        loss = (out**2).sum()
        torch.testing.assert_close(loss, case['loss'], rtol=1e-5, atol=1e-6, msg=name)
        loss.backward()
        expected = {f'layers.{key.split(".", 1)[1]}': value for key, value in case['grad_params'].items()}
        gradients = {key: p.grad for key, p in discriminator.named_parameters()} | {'x': x.grad}
        for key, value in (expected | {'x': case['grad_x']}).items():
            cancelled = key.endswith('conv.bias') and key != 'layers.0.conv.bias'  # by the normalisation behind
            if not cancelled:
                assert (gradients[key] - value).abs().max() <= 1e-4 * value.abs().max(), (name, key)


@pytest.mark.parametrize('num_conv', [1, 2, 3, 4])
def test_smallest_feature_map(num_conv):
    discriminator = PatchDiscriminator(3, num_conv, base_channels=2)
    size = {1: 6, 2: 12, 3: 24, 4: 48}[num_conv]
    assert discriminator(torch.randn(1, 3, size, size)).shape == (1, 1, 1, 1)
    with pytest.raises(ConfigError, match=f'at least {size} x {size}'):
        discriminator(torch.randn(1, 3, size, size - 1))


@pytest.mark.parametrize('num_conv', [1, 2, 3, 4])
def test_shapes_are_the_published_ones(num_conv):
    discriminator = PatchDiscriminator(512, num_conv)
    widths = [layer.conv.out_channels for layer in discriminator.layers[:-1]]
    assert widths == [64, *(64 * min(2**i, 8) for i in range(1, num_conv + 1))]
