"""The numbered stream of training samples: what is read follows from the seed and the place alone."""

import random

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmrs.datasets import stream
from mmrs.datasets.stream import ATTEMPTS, Draw, SampleStream, SplitUnreadable, StreamedDataset, stream_of, streamed
from mmrs.utils import random_states
from mmrs.utils.errors import ConfigError, DataError, UnusableError

SIZE = 7


class Numbers(Dataset):
    """Its samples are what the generators give; some cannot be read."""

    metainfo = dict(classes=('a', 'b'))

    def __init__(self, bad=(), error=OSError):
        self.bad, self.error = bad, error

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        if index in self.bad:
            raise self.error(f'{index}.tif is cut')
        drawn = random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002
        return dict(index=index, drawn=drawn)


def loader(workers=0, batch_size=3, endless=True, sampler='InfiniteSampler', seed=5, dataset=None):
    config = dict(dataset=dataset or Numbers(), sampler=dict(type=sampler, shuffle=True), batch_size=batch_size)
    built = Runner.build_dataloader(dict(streamed(config, endless), num_workers=workers), seed=seed)
    built.collate_fn = SplitUnreadable(built.collate_fn)
    return built


def samples(built, number):
    """The first samples, in their order."""
    found = []
    for batch, failures in built:
        assert not failures
        found += zip(batch['index'], zip(*batch['drawn']))
        if len(found) >= number:
            return found[:number]
    return found


@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'DefaultSampler'])
def test_samples_depend_on_seed_and_place_alone(sampler):
    whole = samples(loader(sampler=sampler), 4 * SIZE)
    torch.manual_seed(99)
    assert samples(loader(sampler=sampler), 4 * SIZE) == whole
    assert samples(loader(workers=2, batch_size=4, sampler=sampler), 4 * SIZE) == whole
    assert samples(loader(sampler=sampler, seed=6), 4 * SIZE) != whole
    # Each epoch has every sample, in another order, with other numbers.
    for start in range(0, 4 * SIZE, SIZE):
        assert sorted(index for index, _ in whole[start : start + SIZE]) == list(range(SIZE))
    assert len({drawn for _, drawn in whole}) == 4 * SIZE
    assert len({tuple(index for index, _ in whole[i * SIZE : (i + 1) * SIZE]) for i in range(4)}) > 1


@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'DefaultSampler'])
@pytest.mark.parametrize('skipped', [1, SIZE, 2 * SIZE + 3])
def test_a_stream_begins_anywhere(sampler, skipped):
    whole = samples(loader(sampler=sampler), 5 * SIZE)
    built = loader(sampler=sampler)
    stream_of(built).skipped = skipped
    assert samples(built, 2 * SIZE) == whole[skipped : skipped + 2 * SIZE]


def test_processes_share_one_stream(monkeypatch):
    whole = samples(loader(), 4 * SIZE)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(stream, 'get_dist_info', lambda rank=rank: (rank, 2))
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 2))
        parts.append(samples(loader(), 2 * SIZE))
    assert [sample for pair in zip(*parts) for sample in pair] == whole


@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'DefaultSampler'])
def test_the_first_batches_of_an_epoch_alone(sampler):
    config = dict(dataset=Numbers(), sampler=dict(type=sampler, shuffle=False), batch_size=2, num_batch_per_epoch=2)
    built = Runner.build_dataloader(dict(streamed(config, sampler == 'InfiniteSampler'), num_workers=0), seed=5)
    drawn = [draw.index for draw, _ in zip(built.sampler, range(8))]
    assert drawn == [0, 1, 2, 3] * (2 if sampler == 'InfiniteSampler' else 1)


def test_epochs_of_their_own():
    built = loader(endless=False, sampler='DefaultSampler')
    epochs = []
    for epoch in range(3):
        stream_of(built).set_epoch(epoch)
        epochs.append(samples(built, 10 * SIZE))
    assert all(sorted(index for index, _ in epoch) == list(range(SIZE)) for epoch in epochs)
    assert len({drawn for epoch in epochs for _, drawn in epoch}) == 3 * SIZE
    stream_of(built).set_epoch(1)
    assert samples(built, 10 * SIZE) == epochs[1]


def test_the_seed_of_a_resumed_run_counts():
    built = loader(seed=8)
    stream_of(built).reseed(5)
    assert samples(built, 3 * SIZE) == samples(loader(seed=5), 3 * SIZE)
    # A seed of the sampler's own stays.
    built = SampleStream(StreamedDataset(Numbers()), dict(type='InfiniteSampler', seed=77), True, seed=8)
    built.reseed(5)
    assert (built.seed, built.sampler.seed) == (5, 77)


def test_the_process_draws_on_as_if_nothing_had_been_read():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    before = random_states.capture()
    StreamedDataset(Numbers())[Draw(5, 0, 3)]
    assert random_states.capture() == before
    random.random()
    assert random_states.capture() != before


def test_a_plain_loader_has_no_stream():
    plain = Runner.build_dataloader(dict(dataset=Numbers(), sampler=dict(type='InfiniteSampler'), batch_size=1), seed=0)
    assert stream_of(plain) is None


# Samples that cannot be read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('error', [OSError, UnusableError])
def test_another_sample_takes_the_place(error):
    dataset = StreamedDataset(Numbers(bad=(2, 3), error=error))
    found = [dataset[Draw(1, position, 2)] for position in range(200)]
    indices = [sample['index'] for sample, _ in found]
    assert set(indices) == {0, 1, 4, 5, 6}
    assert all(failures[0] == '2.tif is cut' for _, failures in found)
    assert any(len(failures) > 1 for _, failures in found)
    # Any other is as likely.
    assert max(map(indices.count, set(indices))) < 70
    again = [dataset[Draw(1, position, 2)] for position in range(200)]
    assert again == found
    # What was drawn before the file broke does not change the others.
    whole = StreamedDataset(Numbers())
    assert dataset[Draw(1, 3, 4)] == whole[Draw(1, 3, 4)]


@pytest.mark.parametrize('error', [ConfigError, DataError])
def test_mistakes_of_a_configuration_or_data_set_are_not_replaced(error):
    with pytest.raises(error, match='is cut'):
        StreamedDataset(Numbers(bad=(2,), error=error))[Draw(0, 0, 2)]


def test_a_disk_that_is_gone():
    with pytest.raises(DataError, match=f'{ATTEMPTS} samples in a row could not be read'):
        StreamedDataset(Numbers(bad=range(SIZE)))[Draw(0, 0, 2)]


def test_collation_gathers_the_messages():
    batch, failures = SplitUnreadable(pseudo_collate)([(dict(a=1), []), (dict(a=2), ['x', 'y']), (dict(a=3), ['z'])])
    assert batch == dict(a=[1, 2, 3])
    assert failures == ['x', 'y', 'z']
