"""Names of the ST-DASegNet release, whose checkpoints this project's model can load after a renaming."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from mmrs.utils import CheckpointError

_DOMAIN = {'s': 'source', 't': 'target'}
# Patterns are tried in order; `{d}` in a replacement is the domain that the pattern's first group names.
_RULES = [
    (r'backbone_([st])\.', 'segmentor.backbone.{d}.'),
    (r'decode_head_([st])\.', 'segmentor.decode_head.{d}.'),
    (r'discriminator_([st])\.discriminator\.', 'discriminator.{d}.layers.'),
    (r'cross_EMA_decoder_([st])\.', 'teacher.{d}.'),
    (r'cross_EMA_backbone\.', 'teacher.backbone.'),
    (r'cross_EMA_decoder\.', 'teacher.decode_head.'),
]
_NECK = [
    (r'fc\.', 'specific.squeeze.'),
    (r'fcs\.0\.', 'specific.excite.source.'),
    (r'fcs\.1\.', 'specific.excite.target.'),
    (r'conv\.', 'universal.universal.'),
    (r'conv_([st])\.', 'universal.project.{d}.'),
]


def _rename(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    for pattern, replacement in rules:
        match = re.match(pattern, name)
        if match:
            domain = _DOMAIN[match[1]] if match.groups() else ''
            return replacement.format(d=domain) + name[match.end() :]
    return None


def rename_stage(name: str) -> str | None:
    """Name within a :class:`DisentangleStage` for one within a stage of the release's neck."""
    return _rename(name, _NECK)


def rename_release(name: str) -> str | None:
    """Name of a tensor in :class:`STDASegNet` for its name in the release; None where there is no counterpart."""
    neck = re.match(r'dsk_neck\.dsk_neck(\d+)\.', name)
    if neck:
        inner = rename_stage(name[neck.end() :])
        return inner and f'segmentor.neck.stages.{int(neck[1]) - 1}.{inner}'
    return _rename(name, _RULES)


def convert_release(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename a release checkpoint's tensors for ``model``.

    Args:
        state: The release's state dict.
        model: The :class:`STDASegNet` that will load it.

    Returns:
        A state dict that ``model`` loads strictly.

    Raises:
        CheckpointError: If a tensor has no place in the model, a place has no tensor, or shapes differ.
    """
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    converted, leftover = {}, []
    for name, value in state.items():
        new = rename_release(name)
        if new in expected:
            converted[new] = value
        else:
            leftover.append(name)
    missing = [name for name in expected if name not in converted]
    unequal = [
        f'{name}: {tuple(converted[name].shape)} in the checkpoint, {shape} in the model'
        for name, shape in expected.items()
        if name in converted and tuple(converted[name].shape) != shape
    ]
    for names, problem in (
        (leftover, 'tensors of the checkpoint have no place in the model'),
        (missing, 'tensors of the model are not in the checkpoint'),
        (unequal, 'tensors differ in shape'),
    ):
        if names:
            shown = '\n  '.join(names[:10]) + ('\n  ...' if len(names) > 10 else '')
            raise CheckpointError(
                f'{len(names)} {problem}; does the config describe the checkpoint (backbone, decode head, neck, '
                f'discriminator, teacher)?\n  {shown}'
            )
    return converted
