from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule, ModuleDict, ModuleList
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmrs.registry import MODELS
from mmrs.utils import ConfigError

from ..backbones.multi_resolution import MultiResolutionBackbone
from ..data_preprocessor import DOMAINS
from ..widths import require_stages

__all__ = ['DualStudent', 'Features', 'per_domain']

Features = list[Tensor]


def _merge(base: dict, override: dict) -> dict:
    """``base`` with the leaves of ``override``, level by level."""
    merged = dict(base)
    for key, value in override.items():
        merged[key] = _merge(merged[key], value) if isinstance(value, dict) and key in merged else value
    return merged


def per_domain(cfg: dict) -> dict[str, dict]:
    """One config per domain: what ``cfg`` says for both, with what its keys ``source`` and ``target`` change."""
    shared = {key: value for key, value in cfg.items() if key not in DOMAINS}
    return {domain: _merge(shared, cfg.get(domain, {})) for domain in DOMAINS}


def _build_pair(cfg: dict) -> ModuleDict:
    return ModuleDict({domain: MODELS.build(part) for domain, part in per_domain(cfg).items()})


def _stages_read_by(head: nn.Module) -> set[int]:
    index: Any = head.in_index
    stages = {index} if isinstance(index, int) else set(index)
    # mmseg's DeepLabV3+ head also reads the first stage, without listing it.
    return stages | {0} if getattr(head, 'c1_bottleneck', None) is not None else stages


def _listed(stages: Sequence[Tensor]) -> Features:
    return stages if isinstance(stages, list) else list(stages)


class DualStudent(BaseModule):
    """Two students, source and target, around one shared neck: the part of ST-DASegNet that predicts.

    Args:
        backbone: Config of both backbones; its keys ``source`` and ``target``, if any, change it for one of them.
        neck: Config of a neck that takes both students' stages of the same images.
        decode_head: Config of both decode heads (mmseg's), likewise.
        auxiliary_head: Config, or a list of them, of heads on each student's backbone, likewise.
    """

    def __init__(
        self, backbone: dict, neck: dict, decode_head: dict, auxiliary_head: dict | Sequence[dict] | None = None
    ) -> None:
        super().__init__()
        self.backbone = _build_pair(backbone)
        self.decode_head = _build_pair(decode_head)
        self.neck = MODELS.build({**neck, 'used_stages': sorted(set().union(*map(_stages_read_by, self.heads)))})
        auxiliary = [auxiliary_head] if isinstance(auxiliary_head, Mapping) else auxiliary_head or ()
        self.auxiliary_head = ModuleList(_build_pair(cfg) for cfg in auxiliary)
        for name in ('num_classes', 'out_channels', 'threshold'):  # their logits are averaged
            values = [getattr(head, name) for head in self.heads]
            if values[0] != values[1]:
                raise ConfigError(f'decode_head.{name} is {values[0]} for the source head, {values[1]} for the target')

    @property
    def heads(self) -> tuple[nn.Module, nn.Module]:
        """The source and the target head."""
        return self.decode_head['source'], self.decode_head['target']

    def extract(self, images: Sequence[Tensor]) -> list[tuple[Features, Features]]:
        """Run both backbones on several batches.

        Args:
            images: Batches ``(N, C, H, W)``.

        Returns:
            For each batch, the stages of the source student and those of the target student.
        """
        by_student = []
        for domain in DOMAINS:
            backbone = self.backbone[domain]
            # Batch normalisation keeps the domains' statistics apart; without it, or where it does not take those of a
            # batch (`norm_eval`), one pass serves all batches.
            apart = any(m.training for m in backbone.modules() if isinstance(m, _BatchNorm))
            # One batch alone has nothing to join, and in an exported graph its size must not be fixed.
            same_size = len(images) > 1 and len({batch.shape[1:] for batch in images}) == 1
            if same_size and not apart and not isinstance(backbone, MultiResolutionBackbone):
                stages = [stage.split([len(b) for b in images]) for stage in backbone(torch.cat(list(images)))]
                by_student.append([list(features) for features in zip(*stages)])
            else:
                by_student.append([_listed(backbone(batch)) for batch in images])
        return list(zip(*by_student))

    def decode(self, features: tuple[Features, Features]) -> tuple[Tensor, Tensor]:
        """Logits ``(N, K, h, w)`` of either head on its half of the disentangled features."""
        source, target = self.heads
        return source(features[0]), target(features[1])

    def forward(self, images: Tensor) -> Tensor:
        """Mean of both heads' logits ``(N, K, h, w)``, at the resolution of the head."""
        logits = self.decode(self.neck(*self.extract([images])[0]))
        return (logits[0] + logits[1]) / 2

    def run_all(self, image: Tensor) -> tuple[Features, Features]:
        """Run every part once, to see whether they fit each other; both students' stages of the image.

        Raises:
            ConfigError: They do not; the message names the configuration key.
        """
        features = self.extract([image])[0]
        for domain, stages in zip(DOMAINS, features):
            found = [stage.shape[1] for stage in stages]
            if list(getattr(self.neck, 'in_channels', found)) != found:
                raise ConfigError(
                    f'model.neck.in_channels is {list(self.neck.in_channels)}, but the stages of the {domain} backbone '
                    f'have {found} channels'
                )
        for i, (domain, stages) in enumerate(zip(DOMAINS, self.neck(*features))):
            heads = [(f'decode_head.{domain}', self.heads[i], stages)]
            heads += [(f'auxiliary_head.{domain}', pair[domain], features[i]) for pair in self.auxiliary_head]
            for name, head, maps in heads:
                require_stages(f'model.{name}', head, maps)
                head(maps)
        return features
