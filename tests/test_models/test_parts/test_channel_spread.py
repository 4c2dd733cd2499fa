import numpy as np
import pytest
import torch

from mmrs.models.parts import ChannelSpread, channel_spread


def test_spread_of_equal_batches_is_that_of_all_pixels():
    """While batches count alike; pixels of no weight do not count."""
    rng = np.random.default_rng(0)
    features = rng.normal([[0.0], [5], [-3]], [[1.0], [0.1], [20]], (6, 3, 40)).astype(np.float32)
    spread = ChannelSpread(3, momentum=0.01)
    shown = torch.zeros(2, 5, 16)
    shown[..., ::2] = 1
    for part in features.reshape(3, 2, 3, 5, 8):
        wide = torch.from_numpy(part.repeat(2, axis=-1))
        wide[..., 1::2] = 1e3
        spread.update(wide, shown)
    expected = features.astype(np.float64).transpose(1, 0, 2).reshape(3, -1).var(1)
    np.testing.assert_allclose(spread.variance, expected, rtol=1e-4)


def test_spread_follows_with_its_momentum():
    spread = ChannelSpread(1, momentum=0.5)
    batches = [torch.randn(2, 1, 8, 8, dtype=torch.float64) * (i + 1) + i for i in range(5)]
    share = np.array([0.5**4, 0.5**4, 0.5**3, 0.5**2, 0.5])  # 1, then 1/2 of what comes, and so on
    for features in batches:
        spread.update(features.float(), torch.ones(2, 8, 8))
    mean = sum(w * float(b.mean()) for w, b in zip(share, batches))
    square = sum(w * float(b.square().mean()) for w, b in zip(share, batches))
    np.testing.assert_allclose(float(spread.variance), square - mean**2, rtol=1e-4)


def test_normalised_features_have_unit_spread_but_for_silent_channels():
    spread = ChannelSpread(3)
    features = torch.randn(4, 3, 32, 32) * torch.tensor([1.0, 10, 0]).view(-1, 1, 1)
    spread.update(features, torch.ones(4, 32, 32))
    normalised = spread(features)
    assert normalised.std((0, 2, 3)) == pytest.approx(torch.tensor([1.0, 1, 0]), abs=0.05)
    # A silent channel counts by a hundredth of the mean variance, and is not divided by nothing.
    assert float(spread(torch.ones(1, 3, 1, 1))[0, 2]) == pytest.approx((0.01 * 101 / 3) ** -0.5, rel=0.05)


def test_spread_over_several_processes(monkeypatch):
    """It is that of all their pixels."""
    rng = np.random.default_rng(0)
    own, other = rng.normal(0, 1, (2, 3, 4, 4)), rng.normal(2, 3, (2, 3, 4, 4))
    mean = np.concatenate((own, other)).mean((0, 2, 3))
    sums = iter((
        np.append(other.sum((0, 2, 3)), 2 * 4 * 4),
        ((other - mean[:, None, None]) ** 2).sum((0, 2, 3)),
    ))  # fmt: skip
    monkeypatch.setattr(channel_spread, 'all_reduce', lambda tensor: tensor.add_(torch.from_numpy(next(sums))))
    spread = ChannelSpread(3).double()
    spread.update(torch.from_numpy(own), torch.ones(2, 4, 4).double())
    np.testing.assert_allclose(spread.variance, np.concatenate((own, other)).var((0, 2, 3)))


def test_spread_of_a_batch_without_pixels_is_as_before():
    spread = ChannelSpread(2)
    spread.update(torch.randn(1, 2, 8, 8), torch.ones(1, 8, 8))
    before = {name: value.clone() for name, value in spread.state_dict().items()}
    spread.update(torch.randn(1, 2, 8, 8), torch.zeros(1, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in spread.state_dict().items())
