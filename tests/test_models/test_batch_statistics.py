import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmrs.models.batch_statistics import adapt_batch_statistics, blend_weight, kept_batch_statistics
from mmrs.utils.errors import ConfigError, DataError
from tests.test_models.test_shift_logits import HEAD, built


class Segmentor(nn.Module):
    """Convolution, normalisation, ReLU, twice; then what pools each image to one pixel, if asked."""

    def __init__(self, pools: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 5, 3, 2, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(5)])
        self.auxiliary, self.pool = nn.BatchNorm2d(4), nn.BatchNorm2d(5) if pools else None
        for norm in self.norms:
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)

    def encode_decode(self, images: Tensor, metas: Any) -> Tensor:
        maps = self.norms[1](self.second(self.norms[0](self.first(images)).relu()))
        return maps if self.pool is None else maps + self.pool(maps.mean((2, 3), keepdim=True))


def photographs(number: int, seed: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    brightness = torch.randn(number, 3, 1, 1, generator=random)
    return torch.randn(number, 3, 32, 40, generator=random) * 0.7 + brightness + 2


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if 'running' in name}


def by_numpy(model: Segmentor, images: Tensor, weight: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same in float64, from all values so far at once: what both layers blend, after all images."""
    model = copy.deepcopy(model).double()
    seen: list[list[np.ndarray]] = [[], []]
    blends = []
    for image in images.double():
        maps, blends = image[None], []
        for i, (convolution, norm) in enumerate(zip((model.first, model.second), model.norms)):
            with torch.no_grad():
                values = convolution(maps if i == 0 else maps.relu()).numpy()
            seen[i].append(values)
            flat = np.concatenate([own.transpose(1, 0, 2, 3).reshape(own.shape[1], -1) for own in seen[i]], 1)
            mean = (1 - weight) * norm.running_mean.numpy() + weight * flat.mean(1)
            variance = (1 - weight) * norm.running_var.numpy() + weight * flat.var(1, ddof=1)
            scale = norm.weight.detach().numpy() / np.sqrt(variance + norm.eps)
            maps = torch.from_numpy((values - mean[:, None, None]) * scale[:, None, None])
            blends.append((mean, variance))
    return blends


@pytest.mark.parametrize('weight', [0.3, 1.0])
def test_what_layers_blend_is_what_a_float64_formula_gives_of_all_images(weight):
    model, images = Segmentor(), photographs(5)
    expected = by_numpy(model, images, weight)
    counts = adapt_batch_statistics(model, [(images, None)], weight)
    assert counts == {'norms.0': 5 * 16 * 20, 'norms.1': 5 * 8 * 10}
    for norm, (mean, variance) in zip(model.norms, expected):
        np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(norm.running_var, variance, rtol=1e-4)


def test_of_one_image_it_is_training_mode_and_of_many_the_first_layer_is():
    image, model = photographs(1), Segmentor()
    own = copy.deepcopy(model).train()
    for norm in own.norms:
        norm.momentum = 1.0
    own.encode_decode(image, [])
    adapt_batch_statistics(model, [(image, None)], 1)
    for mine, other in zip(model.norms, own.norms):
        torch.testing.assert_close(mine.running_mean, other.running_mean, rtol=1e-2, atol=1e-3)  # divisors n and n - 1
        torch.testing.assert_close(mine.running_var, other.running_var, rtol=1e-2, atol=0)
    images = photographs(6)
    own.encode_decode(images, [])
    adapt_batch_statistics(model, [(images, None)], 1)
    torch.testing.assert_close(model.norms[0].running_mean, own.norms[0].running_mean)
    torch.testing.assert_close(model.norms[0].running_var, own.norms[0].running_var)


@pytest.mark.parametrize('kind', ['EncoderDecoder', 'DACS'])
def test_every_layer_that_predicts_follows_and_no_teacher_also_where_it_is_joined_with_its_convolution(kind):
    model = built(kind, dict(HEAD, norm_cfg=dict(type='BN')))
    image = torch.randn(1, 3, 64, 96)
    own = copy.deepcopy(model)
    norms = {name: m for name, m in own.named_modules() if isinstance(m, nn.BatchNorm2d) and 'teacher' not in name}
    for norm in norms.values():
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        own.encode_decode(image, [dict(img_shape=(64, 96))])
    assert len(adapt_batch_statistics(model, [(image, None)], 1)) == len(norms) == 5
    for name, norm in norms.items():
        mine, few = model.get_submodule(name), 2 / 6  # the coarsest map has 6 pixels: divisors n and n - 1
        torch.testing.assert_close(mine.running_mean, norm.running_mean, rtol=few, atol=0.05)
        torch.testing.assert_close(mine.running_var, norm.running_var, rtol=few, atol=1e-3)
        assert mine.running_mean.any()
    assert all(conv.efficient_conv_bn_eval_forward is not None for conv in model.decode_head.convs)
    if kind == 'DACS':
        assert not model.teacher.decode_head.fusion_conv.bn.running_mean.any()


def test_the_size_of_batches_and_the_mode_change_nothing_and_twice_is_the_same():
    images, found = photographs(6), []
    for size, training in ((1, False), (4, True), (6, False), (6, False)):
        model = Segmentor().train(training)
        model.norms[1].eval()
        adapt_batch_statistics(model, [(part, None) for part in images.split(size)], 0.5)
        assert (model.training, model.norms[1].training, model.norms[0].training) == (training, False, training)
        assert not model.norms[0]._forward_pre_hooks
        found.append(statistics(model))
    for other in found[1:]:
        assert all(torch.equal(other[name], value) for name, value in found[0].items())


def test_weights_that_are_0_leave_all_as_it_is_and_context_gives_it_back():
    model = Segmentor()
    before = statistics(model)
    assert adapt_batch_statistics(model, iter([None]), 0) == {}  # nothing is looked at
    with kept_batch_statistics(model):
        assert all(torch.equal(value, before[name]) for name, value in statistics(model).items())
        adapt_batch_statistics(model, [(photographs(3), None)], 0.5)
        changed = [name for name, value in statistics(model).items() if not torch.equal(value, before[name])]
        assert sorted({name.rpartition('.')[0] for name in changed}) == ['norms.0', 'norms.1']
        assert len(changed) == 4
    assert all(torch.equal(value, before[name]) for name, value in statistics(model).items())
    assert [blend_weight(n, prior) for n, prior in ((0, 0), (4, 0), (4, 12), (0, 3))] == [0, 1, 0.25, 0]


def test_pixels_without_data_have_no_part_where_a_layer_sees_them_alone():
    images, valid = photographs(3), torch.ones(3, 32, 40, dtype=torch.bool)
    images[0, :, :, 20:], valid[0, :, 20:] = 50, False  # all of the values that a convolution of 1 x 1 sees
    images[1], valid[1] = torch.nan, False
    model = Segmentor()
    model.first = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        values = model.first(images)
    seen = torch.cat([values[0, :, :, :20].flatten(1), values[2].flatten(1)], 1).double()
    adapt_batch_statistics(model, [(images, valid)], 1)
    torch.testing.assert_close(model.norms[0].running_mean.double(), seen.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.norms[0].running_var.double(), seen.var(1), rtol=1e-5, atol=1e-5)


def test_what_cannot_work_is_refused_and_leaves_the_model():
    no_data = torch.zeros(1, 32, 40, dtype=torch.bool)
    for pools, images, valid, words in (
        (False, photographs(1), no_data, 'data'),
        (True, photographs(1), None, 'pool got 1 values'),
        (False, photographs(2) * torch.tensor([1.0, torch.inf])[:, None, None, None], None, 'norms.0'),
    ):
        model = Segmentor(pools)
        before = statistics(model)
        with pytest.raises(DataError, match=words):
            adapt_batch_statistics(model, [(images, valid)], 1)
        assert all(torch.equal(value, before[name]) for name, value in statistics(model).items())
    with pytest.raises(ConfigError, match='1 LayerNorm'):
        adapt_batch_statistics(nn.Sequential(nn.LayerNorm(3)), [], 1)
    with pytest.raises(ConfigError, match='weight'):
        adapt_batch_statistics(Segmentor(), [], 1.1)
    pooled = Segmentor(pools=True)
    assert adapt_batch_statistics(pooled, [(photographs(3), None)], 1)['pool'] == 3
