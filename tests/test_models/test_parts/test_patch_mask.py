import numpy as np
import pytest
import torch

from mmrs.models.parts import PatchMask
from mmrs.utils import ConfigError


def test_masks_are_the_releases(golden):
    for name, case in golden('uda_mic_mask.pt').items():
        mask, images = PatchMask(case['ratio'], case['block']), torch.ones(case['image_shape'])
        torch.manual_seed(case['seed'])
        assert torch.equal(mask.draw(images), case['rand']), name
        torch.manual_seed(case['seed'])
        assert torch.equal(mask(images), case['mask'].expand_as(images).float()), name


def test_as_many_blocks_are_hidden_as_the_ratio_says():
    images = torch.ones(40, 2, 64, 96)
    masked = PatchMask(0.7, 8)(images)[:, 0].numpy()
    blocks = masked.reshape(40, 8, 8, 12, 8).swapaxes(2, 3).reshape(40, 96, 64)
    assert (blocks == blocks[..., :1]).all()
    hidden = 1 - blocks[..., 0].mean()
    assert hidden == pytest.approx(0.7, abs=4 * np.sqrt(0.7 * 0.3 / 3840))
    assert len(np.unique(blocks[..., 0], axis=0)) == 40  # no two images alike


@pytest.mark.parametrize(('options', 'named'), [(dict(ratio=1.0), 'ratio'), (dict(block=0), 'block')])
def test_what_makes_no_sense_is_refused(options, named):
    with pytest.raises(ConfigError, match=rf'masked_consistency\.{named}'):
        PatchMask(**options)
