import pytest
import torch
from torch.nn import functional as F

from mmrs.models.discriminators import OutputDiscriminator
from mmrs.models.losses import GANLoss
from mmrs.utils import ConfigError
from tests.recordings import unpack


@pytest.fixture(scope='module')
def recorded(golden):
    return unpack(golden('uda_discriminator.pt'))


def test_outputs_and_losses_match_the_release(recorded):
    discriminator = OutputDiscriminator(5, base_channels=2)
    state = discriminator.state_dict()
    assert [tuple(v.shape) for v in state.values()] == [tuple(v.shape) for v in recorded['state'].values()]
    discriminator.load_state_dict(dict(zip(state, recorded['state'].values())))
    for name, case in recorded['cases'].items():
        logits = case['coarse_logits']
        p = F.interpolate(logits, tuple(case['size']), mode='bilinear', align_corners=False).softmax(1)
        score = discriminator.to(logits.dtype)(p)
        torch.testing.assert_close(score, case['out'], rtol=0, atol=1e-6, msg=name)
        for kind, short in (('vanilla', 'bce'), ('lsgan', 'ls')):
            loss = GANLoss(kind, real_label_val=0.0, fake_label_val=1.0)
            for domain, is_real in (('source', True), ('target', False)):
                assert float(loss(score, is_real)) == pytest.approx(float(case[f'{short}_as_{domain}']), abs=1e-6), name


def test_size_is_the_published_one(recorded):
    discriminator = OutputDiscriminator(19)
    shapes = [shape for _, shape in recorded['shapes_ndf64_19_classes']]
    assert [list(value.shape) for value in discriminator.state_dict().values()] == shapes
    assert sum(p.numel() for p in discriminator.parameters()) == recorded['n_parameters_19_classes'] == 2_781_121


def test_sizes_of_scores_and_crops_that_are_too_small(recorded):
    discriminator = OutputDiscriminator(2, base_channels=1)
    for side, expected in recorded['output_size_by_input_size'].items():
        image = torch.zeros(1, 2, 64, int(side))
        if expected is None:
            with pytest.raises(ConfigError, match=rf'64 x {side} px.* at least 32 px'):
                discriminator(image)
        else:
            assert discriminator(image).shape == (1, 1, 2, expected[1])
