"""Feature maps of a network, by name, without running more of it than they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from mmengine.utils import to_2tuple
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmrs.utils import ConfigError

from ..decode_heads.hrda_head import classifying
from ..widths import misfits_explained, require_stages, run_once

__all__ = ['LAST', 'Network', 'extract_features', 'feature_widths', 'parts_of']

#: The input of the classifier.
LAST = 'decode_head'

#: Size of the image on which the feature maps' widths are read.
_PROBE = 128


class Network(nn.Module):
    """Backbone, neck and decode head, as an mmseg segmentor names them."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def parts_of(segmentor: nn.Module) -> dict[str, nn.Module]:
    """The parts that take part in prediction; an auxiliary head does not."""
    parts = {name: getattr(segmentor, name, None) for name in ('backbone', 'neck', LAST)}
    return {name: part for name, part in parts.items() if part is not None}


@contextmanager
def _without_classifier(head: nn.Module, found: dict[str, Any]) -> Iterator[None]:
    """Run a head without its classifier, whose input is recorded: some heads return more than that map."""
    classifier = getattr(head, 'conv_seg', None)
    if classifier is None:
        yield
        return
    head.conv_seg = nn.Identity()
    head.conv_seg.register_forward_hook(lambda _module, _inputs, output: found.__setitem__(LAST, output))
    try:
        yield
    finally:
        head.conv_seg = classifier


@contextmanager
def _recorded(network: nn.Module, names: Sequence[str], found: dict[str, Any]) -> Iterator[None]:
    """Record outputs of submodules, by their dotted names."""

    def record(name: str) -> Any:
        # A copy, for the next module may work in place, as activations do.
        return lambda _module, _inputs, output: found.__setitem__(
            name, output.clone() if isinstance(output, Tensor) else output
        )

    with ExitStack() as stack:
        for name in names:
            stack.callback(network.get_submodule(name).register_forward_hook(record(name)).remove)
        yield


def extract_features(network: Any, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Feature maps of images, without running more of the network than they need.

    Args:
        network: Has a `backbone`, perhaps a `neck`, and a `decode_head`.
        images: ``(N, C, H, W)``, normalised.
        names: ``stage1`` and so on (outputs of the backbone), ``decode_head`` (the input of its classifier), or dotted
            names of submodules such as ``backbone.layer3``.

    Returns:
        Feature maps ``(N, C_i, H_i, W_i)`` by name, in the order of `names`.
    """
    found: dict[str, Any] = {}
    dotted = [name for name in names if '.' in name]
    with _recorded(network, dotted, found):
        stages = network.backbone(images)
        found.update({f'stage{i}': stage for i, stage in enumerate(stages, 1)})
        if LAST in names or any(name.startswith(('decode_head.', 'neck.')) for name in dotted):
            neck = getattr(network, 'neck', None)
            head = classifying(network.decode_head)
            with _without_classifier(head, found):
                head(stages if neck is None else neck(stages))
    return {name: found[name] for name in names if name in found}


def feature_widths(network: Any, names: Sequence[str], bands: int) -> dict[str, int]:
    """Channels of feature maps, found out on a small image.

    Args:
        network: As for :func:`extract_features`.
        names: Likewise.
        bands: Bands of its images.

    Raises:
        ConfigError: The network has no such feature map, or its parts do not fit each other.
    """
    for name in names:
        try:
            network.get_submodule(name if '.' in name else 'backbone')
        except AttributeError as error:
            raise ConfigError(f'features: the network has no module {name} ({error})') from error
    head = network.decode_head

    def run(image: Tensor) -> tuple[int, dict[str, Tensor]]:
        stages = network.backbone(image)
        if isinstance(stages, Tensor):
            # DDRNet and PIDNet: in training they return more, which a head in evaluation mode does not take.
            raise ConfigError(
                f'feature regression needs a backbone that returns the same stages in training and in evaluation; '
                f'{type(network.backbone).__name__} returns one map, and no stages, in evaluation'
            )
        if getattr(network, 'neck', None) is None and isinstance(head, BaseDecodeHead):
            require_stages(f'model.{LAST}', head, stages)
        return len(stages), extract_features(network, image, names)

    # Some transformers take images of one size only.
    height, width = to_2tuple(getattr(network.backbone, 'img_size', _PROBE))
    with misfits_explained(network, bands):
        stages, found = run_once(network, run, bands, (height, width))
    known = f'stage1 to stage{stages}, {LAST}, or the dotted name of a module such as backbone.NAME'
    for name in names:
        if name == LAST and name not in found:
            raise ConfigError(
                f'features: {LAST} is the input of conv_seg, which {type(head).__name__} does not run; take out '
                f'{LAST}, or give the dotted name of a module'
            )
        if name not in found:
            why = f'{name} does not run as a module of its own' if '.' in name else f'there is no {name}'
            raise ConfigError(f'features: {why}; there are {known}')
        if not isinstance(found[name], Tensor) or found[name].dim() != 4:
            raise ConfigError(f'features: what {name} returns is no feature map (N, C, H, W); there are {known}')
    return {name: feature.shape[1] for name, feature in found.items()}
