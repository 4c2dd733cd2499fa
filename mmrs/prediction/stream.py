"""Reading, predicting and writing at the same time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmrs.prediction.canvas import Blended, Canvas
from mmrs.prediction.predictors import Predictor
from mmrs.prediction.sources import Source, WindowPixels
from mmrs.prediction.window_grid import GridWindow, Run, WindowGrid
from mmrs.utils.errors import ConfigError, OutputError

__all__ = ['Output', 'Task', 'Times', 'stream']

#: Threads that read. Decoding a window takes less time than predicting it, but the first of a file may be slow to come.
READERS = 2

Batch = list[GridWindow]


@dataclass
class Times:
    """Where the time went, in seconds.

    Attributes:
        total: From the first window to the last.
        waiting: Of it, while the model had no windows to predict, or no room for its predictions.
        windows: Windows that were predicted; those without data are not.
    """

    total: float = 0.0
    waiting: float = 0.0
    windows: int = 0

    def __iadd__(self, other: Times) -> Times:
        self.total += other.total
        self.waiting += other.waiting
        self.windows += other.windows
        return self

    @property
    def waiting_share(self) -> float:
        """Share of the time, 0 to 1."""
        return self.waiting / self.total if self.total else 0.0


class Output(Protocol):
    """Where predictions go."""

    @property
    def failed(self) -> bool:
        """Whether something went wrong with the image, so that nothing more of it is wanted."""
        ...

    def write(self, blended: Blended) -> None:
        """Take a part."""
        ...

    def fail(self, error: Exception) -> None:
        """Take note that the image cannot be read."""
        ...


class Task:
    """A run of parts of one image.

    Args:
        source: The image.
        grid: Its windows.
        run: Which parts.
        output: Takes them.
        finish: Called after the last one.
    """

    def __init__(
        self, source: Source, grid: WindowGrid, run: Run, output: Output, finish: Callable[[], None] | None = None
    ) -> None:
        self.source, self.grid, self.run, self.output = source, grid, run, output
        self._finish = finish
        self._canvas: Canvas | None = None

    def read(self, batch: Batch) -> list[WindowPixels | None]:
        """The pixels of a batch; None for windows of which nothing is wanted."""
        return [self.source.read(window.pixels) for window in batch]

    def blend(
        self, batch: Batch, pixels: Sequence[WindowPixels | None], probabilities: Tensor | None, last: bool
    ) -> None:
        """Blend a batch, in the order of the run, and write the parts that it finishes."""
        if self._canvas is None:
            self._canvas = Canvas(self.grid, self.run)
        values = iter(() if probabilities is None else probabilities)
        for window, found in zip(batch, pixels):
            for part in self._canvas.before(window):
                self.output.write(part)
            if found is not None:
                self._canvas.add(window, _at_size(next(values), self.grid.size), found.shown)
        if last:
            for part in self._canvas.rest():
                self.output.write(part)
            self._canvas = None
            if self._finish is not None:
                self._finish()


def stream(tasks: Iterable[Task], predictor: Predictor, advance: Callable[[int], None] = lambda windows: None) -> Times:
    """Predict the windows of tasks, one task after the other.

    Threads read ahead and blend behind, so that the model has always windows to predict. An image that cannot be read
    fails, and the others go on.

    Args:
        tasks: Taken as needed.
        predictor: The model.
        advance: Told of the number of windows that are done.

    Raises:
        OutputError: A part cannot be written.
        ConfigError: A batch does not fit into the device's memory.
    """
    times, began = Times(), time.perf_counter()
    batches = _batches(tasks)
    readers = ThreadPoolExecutor(READERS, 'reader')
    writer = ThreadPoolExecutor(1, 'writer')
    ahead: deque[tuple[Task, Batch, bool, Future]] = deque()
    behind: deque[Future] = deque()
    try:
        while True:
            for task, batch, last in islice(batches, 2 * READERS - len(ahead)):
                ahead.append((task, batch, last, readers.submit(task.read, batch)))
            if not ahead:
                break
            task, batch, last, reading = ahead.popleft()
            try:
                with _Counted(times):
                    pixels = reading.result()
                probabilities = None if task.output.failed else predict_batch(predictor, pixels)
            except OutputError:
                raise
            except (OSError, ValueError) as error:
                task.output.fail(error)
                continue
            with _Counted(times):
                while len(behind) >= 2:
                    behind.popleft().result()
            if not task.output.failed:
                behind.append(writer.submit(task.blend, batch, pixels, probabilities, last))
                times.windows += sum(found is not None for found in pixels)
            advance(len(batch))
        for blending in behind:
            blending.result()
    except torch.cuda.OutOfMemoryError as error:
        raise ConfigError(
            f'a batch does not fit into the memory of the GPU: lower --batch-size or --window ({error})'
        ) from error
    finally:
        readers.shutdown(cancel_futures=True)
        writer.shutdown(cancel_futures=True)
        times.total = time.perf_counter() - began
    return times


class _Counted:
    """Counts the time in a `with` block as waiting."""

    def __init__(self, times: Times) -> None:
        self._times = times

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        self._times.waiting += time.perf_counter() - self._began


def _batches(tasks: Iterable[Task]) -> Iterator[tuple[Task, Batch, bool]]:
    """Each task's batches, and whether it is the last one."""
    for task in tasks:
        left = len(task.run.batches)
        for batch in task.grid.batches(task.run):
            if task.output.failed:
                break
            left -= 1
            yield task, batch, left == 0


def predict_batch(predictor: Predictor, pixels: Sequence[WindowPixels | None]) -> Tensor | None:
    """Probabilities ``(N, K, h, w)`` of the windows that have pixels, at the size that the model takes."""
    found = [window for window in pixels if window is not None]
    if not found:
        return None
    images, valid = torch.stack([window.image for window in found]), None
    if images.shape[1] != predictor.bands:
        raise ConfigError(
            f'the image has {images.shape[1]} bands (alpha not counted), but the model was trained on '
            f'{predictor.bands}: choose bands with --bands'
        )
    if any(window.valid is not None for window in found):
        everywhere = torch.ones(images.shape[-2:], dtype=torch.bool)
        valid = torch.stack([everywhere if window.valid is None else window.valid for window in found])
    probabilities = predictor(images, valid)
    height, width = (max(1, round(n * share)) for n, share in zip(probabilities.shape[-2:], found[0].inside))
    return probabilities[..., :height, :width]


def _at_size(probabilities: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Probabilities ``(K, h, w)`` of a window at its own size.

    One by one, for windows of a raster that is much finer than the model's resolution are large.
    """
    height, width = probabilities.shape[-2:]
    if (height, width) != size:
        probabilities = F.interpolate(
            probabilities[None], size, mode='bilinear', antialias=height * width > size[0] * size[1]
        )[0]
    return probabilities.cpu().numpy()
