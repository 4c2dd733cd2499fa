import math
import re

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from torch import nn

from mmrs.apis.training import train
from mmrs.datasets.transforms import LoadRasterImage
from mmrs.engine.hooks import NonFiniteHook
from mmrs.registry import HOOKS, MODELS, TRANSFORMS
from mmrs.utils.errors import ConfigError, TrainingError
from tests.conformance import changes
from tests.test_engine.test_distributed import launch_program
from tests.tiny_runs import quick_start, write_adaptation_config, write_clips, write_config  # noqa: F401
from tests.toy_gan import ToyGAN, batches, joint, single, state


@pytest.mark.parametrize('build', [single, joint])
@pytest.mark.parametrize(
    'bad', [*(dict(factor=value) for value in (math.nan, math.inf, -math.inf)), dict(offset=math.inf)]
)
def test_a_bad_loss_changes_nothing(build, bad):
    """With good gradients neither, which those of an infinite constant are."""
    model = ToyGAN(norm=True)
    wrapper = build(model)
    first, second, third = batches(3)
    model.train_step(first, wrapper)
    before = state(model, wrapper)
    model.train_step(dict(second, **bad), wrapper)
    assert wrapper.rejected is not None
    assert changes(state(model, wrapper), before) == set()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    model.train_step(third, wrapper)
    assert wrapper.rejected is None
    assert changes(state(model, wrapper), before) != set()


@pytest.mark.parametrize('build', [single, joint])
def test_a_run_goes_on_as_if_the_bad_batch_had_not_been(build):
    good = batches(3)
    expected, found = ToyGAN(norm=True), ToyGAN(norm=True)
    wrappers = build(expected), build(found)
    for batch in good:
        expected.train_step(batch, wrappers[0])
    for batch in [good[0], dict(good[1], x=torch.full((4, 3), math.nan)), *good[1:]]:
        found.train_step(batch, wrappers[1])
    assert changes(state(found, wrappers[1]), state(expected, wrappers[0])) == set()


def test_a_bad_gradient_of_a_good_loss():
    model = ToyGAN(norm=True)
    wrapper = joint(model)
    before = state(model, wrapper)
    model.discriminator.bias.register_hook(lambda gradient: gradient * math.inf)
    model.train_step(batches(1)[0], wrapper)
    assert wrapper.rejected is model.discriminator.bias
    assert changes(state(model, wrapper), before) == set()


def test_gradients_whose_squares_overflow_do_not_reach_the_second_moment():
    model = ToyGAN(norm=True)
    wrapper = joint(model)
    hook = model.discriminator.weight.register_hook(lambda gradient: gradient * 0 + 1e30)
    model.train_step(batches(1)[0], wrapper)
    assert wrapper.rejected is model.discriminator.weight
    hook.remove()
    model.train_step(batches(1)[0], wrapper)
    assert wrapper['discriminator'].optimizer.state[model.discriminator.weight]['exp_avg_sq'].isfinite().all()


@pytest.mark.parametrize('build', [single, joint])
def test_one_bad_batch_of_several_accumulated_ones(build):
    model = ToyGAN(norm=True)
    wrapper = build(model, accumulative_counts=2)
    first, second, *rest = batches(4)
    before = state(model, wrapper)
    model.train_step(dict(first, factor=math.nan), wrapper)
    model.train_step(second, wrapper)
    assert wrapper.rejected is not None
    assert changes(state(model, wrapper), before) == set()
    for batch in rest:
        model.train_step(batch, wrapper)
    assert wrapper.rejected is None
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert changes(state(model, wrapper), before) != set()


def test_a_good_loss_gets_the_gradient_that_torch_computes():
    model, reference = ToyGAN(), ToyGAN()
    (batch,) = batches(1)
    sum(reference(**batch).values()).backward()
    single(model).backward(sum(model(**batch).values()))
    assert all(torch.equal(own.grad, p.grad) for own, p in zip(model.parameters(), reference.parameters()))


# The hook, in whole runs ----------------------------------------------------------------------------------------------

HOOK = """
default_hooks['non_finite'] = dict(type='NonFiniteHook', max_skipped={most})
train_cfg['max_iters'] = {iterations}
train_cfg['val_interval'] = 100
"""


@TRANSFORMS.register_module()
class LoadSpoiltImage(LoadRasterImage):
    """Loads float images; the ones of a given name have a value that is not finite."""

    def __init__(self, bad: str = '', **kwargs):
        super().__init__(**kwargs)
        self.bad = bad

    def transform(self, results):
        results = super().transform(results)
        results['img'] = results['img'].astype(np.float32)
        if results['img_path'].endswith(self.bad):
            results['img'][3, 5, 1] = np.inf
        return results


@MODELS.register_module()
class SpoiltLoss(nn.Module):
    """A loss whose value, or gradient, is not finite at every other step; a look at it before the training passes."""

    loss_name = 'loss_spoilt'

    def __init__(self, gradient: bool = False):
        super().__init__()
        self.gradient, self.calls = gradient, 0

    def forward(self, logits, label, weight=None, ignore_index=255, **_):
        if not logits.requires_grad:
            loss = nn.functional.cross_entropy(logits, label, ignore_index=ignore_index, reduction='none')
            return loss.mean() if weight is None else (loss * weight).mean()
        self.calls += 1
        if self.calls % 2 and self.gradient:
            logits.register_hook(lambda gradient: gradient / 0)
        return logits.square().mean() * (math.nan if self.calls % 2 and not self.gradient else 1.0)


def run(tmp_path, extra, write=write_config, most=100, iterations=4, resume=None):
    if not (tmp_path / 'data').exists():
        write_clips(tmp_path / 'data')
    config = write(tmp_path / 'config.py', tmp_path / 'data')
    text = config.read_text()
    if write is write_adaptation_config:
        text += 'train_cfg = dict()\ndefault_hooks = dict()\n'
    config.write_text(text + HOOK.format(most=most, iterations=iterations) + extra)
    return train(config, tmp_path / 'run', overwrite=resume is None, resume=resume, pretrained=False)


def skipped(warned):
    return [line for line in warned if 'the optimizers took no step' in line]


LOSS = "model['decode_head']['loss_decode'] = dict(type='SpoiltLoss', gradient={gradient})\n"


def test_a_bad_loss_is_named_with_the_files_of_the_batch(tmp_path, warned):
    runner = run(tmp_path, LOSS.format(gradient=False))
    lines = skipped(warned)
    assert [re.match(r'iteration (\d+)', line)[1] for line in lines] == ['1', '3']
    assert all('decode.loss_spoilt is nan' in line for line in lines)
    assert all(len(re.findall(r'img_dir/train/clip\d\.png', line)) == 2 for line in lines)
    assert 'Skipped so far: 2' in lines[1]
    assert runner.message_hub.get_scalar('train/skipped_steps').current() == 2
    assert all(parameter.isfinite().all() for parameter in runner.model.state_dict().values())


def test_a_bad_gradient_is_named(tmp_path, warned):
    run(tmp_path, LOSS.format(gradient=True), iterations=1)
    assert 'the gradient of backbone.layers.0.0.projection.weight is not finite' in skipped(warned)[0]


LOAD = (
    "train_dataloader['dataset']['pipeline'] = [dict(type='LoadSpoiltImage', bad='clip1.png'), *train_pipeline[1:]]\n"
)


def test_a_bad_image_is_named_before_the_loss(tmp_path, warned):
    run(tmp_path, LOAD, iterations=2)  # both batches of an epoch of four clips
    (line,) = skipped(warned)
    assert re.search(r'the image \S+train/clip1\.png has values that are not finite', line)


@HOOKS.register_module()
class SpoilParameter(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.model.decode_head.conv_seg.bias.data[2] = math.nan


def test_a_bad_parameter_is_named_before_the_loss(tmp_path, warned):
    run(tmp_path, "custom_hooks = [dict(type='SpoilParameter')]\n", iterations=1)
    assert 'decode_head.conv_seg.bias of the model has values that are not finite' in skipped(warned)[0]


def test_accumulated_batches_are_all_named(tmp_path, warned):
    run(tmp_path, LOAD + "optim_wrapper['accumulative_counts'] = 2\n", iterations=2)
    (line,) = skipped(warned)
    assert sorted(set(re.findall(r'clip\d', line.split('Images of the step')[1]))) == [f'clip{i}' for i in range(4)]


def test_both_domains_are_named(tmp_path, warned):
    extra = "model['decode_head']['loss_decode'] = dict(type='SpoiltLoss', _delete_=True)\n"
    run(tmp_path, extra, write=write_adaptation_config, iterations=1)
    (line,) = skipped(warned)
    assert 'loss_seg_s2s is nan' in line
    assert len(re.findall(r'img_dir/train/clip', line)) == 2
    assert len(re.findall(r'img_dir/val/clip', line)) == 2


def test_too_many_end_the_run_and_are_counted_across_a_resume(tmp_path, warned):
    run(tmp_path, LOSS.format(gradient=False), most=2, iterations=4)  # 1 and 3
    assert len(skipped(warned)) == 2
    with pytest.raises(
        TrainingError, match=r'(?s)iteration 5: .*loss_spoilt is nan.*clip.*: 3, and .*max_skipped is 2'
    ):
        run(tmp_path, LOSS.format(gradient=False), most=2, iterations=6, resume='auto')


RANKS = """
import copy, math, sys
from types import SimpleNamespace
import torch
from mmengine.logging import MessageHub
from mmrs.engine.distributed import CPUDistributedDataParallel
from mmrs.utils.process_group import init_cpu_group
from mmrs.engine.hooks import NonFiniteHook
from tests.conformance import changes
from tests.toy_gan import ToyGAN, batches, joint, state

init_cpu_group()
rank = torch.distributed.get_rank()
model = ToyGAN(norm=True)
wrapped = CPUDistributedDataParallel(model, broadcast_buffers=False)
wrapper, hook = joint(model, accumulative_counts=2), NonFiniteHook(max_skipped=9)
lines = []
runner = SimpleNamespace(
    model=wrapped, optim_wrapper=wrapper, iter=0, message_hub=MessageHub.get_instance('test'),
    logger=SimpleNamespace(warning=lines.append))
before = state(model, wrapper)
good, bad = batches(2)
for factor in (math.nan if rank == 1 else 1.0, 1.0):
    outputs = wrapped.train_step(dict(good, factor=factor), wrapper)
    for name, value in outputs.items():
        runner.message_hub.update_scalar(f'train/{name}', value)
    sample = SimpleNamespace(img_path=f'rank{rank}.png')
    hook.after_train_iter(runner, 0, dict(inputs=[good['x']], data_samples=[sample]), outputs)
assert wrapper.rejected is not None
assert changes(state(model, wrapper), before) == set()
assert 'loss_seg is nan' in lines[0] and 'rank1.png' in lines[0] and 'rank0.png' not in lines[0], lines
for _ in range(2):
    wrapped.train_step(bad, wrapper)
assert wrapper.rejected is None and changes(state(model, wrapper), before) != set()
"""


@pytest.mark.slow
def test_a_bad_loss_on_one_of_two_processes_stops_both(tmp_path):
    script = tmp_path / 'ranks.py'
    script.write_text(RANKS)
    launch_program(str(script), 2)


@pytest.mark.parametrize('number', [-1, 1.5, True, '3'])
def test_the_number_is_checked(number):
    with pytest.raises(ConfigError, match='max_skipped is'):
        NonFiniteHook(number)


def test_another_wrapper_is_left_alone(tmp_path):
    class Runner:
        optim_wrapper = object()

    NonFiniteHook().after_train_iter(Runner(), 0)
