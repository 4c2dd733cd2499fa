"""k batches of n images are one batch of k n, for losses that are means over equally many pixels."""

import copy

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from torch import nn

from mmrs.engine.optimizers import JointOptimWrapperConstructor, OptimWrapper
from mmrs.models.losses import PixelMeanCrossEntropyLoss
from tests.tiny_runs import quick_start, write_adaptation_config, write_clips, write_config  # noqa: F401

OPTIMIZERS = dict(
    segmentor=dict(optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.1)),
    discriminator=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9), clip_grad=dict(max_norm=0.05)),
)


class ToyAdaptor(BaseModel):
    """Segmentation and adversarial losses on maps, without normalisation by batch, in double precision."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.segmentor = nn.Conv2d(3, 4, 3, padding=1)
        self.discriminator = nn.Sequential(nn.Conv2d(4, 2, 3, bias=False), nn.InstanceNorm2d(2), nn.Conv2d(2, 1, 3))
        self.cross_entropy = PixelMeanCrossEntropyLoss(class_weight=[1.0, 2.0, 0.5, 1.0])
        self.double()

    def forward(self, images, labels, mode='loss'):
        logits = self.segmentor(images)
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        score = torch.func.functional_call(self.discriminator, frozen, (logits.softmax(1),))
        own = self.discriminator(logits.softmax(1).detach())
        return dict(
            loss_seg=self.cross_entropy(logits, labels),
            loss_adv=nn.functional.softplus(-score).mean(),
            loss_disc=nn.functional.softplus(own).mean(),
        )


def single(model, counts):
    return OptimWrapper(torch.optim.AdamW(model.parameters(), lr=0.01), accumulative_counts=counts)


def joint(model, counts):
    return JointOptimWrapperConstructor(dict(copy.deepcopy(OPTIMIZERS), accumulative_counts=counts))(model)


def batches(number, size=2):
    generator = torch.Generator().manual_seed(3)
    for _ in range(number):
        labels = torch.randint(4, (size, 8, 8), generator=generator)
        labels[0, :2] = 255
        yield dict(images=torch.randn(size, 3, 8, 8, generator=generator, dtype=torch.float64), labels=labels)


def joined(parts):
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


@pytest.mark.parametrize('build', [single, joint])
@pytest.mark.parametrize('number', [6, 7, 8])  # 3 + 3, and what is left over
def test_batches_add_up_to_one(build, number):
    accumulated, whole = ToyAdaptor(), ToyAdaptor()
    init_default_scope('mmrs')
    wrapper, once = build(accumulated, 3), build(whole, 1)
    wrapper.initialize_count_status(accumulated, 0, number)
    small = list(batches(number))
    for batch in small:
        accumulated.train_step(batch, wrapper)
    for start in range(0, number, 3):
        whole.train_step(joined(small[start : start + 3]), once)
    initial = ToyAdaptor()
    for value, expected, before in zip(accumulated.parameters(), whole.parameters(), initial.parameters()):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
        assert not torch.equal(value, before)


@pytest.mark.parametrize('build', [single, joint])
@pytest.mark.parametrize('stop', [1, 2, 3, 5])
def test_a_state_between_two_steps_keeps_the_gradients(build, stop, monkeypatch):
    said = []
    monkeypatch.setattr('mmengine.optim.optimizer.optimizer_wrapper.print_log', lambda line, **_: said.append(line))
    init_default_scope('mmrs')
    steady, stopped = ToyAdaptor(), ToyAdaptor()
    small = list(batches(7))
    wrapper = build(steady, 3)
    wrapper.initialize_count_status(steady, 0, 7)
    for batch in small:
        steady.train_step(batch, wrapper)

    wrapper = build(stopped, 3)
    wrapper.initialize_count_status(stopped, 0, 7)
    for batch in small[:stop]:
        stopped.train_step(batch, wrapper)
    resumed = ToyAdaptor()
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    again = build(resumed, 3)
    again.load_state_dict(copy.deepcopy(wrapper.state_dict()))
    again.initialize_count_status(resumed, stop, 7)
    for batch in small[stop:]:
        resumed.train_step(batch, again)
    for value, expected in zip(resumed.parameters(), steady.parameters()):
        assert torch.equal(value, expected)
    assert said == []  # MMEngine's warning of lost gradients


@pytest.mark.parametrize('build', [single, joint])
def test_a_step_with_a_bad_loss_before_the_stop_is_skipped_after_it(build):
    """The running statistics are then those from before the step, which the stopped run alone has seen."""

    class Normalising(ToyAdaptor):
        def __init__(self):
            super().__init__()
            self.segmentor = nn.Sequential(self.segmentor, nn.BatchNorm2d(4)).double()

    init_default_scope('mmrs')
    before, bad, after = batches(3)
    bad['images'][0, 0, 0, 0] = torch.nan
    stopped, resumed = Normalising(), Normalising()
    wrapper, again = build(stopped, 2), build(resumed, 2)
    wrapper.initialize_count_status(stopped, 0, 4)
    for batch in (before, before):
        stopped.train_step(batch, wrapper)
    expected = copy.deepcopy(stopped.state_dict())
    stopped.train_step(bad, wrapper)
    assert stopped.segmentor[1].running_mean.isnan().any()
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    again.load_state_dict(copy.deepcopy(wrapper.state_dict()))
    again.initialize_count_status(resumed, 3, 4)
    resumed.train_step(after, again)
    assert again.rejected is not None
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_teacher_ends_a_step_where_one_large_batch_takes_it():
    """Before each of k batches it moves by decay ** (1 / k) towards the same students: once by decay."""
    decay, k = 0.999, 4
    student, teacher, expected = 2.0, 1.0, 1.0
    for step in (5, 5000):  # in the warm-up, and after it
        for iteration in range(step * k, step * k + k):
            alpha = min(1 - 1 / (iteration + 1), decay ** (1 / k))
            teacher = alpha * teacher + (1 - alpha) * student
        alpha = min(1 - 1 / (step + 1), decay)
        expected = alpha * expected + (1 - alpha) * student
        np.testing.assert_allclose(teacher, expected, rtol=1e-12)
