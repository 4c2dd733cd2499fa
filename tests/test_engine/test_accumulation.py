"""k batches of n images are one batch of k n, for losses that are means over equally many samples."""

import copy

import pytest
import torch

from tests.conformance import changes
from tests.toy_gan import ToyGAN, batches, joint, single, state

CLIPPED = dict(segmentor=dict(clip_grad=dict(max_norm=0.05)))


@pytest.mark.parametrize(('build', 'options'), [(single, {}), (joint, CLIPPED)])
@pytest.mark.parametrize('number', [6, 7, 8])  # 3 + 3, and what is left over
def test_batches_add_up_to_one(build, options, number):
    accumulated, whole = ToyGAN().double(), ToyGAN().double()
    wrapper, once = build(accumulated, accumulative_counts=3, **options), build(whole, **options)
    wrapper.initialize_count_status(accumulated, 0, number)
    small = [dict(x=batch['x'].double()) for batch in batches(number)]
    for batch in small:
        accumulated.train_step(batch, wrapper)
    for start in range(0, number, 3):
        whole.train_step(dict(x=torch.cat([batch['x'] for batch in small[start : start + 3]])), once)
    for value, expected, before in zip(accumulated.parameters(), whole.parameters(), ToyGAN().parameters()):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
        assert not torch.equal(value, before.double())


@pytest.mark.parametrize('build', [single, joint])
def test_a_step_with_a_bad_loss_before_the_stop_is_skipped_after_it(build):
    """The running statistics are then those from before the step, which the stopped run alone has seen."""
    before, bad, after = batches(3)
    bad['x'][0, 0] = torch.nan
    stopped, resumed = ToyGAN(norm=True), ToyGAN(norm=True)
    wrapper, again = (build(model, accumulative_counts=2) for model in (stopped, resumed))
    wrapper.initialize_count_status(stopped, 0, 4)
    for batch in (before, before):
        stopped.train_step(batch, wrapper)
    expected = state(stopped, wrapper)['model']
    stopped.train_step(bad, wrapper)
    assert stopped.segmentor[1].running_mean.isnan().any()
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    again.load_state_dict(copy.deepcopy(wrapper.state_dict()))
    again.initialize_count_status(resumed, 3, 4)
    resumed.train_step(after, again)
    assert again.rejected is not None
    assert changes(resumed.state_dict(), expected) == set()
