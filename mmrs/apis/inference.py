from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.models import BaseSegmentor

from mmrs.apis.statistics import fill_statistics
from mmrs.engine.checkpoint import load_matching, read_checkpoint, state_dict_of
from mmrs.registry import DATASETS, MODELS
from mmrs.utils.config import check_types, load_config, remove_pretrained

__all__ = ['init_model', 'predict_array']


def init_model(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> BaseSegmentor:
    """Build a model for prediction.

    Args:
        config: A configuration or its file.
        checkpoint: Weights to load; without them the model is as random as it was built.
        device: ``'cpu'``, ``'cuda:1'``, ...; by default the first GPU if there is one.
        cfg_options: Dotted keys and values that override the configuration.

    Returns:
        The model in evaluation mode, with its configuration as ``cfg`` and classes and palette as ``dataset_meta``.

    Raises:
        ConfigError: Something in the configuration cannot work.
        CheckpointError: The checkpoint cannot be read or does not fit.
    """
    cfg = config if isinstance(config, Config) else load_config(config, cfg_options)
    check_types(cfg)
    fill_statistics(cfg)
    init_default_scope(cfg.get('default_scope', 'mmrs'))
    remove_pretrained(cfg.model)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    meta: Mapping[str, Any] = {}
    if checkpoint is not None:
        state = read_checkpoint(checkpoint)
        load_matching(model, state_dict_of(state, checkpoint), checkpoint)
        meta = state.get('meta', {}).get('dataset_meta') or {}
    if not meta and cfg.get('test_dataloader'):
        dataset = DATASETS.get(cfg.test_dataloader.dataset.type)
        meta = {**getattr(dataset, 'METAINFO', {}), **cfg.test_dataloader.dataset.get('metainfo', {})}
    model.cfg, model.dataset_meta = cfg, dict(meta)
    return model.to(device or get_device()).eval()


@torch.no_grad()
def predict_array(model: BaseSegmentor, image: np.ndarray) -> np.ndarray:
    """Predict the classes of an image.

    Args:
        model: From :func:`init_model`. Its test pipeline is applied, less what loads files.
        image: ``(H, W, C)``, bands in the order of the training images.

    Returns:
        ``(H, W)`` class indices, uint8.
    """
    steps = [step for step in model.cfg.test_dataloader.dataset.pipeline if not str(step['type']).startswith('Load')]
    size = image.shape[:2]
    data = Compose(steps)(dict(img=np.array(image), img_shape=size, ori_shape=size))
    sample = model.test_step(pseudo_collate([data]))[0]
    return sample.pred_sem_seg.data.squeeze().cpu().numpy().astype(np.uint8)
