from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor

from mmrs.registry import MODELS
from mmrs.utils.errors import CheckpointError, ConfigError

__all__ = ['TimmBackbone']


def _import_timm() -> Any:
    try:
        return importlib.import_module('timm')
    except ImportError as error:
        raise ConfigError(
            f'TimmBackbone needs timm and torchvision ({error}): pip install timm torchvision, the latter in the '
            f'version for torch {torch.__version__} and from where that came from (a build without CUDA: --index-url '
            'https://download.pytorch.org/whl/cpu)'
        ) from error


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """The feature maps of a network of timm.

    Args:
        model_name: As timm has it: ``convnext_tiny.fb_in1k``, ``swin_tiny_patch4_window7_224`` and so on.
        pretrained: Start from timm's weights of that name, which `init_weights` downloads, or finds in the cache; their
            licences differ. ``pretrained_cfg_overlay=dict(file=FILE)`` takes those of a file.
        in_channels: Bands of the images; timm repeats and scales a first convolution for three.
        out_indices: Which of its feature maps; None: timm's choice, mostly all.
        init_cfg: As everywhere in MMEngine.
        **options: Further arguments of the network, such as `drop_path_rate`, `output_stride` or `img_size`.

    Raises:
        ConfigError: timm is not installed, has no such network, or none with feature maps.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool | None = False,
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        init_cfg: dict | list[dict] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(init_cfg)
        timm = _import_timm()
        self.model_name, self.pretrained = model_name, bool(pretrained)
        self.options = {**options, 'in_chans': in_channels}
        self.maps = {} if out_indices is None else {'out_indices': tuple(out_indices)}
        if not timm.is_model(model_name):
            near = difflib.get_close_matches(model_name.split('.')[0], timm.list_models(), n=3)
            hint = f'; did you mean {", ".join(near)}?' if near else ''
            raise ConfigError(f'model.backbone.model_name: timm has no {model_name}{hint}')
        self.network = self._create()
        # Networks have their maps with channels last, or first, and timm brings some of them to the latter.
        with torch.device('meta'):
            whole = timm.create_model(model_name, **self.options)
        brought = type(self.network).__name__ == 'FeatureGetterNet'
        self.channels_last = getattr(whole, 'output_fmt', 'NCHW') == 'NHWC' and not brought

    def _create(self, **options: Any) -> Any:
        """The network, whose output is a list of maps."""
        try:
            return _import_timm().create_model(
                self.model_name, features_only=True, **self.options, **self.maps, **options
            )
        except RuntimeError as error:
            raise ConfigError(f'model.backbone: timm has no feature maps of {self.model_name}: {error}') from error

    def init_weights(self) -> None:
        """Load timm's weights, if so asked.

        Raises:
            CheckpointError: They cannot be had.
        """
        super().init_weights()
        if not self.pretrained:
            return
        try:
            weights = self._create(pretrained=True).state_dict()
        except Exception as error:  # of any class: those of the network, of the hub, of timm
            raise CheckpointError(
                f'pretrained weights of {self.model_name} cannot be had ({type(error).__name__}: {error}). Either\n'
                '  - train from random initialisation: --no-pretrained\n'
                '  - use a file you have: --cfg-options model.backbone.pretrained_cfg_overlay.file=FILE'
            ) from error
        self.network.load_state_dict(weights)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps that it returns."""
        return tuple(self.network.feature_info.channels())

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps ``(N, C, H / s, W / s)`` of images ``(N, in_channels, H, W)``, for growing strides s."""
        maps = self.network(x)
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else list(maps)
