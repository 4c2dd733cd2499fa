import threading

import numpy as np
import pytest
import torch

from mmrs.prediction.predictors import FlipAverage
from mmrs.prediction.sources import ArraySource, WindowPixels, WindowSteps
from mmrs.prediction.stream import Task, stream
from mmrs.prediction.window_grid import WindowGrid
from mmrs.utils.errors import ConfigError
from tests.test_prediction.conftest import ByValue, smooth


class Kept:
    """An output in memory."""

    failed = False

    def __init__(self, shape):
        self.probabilities = np.full((3, *shape), np.nan, np.float32)

    def write(self, blended):
        (x0, y0, x1, y1), probabilities, _ = blended
        self.probabilities[:, y0:y1, x0:x1] = probabilities

    def fail(self, error):
        raise error


def predicted(image, predictor, size=(64, 64)):
    grid = WindowGrid(image.shape, size, classes=3)
    output = Kept(image.shape)
    source = ArraySource(image[..., None], None, WindowSteps())
    stream([Task(source, grid, run, output) for run in grid.runs(0)], predictor)
    return output.probabilities


def _says(values):
    """A predictor that says the same of every window, at a size of its own."""

    class Saying(ByValue):
        def __call__(self, images, valid):
            return torch.from_numpy(values).expand(len(images), -1, -1, -1)

    return Saying()


def test_coarse_predictions_are_interpolated_between_the_middles_of_their_pixels():
    said = np.random.default_rng(0).random((3, 8, 16)).astype(np.float32)
    found = predicted(np.ones((64, 64), np.uint8), _says(said))
    rows, columns = (np.interp((np.arange(64) + 0.5) * n / 64 - 0.5, np.arange(n), np.arange(n)) for n in (8, 16))
    expected = np.array(
        [[np.interp(columns, np.arange(16), line) for line in band] for band in said.astype(np.float64)]
    )  # (3, 8, 64)
    low = np.floor(rows).astype(int)
    share = (rows - low)[:, None]
    expected = expected[:, low] * (1 - share) + expected[:, np.minimum(low + 1, 7)] * share
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_fine_predictions_are_averaged():
    # Stripes, two of which lie under the middle of each pixel.
    said = np.broadcast_to(np.isin(np.arange(256) % 4, (1, 2)).astype(np.float32), (3, 256, 256)).copy()
    np.testing.assert_allclose(predicted(np.ones((64, 64), np.uint8), _says(said))[..., 2:-2], 0.5, atol=1e-6)


class Breaking(ByValue):
    """Reads or predicts three batches."""

    def __init__(self, error):
        self.error, self.calls = error, 0

    def read(self, window):
        self.calls += 1
        if self.calls == 3:
            raise self.error
        return WindowPixels(torch.zeros(1, 64, 64), None, np.ones((64, 64), bool), (1.0, 1.0))

    def __call__(self, images, valid):
        self.read(None)
        return super().__call__(images, valid)


@pytest.mark.parametrize('error', [RuntimeError('of the three'), MemoryError('of the three')])
@pytest.mark.parametrize('reader', [True, False])
def test_what_is_no_fault_of_the_image_stops_everything(error, reader):
    grid, breaking = WindowGrid((200, 200), (64, 64), classes=3), Breaking(error)
    source = breaking if reader else ArraySource(smooth((200, 200))[..., None], None, WindowSteps())
    with pytest.raises(type(error), match='of the three'):
        stream([Task(source, grid, run, Kept((200, 200))) for run in grid.runs(0)], ByValue() if reader else breaking)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(('reader', 'writer'))]


def test_batch_that_is_too_large_for_the_gpu():
    class Full(ByValue):
        def __call__(self, images, valid):
            raise torch.cuda.OutOfMemoryError('tried to allocate 80 GiB')

    with pytest.raises(ConfigError, match=r'lower --batch-size or --window \(tried to allocate'):
        predicted(smooth((64, 64)), Full())


def test_flips_turn_the_pixels_without_data_too():
    class Seeing(ByValue):
        def __call__(self, images, valid):
            return torch.stack((images[:, 0].float(), valid.float()), 1)

    images, valid = torch.arange(12).view(1, 1, 3, 4), torch.zeros(1, 3, 4, dtype=torch.bool)
    valid[0, 0, 1] = True
    found = FlipAverage(Seeing())(images, valid)
    assert torch.equal(found[:, 0], images[:, 0].float())
    assert torch.equal(found[:, 1], valid.float())


def test_pixels_of_an_array_without_data_have_the_mean_of_the_others():
    image, valid = np.full((64, 64, 1), 7.0), np.ones((64, 64), bool)
    image[:2], image[2, 5] = 200, np.nan
    valid[:2] = False
    found = ArraySource(image, valid, WindowSteps()).read((0, 0, 64, 64))
    valid[2, 5] = False
    np.testing.assert_array_equal(found.valid, valid)
    np.testing.assert_array_equal(found.shown, valid)
    assert (found.image == 7).all()


def test_no_more_is_read_than_is_needed_ahead():
    """Memory is bounded: a slow model holds the readers back."""
    reads, ahead = [], []

    class Counting:
        def read(self, window):
            reads.append(window)
            shown = np.ones((64, 64), bool)
            return WindowPixels(torch.zeros(1, 64, 64), None, shown, (1.0, 1.0))

    class Slow(ByValue):
        calls = 0

        def __call__(self, images, valid):
            self.calls += 1
            ahead.append(len(reads) - self.calls)
            return super().__call__(images, valid)

    grid = WindowGrid((64, 3000), (64, 64), classes=3)
    stream([Task(Counting(), grid, run, Kept((64, 3000))) for run in grid.runs(0)], Slow())
    assert len(reads) > 50
    assert max(ahead) <= 4
