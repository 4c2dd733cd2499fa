import copy

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmrs.models import DomainAdaptationDataPreprocessor
from mmrs.utils import ConfigError


def domain(bands, sizes, labelled=True, dtype=torch.uint8):
    generator = torch.Generator().manual_seed(0)
    images, samples = [], []
    for height, width in sizes:
        images.append(torch.randint(0, 256, (bands, height, width), generator=generator).to(dtype))
        sample = SegDataSample(metainfo=dict(img_path=f'{height}x{width}.tif', img_shape=(height, width)))
        if labelled:
            sample.gt_sem_seg = PixelData(data=torch.ones(1, height, width, dtype=torch.long))
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


@pytest.mark.parametrize('bands', [1, 3, 5])
def test_each_domain_has_its_own_statistics(bands):
    mean, std = [10.0 * b for b in range(bands)], [2.0 + b for b in range(bands)]
    preprocessor = DomainAdaptationDataPreprocessor(mean, std, [1.0] * bands, [4.0] * bands)
    batch = dict(source=domain(bands, [(4, 6)]), target=domain(bands, [(4, 6)], labelled=False))
    out = preprocessor(batch, training=True)
    raw = batch['source']['inputs'][0].double()
    expected = (batch['target']['inputs'][0].double() - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(
        -1, 1, 1
    )
    torch.testing.assert_close(out['inputs']['source'][0].double(), (raw - 1) / 4, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(out['inputs']['target'][0].double(), expected, atol=1e-5, rtol=1e-6)
    assert 'gt_sem_seg' in out['data_samples']['source'][0]
    assert 'gt_sem_seg' not in out['data_samples']['target'][0]


def test_plain_batches_use_the_target_statistics():
    preprocessor = DomainAdaptationDataPreprocessor([0.0], [2.0], [5.0], [5.0])
    data = domain(1, [(3, 3)])
    for training in (False, True):
        out = preprocessor(data, training)
        torch.testing.assert_close(out['inputs'][0], data['inputs'][0].float() / 2)


def test_training_pads_images_and_labels():
    preprocessor = DomainAdaptationDataPreprocessor([0.0], [1.0], size_divisor=8, pad_val=-1)
    out = preprocessor(domain(1, [(5, 9), (8, 3)]), training=True)
    assert out['inputs'].shape == (2, 1, 8, 16)
    assert (out['inputs'][0, :, 5:] == -1).all()
    label = out['data_samples'][0].gt_sem_seg.data
    assert label.shape == (1, 8, 16)
    assert (label[:, 5:] == 255).all()
    assert (label[:, :5, :9] == 1).all()


def test_both_domains_are_padded_to_one_size():
    preprocessor = DomainAdaptationDataPreprocessor([0.0], [1.0])
    batch = dict(source=domain(1, [(5, 9), (8, 3)]), target=domain(1, [(7, 11), (7, 11)], labelled=False))
    out = preprocessor(batch, training=True)
    assert out['inputs']['source'].shape == out['inputs']['target'].shape == (2, 1, 8, 11)
    first = out['data_samples']['source'][0]
    assert (first.gt_sem_seg.data[:, :5, :9] == 1).all()
    assert (first.gt_sem_seg.data == 1).sum() == first.valid_map.data.sum() == 5 * 9
    assert out['data_samples']['target'][0].valid_map.data.sum() == 7 * 11


def test_test_batches_of_one_size_only():
    preprocessor = DomainAdaptationDataPreprocessor([0.0], [1.0])
    with pytest.raises(ConfigError, match=r'different sizes \[\(5, 9\), \(8, 3\)\]'):
        preprocessor(domain(1, [(5, 9), (8, 3)]))


def test_test_time_padding_is_known_to_the_samples():
    preprocessor = DomainAdaptationDataPreprocessor([0.0], [1.0], test_cfg=dict(size_divisor=8))
    out = preprocessor(domain(1, [(5, 9)]))
    assert out['inputs'].shape == (1, 1, 8, 16)
    assert tuple(out['data_samples'][0].metainfo['img_padding_size']) == (0, 7, 0, 3)


def test_number_of_bands():
    preprocessor = DomainAdaptationDataPreprocessor([0.0] * 3, [1.0] * 3)
    with pytest.raises(ConfigError, match=r'4x6.tif has 4 bands, but .* 3'):
        preprocessor(domain(4, [(4, 6)]))
    with pytest.raises(ConfigError, match='3 means but 2 standard deviations'):
        DomainAdaptationDataPreprocessor([0.0] * 3, [1.0] * 2)


def test_pixels_without_data_become_zero_after_normalisation():
    preprocessor = DomainAdaptationDataPreprocessor([3.0, 5.0], [2.0, 2.0])
    data = domain(2, [(4, 6)])
    valid = torch.ones(1, 4, 6, dtype=torch.bool)
    valid[:, 1:3, 2:5] = False
    data['data_samples'][0].valid_map = PixelData(data=valid)
    for training in (True, False):
        out = preprocessor(copy.deepcopy(data), training=training)['inputs'][0]
        expected = (data['inputs'][0].double() - torch.tensor([3.0, 5.0]).view(-1, 1, 1)) / 2
        expected[:, 1:3, 2:5] = 0
        torch.testing.assert_close(out.double(), expected)


def test_padding_is_no_data():
    """The first image is padded and has a hole, the second is padded, the third neither."""
    data = domain(1, [(3, 4), (5, 4), (5, 6)])
    valid = torch.ones(1, 3, 4, dtype=torch.bool)
    valid[0, 0, 0] = False
    data['data_samples'][0].valid_map = PixelData(data=valid)
    samples = DomainAdaptationDataPreprocessor([0.0], [1.0])(data, training=True)['data_samples']
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[:3, :4] = valid[0]
    assert torch.equal(samples[0].valid_map.data[0], expected)
    assert samples[1].valid_map.data.sum() == 20
    assert not samples[1].valid_map.data[:, :, 4:].any()
    assert 'valid_map' not in samples[2]


@pytest.mark.parametrize('name', ['mean', 'source_std'])
def test_statistics_that_nobody_filled_in(name):
    values = {'mean': [1.0], 'std': [1.0], 'source_mean': [1.0], 'source_std': [1.0], name: 'auto'}
    with pytest.raises(ConfigError, match=r"is 'auto', for which tools/train\.py"):
        DomainAdaptationDataPreprocessor(**values)
