"""What can be said of a model as soon as it is built."""

from __future__ import annotations

import functools
import logging
import textwrap
from collections.abc import Iterator
from typing import Any

from mmengine.logging import print_log
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor, nn

from mmrs.utils import ConfigError, random_states
from mmrs.utils.wrappers import unwrapped

from .adaptors import Adaptor
from .losses.probing import loss_probes
from .widths import bands_of, misfits_explained, require_stages, run_once

__all__ = ['check_losses', 'check_model', 'decode_heads']


def decode_heads(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """All of mmseg's decode heads in a model, but teachers' and parts of other heads, by their configuration keys."""
    found: list[str] = []
    for name, module in model.named_modules():
        name = name.removeprefix('module.').removeprefix('segmentor.')
        if isinstance(module, BaseDecodeHead) and not name.startswith(('teacher.', *found)):
            found.append(f'{name}.')
            yield f'model.{name}', module


def check_model(model: nn.Module) -> None:
    """Check that a model has classes to tell apart, and that its parts fit each other.

    Raises:
        ConfigError: They do not; the message names the configuration key.
    """
    model = unwrapped(model)
    for name, head in decode_heads(model):
        if head.num_classes == 1:
            raise ConfigError(
                f'{name}.num_classes is 1: one class alone cannot be told from anything, and the loss is 0. For a '
                'class against the rest set num_classes to 2, background and class (ids 0 and 1), in the data set too; '
                'with out_channels=1, threshold=0.5 and a loss that takes it, the model has one output for both'
            )
    for name, head in decode_heads(model):
        if head.out_channels == 1 and head.num_classes != 2:
            raise ConfigError(
                f'{name}.out_channels is 1, which is for num_classes=2, but num_classes is {head.num_classes}: leave '
                'out_channels out'
            )
    bands = bands_of(model)
    if bands is None or not isinstance(model, EncoderDecoder):
        return
    run = getattr(model, 'run_all', functools.partial(_run_all, model))
    try:
        with misfits_explained(model, bands):
            run_once(model, run, bands)
    except ConfigError:
        raise
    except Exception as error:  # of any class: networks have their own ways to reject an image
        reason = textwrap.shorten(f'{type(error).__name__}: {error}', 200)
        print_log(
            f'the widths of the model cannot be checked on an image of zeros ({reason})', 'current', logging.DEBUG
        )


def _run_all(model: Any, image: Tensor) -> None:
    """All parts of mmseg's encoder-decoder, auxiliary heads too."""
    features = model.extract_feat(image)
    for name, head in decode_heads(model):
        part = name.split('.')[1]
        if part in ('decode_head', 'auxiliary_head'):
            require_stages(name, head, features)
            if part == 'auxiliary_head' or head is model.decode_head:  # a cascade's heads take each other's output
                head(features)


def check_losses(model: nn.Module) -> None:
    """Try the loss of each decode head that learns from labels on a few pixels, before the first batch.

    Raises:
        ConfigError: It cannot be computed, nothing can be learnt from it, or pseudo-labels could not be weighted.
    """
    adaptor = model if isinstance(model, Adaptor) else None
    if adaptor is not None and not adaptor.learns_from_labels:
        return
    states, unlabelled = random_states.capture(), []
    for name, head in decode_heads(model):
        if type(head).loss_by_feat is BaseDecodeHead.loss_by_feat:  # some heads call their losses in their own way
            for probe in loss_probes(head, name):
                probe.require_sense()
                if not probe.honours_ignored():
                    unlabelled.append(probe.title)
    if unlabelled:
        print_log(
            f'{", ".join(unlabelled)}: depends on the prediction of pixels without label, too',
            logger='current',
            level=logging.WARNING,
        )
    if adaptor is not None and adaptor.teacher is not None:
        _ = adaptor.pseudo_terms  # found out here, not in the first iteration
    random_states.restore(states)
