from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from mmrs.apis.filling import fill_model
from mmrs.install import install
from mmrs.models.adaptors.st_dasegnet_release import convert_release
from mmrs.registry import MODELS
from mmrs.utils.config import load_config
from mmrs.utils.config_types import explained_errors
from mmrs.utils.files import atomic_path
from mmrs.weights import read_checkpoint, state_dict_of, trusting_checkpoints

__all__ = ['convert_st_dasegnet']


def convert_st_dasegnet(
    src: str | Path, dst: str | Path, config: str | Path, overwrite: bool = False, trust_checkpoint: bool = False
) -> Counter[str]:
    """Rename a checkpoint of the ST-DASegNet release for this project's model and save it.

    Args:
        src: The released checkpoint.
        dst: The file to write.
        config: Configuration of the model that it belongs to.
        overwrite: Whether to replace ``dst``.
        trust_checkpoint: Unpickle the checkpoint fully if need be, which can run any code.

    Returns:
        How many tensors each part of the model received.

    Raises:
        ConfigError: If the configuration cannot be read.
        CheckpointError: If the checkpoint cannot be read, or does not fill the model exactly.
        OutputError: If ``dst`` exists.
    """
    install()
    cfg = load_config(config)
    with explained_errors(cfg):
        fill_model(cfg)
        model = MODELS.build(cfg.model)
    with trusting_checkpoints(trust_checkpoint):
        released = read_checkpoint(src)
    state = convert_release(state_dict_of(released, src), model)
    model.load_state_dict(state)
    with atomic_path(dst, overwrite) as temporary:
        torch.save(dict(state_dict=state), temporary)
    return Counter('.'.join(name.split('.')[: 2 if name.startswith('segmentor') else 1]) for name in state)
