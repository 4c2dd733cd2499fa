from __future__ import annotations

from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper

__all__ = ['unwrapped']


def unwrapped(model: Any) -> Any:
    """The model itself, without what it may be wrapped in for several processes or for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
