from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs.registry import MODELS
from mmrs.utils import ConfigError

from ..binary import two_logits

__all__ = ['INPUT_MAPS', 'Adversary', 'self_information', 'softmax', 'spatial_softmax', 'with_frozen']


def spatial_softmax(features: Tensor) -> Tensor:
    """Softmax over the positions of each channel, so that a channel of ``(N, C, H, W)`` sums to one."""
    return features.flatten(2).softmax(-1).view_as(features)


def softmax(logits: Tensor) -> Tensor:
    """Probabilities of the classes, ``(N, K, H, W)``; of one output for two classes ``(N, 2, H, W)``."""
    return two_logits(logits).softmax(1)


def self_information(logits: Tensor) -> Tensor:
    """What each class adds to the entropy of a pixel, which is 1 where all are alike: ``-p log2(p) / log2(K)``.

    Args:
        logits: ``(N, K, H, W)``; with K = 1 those of the second of two classes.

    Returns:
        ``(N, K, H, W)``, 0 to 1, with a channel for each class. The sum over the channels is the normalised entropy.

    Reference:
        Vu et al., ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation, CVPR 2019,
        equations 2 and 5.
    """
    logits = two_logits(logits)
    # Half precision is too coarse for logarithms of small probabilities.
    log_p = logits.log_softmax(1, torch.promote_types(logits.dtype, torch.float32))
    return -log_p.exp() * log_p / math.log(log_p.shape[1])


#: What a discriminator may be shown of features or logits.
INPUT_MAPS: dict[str, Callable[[Tensor], Tensor]] = dict(
    spatial_softmax=spatial_softmax, softmax=softmax, self_information=self_information
)


def with_frozen(module: nn.Module, maps: Tensor) -> Tensor:
    """What a module makes of maps; what is learnt from it moves what is behind the maps, and not the module."""
    parameters = {key: value.detach() for key, value in module.named_parameters()}
    return torch.func.functional_call(module, parameters, (maps,))


class Adversary(BaseModule):
    """Discriminators that tell two domains apart, and what a network learns by fooling them.

    Each is a child of this module under its own name, so that its weights are ``NAME.*``.

    Args:
        discriminators: Config of each by its name.
        gan_loss: Config of the :class:`GANLoss`.
        input_map: What discriminators see: ``spatial_softmax`` of features, ``softmax`` or ``self_information`` of
            logits.
        align_corners: How scores are resized to images.

    Raises:
        ConfigError: There is no such map.
    """

    def __init__(
        self,
        discriminators: Mapping[str, dict],
        gan_loss: dict | None = None,
        input_map: str = 'spatial_softmax',
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if input_map not in INPUT_MAPS:
            raise ConfigError(f'input_map is {input_map!r}; one of {", ".join(INPUT_MAPS)} is expected')
        for name, cfg in discriminators.items():
            self.add_module(name, MODELS.build(cfg))
        self.gan_loss: Any = MODELS.build(gan_loss or dict(type='GANLoss', loss_weight=0.005))
        self.input_map = INPUT_MAPS[input_map]
        self.align_corners = align_corners

    def losses(
        self,
        name: str,
        real: Tensor,
        fake: Tensor,
        sizes: tuple[Sequence[int], Sequence[int]] | None = None,
        generator: str | None = None,
    ) -> dict[str, Tensor]:
        """The loss of the network behind `fake`, and the discriminator's own.

        The first goes through a discriminator whose parameters are detached, the second sees detached maps: one
        backward pass moves each by its own.

        Args:
            name: Which of the discriminators.
            real: Features or logits ``(N, C, H, W)`` of the domain that counts as real.
            fake: Those of the other one, ``(M, C, h, w)``.
            sizes: Height and width of the images behind `real` and `fake`, to which scores are resized; None: scores
                stay as they are.
            generator: Name of the network's loss; None: ``loss_adv_NAME``.

        Returns:
            ``loss_adv_NAME``, ``loss_disc_NAME_real``, ``loss_disc_NAME_fake``, and ``disc_accuracy_NAME``, 0 to 1
            (1.0: the discriminator tells the domains apart; 0.5: it guesses).

        Raises:
            ConfigError: A map is too small for the discriminator.
        """
        discriminator, gan_loss = self.get_submodule(name), self.gan_loss
        for maps, of_images in zip((real, fake), sizes or ()):
            _require_size(maps, of_images, self._smallest(name))
        of_real, of_fake = sizes or (None, None)
        real, fake = self.input_map(real.detach()), self.input_map(fake)

        fooled = self._resize(with_frozen(discriminator, fake), of_fake)
        losses = {generator or f'loss_adv_{name}': gan_loss(fooled, target_is_real=True)}

        fake = fake.detach()
        if real.shape == fake.shape:  # instance normalisation sees each image alone, so one pass is exact
            scores = discriminator(torch.cat((real, fake))).split((len(real), len(fake)))
        else:
            scores = discriminator(real), discriminator(fake)
        right = []
        for kind, score, size in zip(('real', 'fake'), scores, (of_real, of_fake)):
            is_real = kind == 'real'
            loss = gan_loss(self._resize(score, size), target_is_real=is_real, is_discriminator=True)
            losses[f'loss_disc_{name}_{kind}'] = loss
            right.append((gan_loss.looks_real(score.detach()) == is_real).float().mean())
        return {**losses, f'disc_accuracy_{name}': (right[0] + right[1]) / 2}

    def try_on(self, name: str, maps: Tensor) -> None:
        """Run a discriminator on the smallest maps that it takes, as wide as `maps`, to see whether it fits them."""
        side = self._smallest(name)
        self.get_submodule(name)(self.input_map(maps.new_zeros(1, maps.shape[1], side, side)))

    def _smallest(self, name: str) -> int:
        return getattr(self.get_submodule(name), 'min_size', 1)

    def _resize(self, scores: Tensor, size: Sequence[int] | None) -> Tensor:
        if size is None:
            return scores
        return F.interpolate(scores, tuple(size), mode='bilinear', align_corners=self.align_corners)


def _require_size(maps: Tensor, size: Sequence[int], needed: int) -> None:
    height, width = maps.shape[-2:]
    if min(height, width) < needed:
        stride = round(size[0] / height)
        raise ConfigError(
            f'a crop of {size[0]} x {size[1]} px gives a last feature map of {height} x {width}, but the discriminator '
            f'needs at least {needed} x {needed}: use crops of at least {needed * stride} px or a smaller '
            'discriminator.num_conv'
        )
