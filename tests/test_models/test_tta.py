import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmrs.registry import MODELS


class Model(nn.Module):
    """What a merging asks its model for."""

    def __init__(self, out_channels, threshold=None):
        super().__init__()
        self.out_channels = out_channels
        self.decode_head = nn.Module()
        self.decode_head.threshold = threshold

    def test_step(self, data):
        raise NotImplementedError


def versions(values):
    samples = []
    for value in values:
        samples.append(SegDataSample(metainfo=dict(img_path='a.png')))
        samples[-1].seg_logits = PixelData(data=value)
    samples[0].gt_sem_seg = PixelData(data=torch.zeros(1, 7, 9, dtype=torch.long))
    return samples


def merged(model, values):
    tta = MODELS.build(dict(type='SegTTAModel', module=model))
    (sample,) = tta.merge_preds([versions(values)])
    assert sample.img_path == 'a.png'
    assert 'gt_sem_seg' in sample
    return sample.pred_sem_seg.data


@pytest.mark.parametrize('threshold', [0.3, 0.5, 0.8])
def test_one_channel(threshold):
    """The mean of the probabilities, as the model gives them, over the threshold."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(1, 7, 9, generator=generator) + 0.1 * torch.randn(3, 1, 7, 9, generator=generator)
    expected = values.double().numpy().mean(0) > threshold
    assert 0 < expected.mean() < 1
    labels = merged(Model(1, threshold), values)
    np.testing.assert_array_equal(labels.numpy(), expected)


def test_several_channels():
    values = torch.randn(4, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    z = np.exp(values.double().numpy())
    expected = (z / z.sum(1, keepdims=True)).mean(0).argmax(0)
    np.testing.assert_array_equal(merged(Model(3), values)[0].numpy(), expected)
