"""Weights matched with a model: never loaded in silence when they do not fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model.weight_init import PretrainedInit, update_init_info
from torch import Tensor, nn

from mmrs.registry import WEIGHT_INITIALIZERS
from mmrs.utils.errors import CheckpointError, some
from mmrs.utils.wrappers import unwrapped
from mmrs.weights.reading import state_dict_of
from mmrs.weights.remote import load_checkpoint

__all__ = ['Match', 'expand_bands', 'is_pretrained', 'load_matching']

#: What only a pre-training has. ``pretext.PART.*`` is what has trained the network up to that part.
PRETEXT = 'pretext.'
#: The layer of decode heads that labels alone can train.
_CLASSIFIER = 'conv_seg.'
_OF_BACKBONE = (
    ". Pre-train the network that is to start from it; or take its backbone alone: model.backbone.init_cfg=dict(type='"
    "Pretrained', checkpoint='{}', prefix='backbone.')"
)


@dataclass(frozen=True)
class Match:
    """How the keys of a checkpoint met those of a model; `loaded` counts, the rest lists."""

    loaded: int
    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]

    @property
    def complete(self) -> bool:
        """Whether each weight of the file has met a weight of the model, and none of the model is left."""
        return not (self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        parts = [f'{self.loaded} weights fit']
        for name, keys in (
            ('missing from the file', self.missing),
            ('in the file only', self.unexpected),
            ('of another shape', self.misshapen),
        ):
            if keys:
                parts.append(f'{len(keys)} {name} ({some(keys, 3)})')
        return ', '.join(parts)


def load_matching(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    source: str | Path,
    strict: bool = False,
    partial_source: bool = False,
) -> Match:
    """Load what fits by name and shape, and say what did not.

    A pre-training gives the parts that it has trained, the decode head's without its classifier, and each of them has
    to fit completely; what else the model has starts anew. A model that has such parts elsewhere, or takes some of them
    alone, says so as `pretrained_places`: names of its own modules by those of the parts.

    Args:
        model: A module, or a wrapper of one (data-parallel, test-time augmentation).
        weights: Tensors by name.
        source: Name of the file, for messages.
        strict: Demand that everything fits.
        partial_source: The file is expected to hold more than the model, a classifier's last layer for example:
            keys that the model lacks are no reason for a warning.

    Raises:
        CheckpointError: Nothing matched; or, with `strict` or from a pre-training, not everything.
    """
    model = unwrapped(model)
    own = model.state_dict()
    pretrained = is_pretrained(weights) and not is_pretrained(own)
    trained: tuple[str, ...] = ()
    if pretrained:
        weights, trained = _placed(_trained_parts(weights), getattr(model, 'pretrained_places', None))
    misshapen = [k for k, v in weights.items() if k in own and own[k].shape != v.shape]
    fitting = {k: v for k, v in weights.items() if k not in misshapen}
    missing, unexpected = model.load_state_dict(fitting, strict=False)
    # A counter that old checkpoints lack; nothing here depends on it.
    missing = [k for k in missing if k not in misshapen and not k.endswith('num_batches_tracked')]
    match = Match(len(fitting) - len(unexpected), missing, list(unexpected), misshapen)
    if lost := [key for key in (*unexpected, *misshapen) if key.endswith('.lora_b')]:
        raise CheckpointError(
            f'{source} has low-rank parts that the model has not, or of another rank ({some(lost, 2)}): without them '
            'the weights are those of before the training. Set model.backbone.lora to what it was trained with'
        )

    if not match.loaded:
        raise CheckpointError(
            f'{source} does not fit the model: none of its {len(weights)} weights matches by name and shape. '
            f'The file has {some(list(weights), 3)}; the model has {some(list(own), 3)}. '
            'Is it a checkpoint of this configuration? Weights of other code need converting first '
            '(tools/model_converters)' + (_OF_BACKBONE.format(source) if pretrained else '')
        )
    anew = [k for k in missing if pretrained and not strict and (not k.startswith(trained) or _CLASSIFIER in k)]
    fits = not (len(missing) > len(anew) or unexpected or misshapen)
    if (strict or pretrained) and not fits:
        examples = [f'{k}: file {tuple(weights[k].shape)}, model {tuple(own[k].shape)}' for k in misshapen[:3]]
        raise CheckpointError(
            f'{source} does not fit the model: {match}'
            + (f' [{"; ".join(examples)}]' if examples else '')
            + (_OF_BACKBONE.format(source) if pretrained else '')
        )
    if pretrained:
        print_log(f'{source} is of a pre-training; what it has not trained starts anew: {match}', logger='current')
    elif missing or misshapen or (unexpected and not partial_source):
        print_log(f'{source} fits the model in part: {match}', logger='current', level=logging.WARNING)
    else:
        print_log(f'{source}: {match}', logger='current')
    return match


def is_pretrained(weights: Mapping[str, Any]) -> bool:
    """Whether these are of a pre-training."""
    return any(key.startswith(PRETEXT) for key in weights)


def _trained_parts(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a pre-training has trained of a network, by the names of the network."""
    whole = any(key.startswith(f'{PRETEXT}decode_head.') for key in weights)
    parts = ('backbone.', 'neck.', 'decode_head.') if whole else ('backbone.',)
    return {key: value for key, value in weights.items() if key.startswith(parts) and _CLASSIFIER not in key}


def _placed(
    weights: Mapping[str, Tensor], places: Mapping[str, Sequence[str]] | None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The same under a model's own names, and how these begin; places as of :func:`load_matching`."""
    if places is None:
        return dict(weights), tuple({f'{key.split(".")[0]}.' for key in weights})
    own = {}
    for key, weight in weights.items():
        part, _, rest = key.partition('.')
        own.update({f'{place}.{rest}': weight for place in places.get(part, ())})
    return own, tuple(f'{place}.' for named in places.values() for place in named)


def expand_bands(weight: Tensor, bands: int) -> Tensor:
    """Make a first convolution for RGB into one for any number of bands.

    For one band the three are summed, so that a grey image has the answer of its RGB copy. For more, they are repeated
    in turn (R, G, B, R, ...) and scaled by ``3 / bands``, so that activations keep their size; the weights of bands
    that are not R, G and B are a start, not knowledge.

    Args:
        weight: ``(out, 3, h, w)``.
        bands: Number of input bands.

    Returns:
        ``(out, bands, h, w)``.
    """
    if bands == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(bands) % 3] * (3 / bands)


@WEIGHT_INITIALIZERS.register_module(name='Pretrained')
class CheckedPretrainedInit(PretrainedInit):
    """MMEngine's ``init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)`` with the checks of this module.

    A module that knows the names of others has a method `own_weights`, which gets the weights of the file and its name
    and returns them by the module's own names. A first convolution for RGB is expanded to the bands of the model, see
    :func:`expand_bands`.
    """

    def __call__(self, module: nn.Module) -> None:
        weights = state_dict_of(load_checkpoint(self.checkpoint, self.map_location), self.checkpoint)
        pretrained = is_pretrained(weights)
        if pretrained:
            weights = _trained_parts(weights)
        if self.prefix is not None:
            prefix = self.prefix.rstrip('.') + '.'
            inner = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
            if not inner:
                raise CheckpointError(f'{self.checkpoint} has no {prefix}*; it has {some(list(weights), 3)}')
            weights = inner
        translate: Any = getattr(module, 'own_weights', None)
        if translate is not None:
            weights = translate(weights, self.checkpoint)
        own = module.state_dict()
        for key, weight in weights.items():
            bands = own[key].shape[1] if key in own and own[key].dim() == 4 else 3
            if bands != 3 and weight.shape == (own[key].shape[0], 3, *own[key].shape[2:]):
                weights[key] = expand_bands(weight, bands)
                print_log(f'{self.checkpoint}: {key} expanded from 3 to {bands} bands', logger='current')
        load_matching(module, weights, self.checkpoint, strict=pretrained, partial_source=True)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())
