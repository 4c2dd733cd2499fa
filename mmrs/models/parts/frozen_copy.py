from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .features import Network, extract_features


class FrozenCopy(nn.Module):
    """Copies of parts of a network that never train: they get no gradient and stay in evaluation mode.

    They are children of this module under their names, so that a model that has it as ``reference`` keeps their weights
    as ``reference.NAME.*``.

    Args:
        parts: The parts to copy, by name: ``backbone``, ``neck``, ``decode_head``.
        shared: Parts of which it needs no copy, being frozen where they are. They are used for what `parts` lacks.
    """

    def __init__(self, parts: Mapping[str, nn.Module], shared: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, copy.deepcopy(part))
        self.requires_grad_(False)
        self.train()
        self._shared = dict(shared or {})  # in a dict they are no children of this module too

    @property
    def network(self) -> Network:
        """The network, complete."""
        return Network(**{**self._shared, **dict(self.named_children())})

    def train(self, mode: bool = True) -> FrozenCopy:
        """Stay in evaluation mode, whatever the mode of the model around it."""
        return super().train(False)

    def load(self, parts: Mapping[str, nn.Module]) -> None:
        """Take over the weights of `parts`, by the names of the copies."""
        for name, part in self.named_children():
            part.load_state_dict(parts[name].state_dict())

    @torch.no_grad()
    def features(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Feature maps of images ``(N, C, H, W)``; see :func:`extract_features`."""
        return extract_features(self.network, images, names)
