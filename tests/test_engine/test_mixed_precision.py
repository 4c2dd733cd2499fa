import math

import pytest
import torch

from mmrs.engine.optimizers import AmpOptimWrapper, OptimWrapper
from mmrs.models.necks.domain_disentangled import DomainUniversalModule
from mmrs.models.parts import make_pseudo_label
from mmrs.utils import ConfigError
from tests.toy_gan import PARTS, ToyGAN, joint

needs_fp16 = pytest.mark.skipif(
    not hasattr(torch.amp, 'GradScaler'), reason='float16 on a CPU needs the scaler of torch 2.3'
)


SCALE = 256.0


def half(model, lr=0.1, **options):
    """The optimizers of mixed precision."""
    parts = {name: dict(optimizer=dict(type='SGD', lr=lr), **options.pop(name, {})) for name in PARTS}
    amp = dict(type='AmpOptimWrapper', dtype='float16', loss_scale=dict(init_scale=SCALE))
    return joint(model, **parts, **{**amp, **options})


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def batch(seed=0, **kwargs):
    return dict(x=torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)), **kwargs)


@needs_fp16
def test_one_scaler_for_the_joint_step():
    model, single = ToyGAN(), ToyGAN()
    wrapper = half(model)
    plain = joint(single, **{name: dict(optimizer=dict(type='SGD', lr=0.1)) for name in PARTS})
    start = parameters(model)
    for seed in range(5):
        model.train_step(batch(seed), wrapper)
        single.train_step(batch(seed), plain)
    assert set(model.dtypes) == {torch.float16}
    assert set(single.dtypes) == {torch.float32}
    assert wrapper['segmentor'].loss_scaler is wrapper['discriminator'].loss_scaler
    assert wrapper.lead.loss_scaler.get_scale() == SCALE
    moved = (parameters(single) - start).norm()
    assert (parameters(model) - parameters(single)).norm() < 0.01 * moved


@needs_fp16
@pytest.mark.parametrize('part', ['segmentor', 'discriminator'])
def test_an_overflow_in_one_part_stops_all_and_is_no_failure(part):
    model = ToyGAN()
    wrapper = half(model)
    start = parameters(model)
    hook = list(getattr(model, part).parameters())[-1].register_hook(lambda gradient: gradient * math.inf)
    model.train_step(batch(), wrapper)
    assert torch.equal(parameters(model), start)
    assert wrapper.lead.loss_scaler.get_scale() == SCALE / 2
    assert wrapper.rejected is None
    hook.remove()
    model.train_step(batch(), wrapper)
    moved = [not torch.equal(p, q) for p, q in zip(parameters(model).split([8, 3]), start.split([8, 3]))]
    assert moved == [True, True]


@needs_fp16
def test_a_bad_loss_is_a_failure():
    model = ToyGAN()
    wrapper = half(model)
    start = parameters(model)
    model.train_step(batch(factor=math.nan), wrapper)
    assert torch.equal(parameters(model), start)
    assert wrapper.rejected is not None


@needs_fp16
def test_a_bad_loss_among_accumulated_ones_is_a_failure():
    model = ToyGAN()
    wrapper = half(model, accumulative_counts=2)
    model.train_step(batch(factor=math.nan), wrapper)
    model.train_step(batch(), wrapper)
    assert wrapper.rejected is not None


@needs_fp16
def test_gradients_that_no_scale_helps_are_a_failure():
    model = ToyGAN()
    wrapper = half(model)
    model.discriminator.bias.register_hook(lambda gradient: gradient * math.inf)
    rejected = []
    for _ in range(10):
        model.train_step(batch(), wrapper)
        rejected.append(wrapper.rejected is not None)
    assert rejected == [False] * 9 + [True]  # 256, ..., 1, then 1 / 2


@needs_fp16
def test_an_overflow_at_a_fixed_scale_is_a_failure():
    model = ToyGAN()
    wrapper = half(model, loss_scale=512.0)
    model.discriminator.bias.register_hook(lambda gradient: gradient * math.inf)
    model.train_step(batch(), wrapper)
    assert wrapper.rejected is model.discriminator.bias
    assert wrapper.lead.loss_scaler.get_scale() == 512.0


@needs_fp16
def test_clipping_sees_gradients_without_the_scale():
    model = ToyGAN()
    wrapper = half(model, lr=1.0, segmentor=dict(clip_grad=dict(max_norm=1e-3)))
    start = parameters(model.segmentor)
    model.train_step(batch(), wrapper)
    assert (parameters(model.segmentor) - start).norm().item() == pytest.approx(1e-3, rel=1e-3)


@needs_fp16
def test_accumulation_adds_scaled_gradients():
    halves, whole = ToyGAN(), ToyGAN()
    wrapper, once = half(halves, accumulative_counts=2), half(whole)
    x = batch()['x']
    for part in x.split(4):
        halves.train_step(dict(x=part), wrapper)
    whole.train_step(dict(x=x), once)
    torch.testing.assert_close(parameters(halves), parameters(whole), rtol=0, atol=2e-4)


@needs_fp16
def test_the_scale_goes_into_the_state_and_out_again():
    model = ToyGAN()
    wrapper = half(model, loss_scale=dict(init_scale=8.0, growth_interval=1))
    model.train_step(batch(), wrapper)
    other = half(ToyGAN(), loss_scale=dict(init_scale=8.0, growth_interval=1))
    other.load_state_dict(wrapper.state_dict())
    assert other.lead.loss_scaler.get_scale() == 16.0
    amp = AmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=1.0), dtype='float16', loss_scale=4.0)
    for state in (
        AmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=1.0), dtype='bfloat16').state_dict(),
        OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0)).state_dict(),
    ):
        amp.load_state_dict(state)
        assert amp.loss_scaler.get_scale() == 4.0


def test_a_cpu_takes_bfloat16_without_a_scale():
    model = ToyGAN()
    wrapper = half(model, dtype=None)
    model.train_step(batch(), wrapper)
    assert model.dtypes == [torch.bfloat16]
    assert not wrapper.lead.loss_scaler.is_enabled()


def test_float16_on_a_cpu_says_which_torch_it_needs(monkeypatch):
    monkeypatch.delattr(torch.amp, 'GradScaler', raising=False)
    with pytest.raises(ConfigError, match=r'torch 2\.3 or newer.*bfloat16'):
        half(ToyGAN())


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(dtype='float64'), "dtype is 'float64'"),
        (dict(loss_scale='static'), "loss_scale is 'static'"),
        (dict(loss_scale=-1.0), r'loss_scale is -1\.0'),
        (dict(dtype='bfloat16', segmentor=dict(type='OptimWrapper', dtype=None)), None),
    ],
)
def test_bad_settings(changes, message):
    part = dict(optimizer=dict(type='SGD', lr=0.1))
    if message is None:
        with pytest.raises(ConfigError, match=r'differ in precision.*full.*bfloat16'):
            joint(ToyGAN(), segmentor=part, discriminator=dict(part, type='AmpOptimWrapper'))
        return
    with pytest.raises(ConfigError, match=message):
        half(ToyGAN(), **changes)


# What is computed from half precision --------------------------------------------------------------------------------


def test_the_share_of_confident_pixels_is_not_computed_in_half_precision():
    logits = (torch.randn(2, 6, 64, 64, generator=torch.Generator().manual_seed(0)) * 6 + 4).bfloat16()
    expected = make_pseudo_label(logits.double())
    with torch.autocast('cpu', torch.bfloat16):
        found = make_pseudo_label(logits)
    assert found.confident_share.item() == pytest.approx(expected.confident_share.item(), abs=1e-6)


@needs_fp16
def test_the_exponents_of_the_channel_affinity_do_not_overflow_in_float16():
    torch.manual_seed(0)
    module = DomainUniversalModule(64, 16)
    maps = [60 * torch.randn(2, 64, 32, 32) for _ in range(2)]  # sums over pixels of up to 4e5
    expected = module(*maps)
    with torch.autocast('cpu', torch.float16):
        found = module(*maps)
    for a, b in zip(found, expected):
        assert ((a.float() - b).norm() / b.norm()).item() < 0.05
