"""What comparisons with recorded trainings of released code share; see `parity.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor


def unpack(recorded: Any) -> Any:
    """The tensors of a recording by name, where groups of them are stored as `names`, `shapes` and one `flat` one."""
    if isinstance(recorded, dict):
        if {'names', 'shapes', 'flat'} <= recorded.keys():
            parts = recorded['flat'].split([math.prod(shape) for shape in recorded['shapes']])
            return {n: part.reshape(s) for n, s, part in zip(recorded['names'], recorded['shapes'], parts)}
        return {key: unpack(value) for key, value in recorded.items()}
    return [unpack(value) for value in recorded] if isinstance(recorded, list) else recorded


def enlarged(coarse: Tensor, factor: int = 8) -> Tensor:
    """Each pixel `factor` times along height and width, the last two axes: images and labels are stored coarse."""
    return coarse.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def two_domain_batch(source: Tensor, labels: Tensor, target: Tensor) -> dict:
    """A batch in the form that a data loader yields.

    Args:
        source: Images ``(N, C, H, W)``, normalised.
        labels: Theirs, ``(N, H, W)``.
        target: Images of the target, ``(N, C, h, w)``.
    """
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label[None].long())) for label in labels]
    return dict(
        source=dict(inputs=list(source), data_samples=samples),
        target=dict(inputs=list(target), data_samples=[SegDataSample() for _ in target]),
    )


def relative(value: Tensor | float, expected: Tensor | float, floor: float) -> float:
    """Largest difference, relative to the largest expected magnitude or ``floor``."""
    value, expected = torch.as_tensor(value).double(), torch.as_tensor(expected).double()
    return float((value - expected).abs().max() / expected.abs().max().clamp(min=floor))


class Comparison:
    """Largest error per kind, with the name of the tensor that has it.

    Args:
        tolerances: The largest error that passes, for each kind.
    """

    def __init__(self, tolerances: Mapping[str, float]) -> None:
        self.tolerances = tolerances
        self.errors = dict.fromkeys(tolerances, (0.0, '-'))

    def add(self, kind: str, error: float, name: str) -> None:
        """Keep the error if it is the largest of its kind; not-a-number counts as infinite."""
        error = float('inf') if error != error else error
        self.errors[kind] = max(self.errors[kind], (error, name))

    @property
    def passed(self) -> bool:
        """Whether all errors are within tolerance."""
        return all(error <= self.tolerances[kind] for kind, (error, _) in self.errors.items())

    def __str__(self) -> str:
        parts = [
            f'{kind} {error:.1e}{"" if error <= self.tolerances[kind] else f" > {self.tolerances[kind]:.0e} ({name})"}'
            for kind, (error, name) in self.errors.items()
        ]
        return ('ok    ' if self.passed else 'FAIL  ') + '  '.join(parts)
