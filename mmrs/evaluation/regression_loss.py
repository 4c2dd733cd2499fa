from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmrs.registry import METRICS
from mmrs.utils.errors import ConfigError, DataError

__all__ = ['RegressionLoss']


@METRICS.register_module()
class RegressionLoss(BaseMetric):
    """How far a student is from its reference on pairs that were held out: a criterion that needs no label.

    Reports the mean over the pairs of ``regression/loss`` and of the loss of each feature map, not weighted. Lower is
    better. A pair of which no pixel shows in both images does not count.

    Args:
        collect_device: How the results of several processes meet: ``'gpu'``, as messages (on a CPU too); ``'cpu'``, as
            files in the folder ``.dist_test``, which all machines must share.
        prefix: In front of the names of the values.

    Raises:
        ConfigError: The data set has no pairs.
        DataError: No pair counts.
    """

    default_prefix = 'regression'

    def __init__(self, collect_device: str = 'gpu', prefix: str | None = None, **kwargs: Any) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, **kwargs)

    def process(self, data_batch: Mapping, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Take the ``regression_losses`` of a batch, as :class:`FeatureRegression` predicts them for pairs."""
        for sample in data_samples:
            if 'pred_sem_seg' in sample:
                raise ConfigError(
                    'RegressionLoss needs pairs, but the images of its data set come one by one: use a PairedDataset '
                    'or a GeographicPairedDataset of held-out pairs'
                )
            # Never None, which MMEngine leaves out when it brings the results of several processes together; those
            # that a sampler has added to share the pairs evenly would then count.
            self.results.append(sample.get('regression_losses', {}))

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Mean of all pairs."""
        counted = [losses for losses in results if losses]
        if not counted:
            raise DataError('none of the held-out pairs has a pixel that both of its images show')
        if len(counted) < len(results):
            left_out = len(results) - len(counted)
            print_log(f'{left_out} of {len(results)} held-out pairs have nothing in common', 'current')
        return {name: float(np.mean([losses[name] for losses in counted])) for name in counted[0]}
