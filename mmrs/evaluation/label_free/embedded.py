from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmrs.utils.errors import ConfigError, DataError, require_one_of

from .criterion import LabelFreeCriterion, Score
from .observation import Observation

__all__ = ['DeepEmbeddedValidation', 'density_ratio', 'effective_size', 'embedded_risk']

#: Smallest effective sample size of a risk that says anything.
_SMALLEST = 50
#: Weight decays among which the domain classifier's is chosen.
_DECAYS = (1e-4, 1e-2, 1.0)


def embedded_risk(weight: Tensor, error: Tensor, normalisation: str | None = None) -> float:
    """Risk on the target of errors on the source, with a control variate.

    Args:
        weight: Density of the target over that of the source at each sample, ``(M,)``.
        error: Of the network there, ``(M,)``.
        normalisation: Of the weights: None; ``max``, over the largest and moved to a mean of 1; ``standardize``, to
            mean and deviation 1.

    Reference:
        You et al., Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation, ICML 2019, algorithm 1;
        ``DeepEmbeddedValidator`` of pytorch-adapt for the normalisations.
    """
    require_one_of('normalisation', normalisation, (None, 'max', 'standardize'))
    if normalisation == 'max':
        weight = weight / weight.max()
        weight = weight - weight.mean() + 1
    elif normalisation == 'standardize':
        weight = (weight - weight.mean()) / weight.std(correction=0) + 1
    weighted = weight * error
    covariance = torch.stack([weighted, weight]).cov()
    eta = -covariance[0, 1] / covariance[1, 1] if covariance[1, 1] > 0 else covariance.new_zeros(())
    return (weighted.mean() + eta * weight.mean() - eta).item()


def effective_size(weight: Tensor) -> float:
    """How many samples of weight 1 are worth as much as these, ``(sum w)^2 / sum w^2``."""
    return (weight.sum() ** 2 / weight.square().sum()).item()


def density_ratio(source: Tensor, target: Tensor, held_out: Tensor) -> Tensor:
    """Density of the target over that of the source, by a logistic regression that tells the two apart.

    Its weight decay is chosen by its accuracy on every fifth sample, which it did not see.

    Args:
        source: Features of the source's training images, ``(M_s, D)``.
        target: Those of the target, ``(M_t, D)``.
        held_out: Those where the ratio is asked for, ``(M, D)``.

    Returns:
        ``(M,)``.
    """
    both = torch.cat([source, target]).double()
    mean, deviation = both.mean(0), both.std(0).clamp(min=1e-8)
    both = (both - mean) / deviation
    is_source = torch.cat([torch.ones(len(source)), torch.zeros(len(target))]).double()
    checked = torch.arange(len(both)) % 5 == 0
    found = []
    for decay in _DECAYS:
        weights = _logistic(both[~checked], is_source[~checked], decay)
        right = (_logits(both[checked], weights) > 0) == (is_source[checked] > 0)
        found.append((right.double().mean().item(), decay, weights))
    weights = max(found, key=lambda item: item[:2])[2]
    # p(target) / p(source) of a logistic regression is the exponential of minus its logit.
    return torch.exp(-_logits((held_out.double() - mean) / deviation, weights)) * len(source) / len(target)


def _logits(features: Tensor, weights: Tensor) -> Tensor:
    return features @ weights[:-1] + weights[-1]


def _logistic(features: Tensor, positive: Tensor, decay: float) -> Tensor:
    weights = features.new_zeros(features.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn='strong_wolfe')

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(_logits(features, weights), positive)
        value = value + decay / 2 * weights[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weights.detach()


class DeepEmbeddedValidation(LabelFreeCriterion):
    """DEV: errors on held-out images of the source, weighted by how much like the target their features are; negative.

    Args:
        num_classes: K.
        normalisation: See :func:`embedded_risk`.
        number: Pixels that are drawn from each image.
        seed: Of the draws.
    """

    name = 'deep_embedded_validation'

    def __init__(self, num_classes: int, normalisation: str | None = None, number: int = 100, seed: int = 0) -> None:
        super().__init__(num_classes)
        self._normalisation, self._number = normalisation, number
        self._generator = torch.Generator().manual_seed(seed)
        self._source, self._target, self._held_out = [], [], []  # type: ignore[var-annotated]
        self._errors: list[Tensor] = []

    def _look(self, seen: Observation) -> None:
        self._target.append(self._drawn(seen, seen.valid)[0])

    def update_source(self, seen: Observation, label: Tensor, trained: bool) -> None:
        """Look at an image of the source.

        Args:
            seen: The image.
            label: Its labels, ``(H, W)``; of no class where they do not count.
            trained: Whether the network has been trained on it. Whole images are held out, for neighbouring pixels are
                alike.
        """
        features, places = self._drawn(seen, seen.valid & (label >= 0) & (label < self.num_classes))
        if trained:
            self._source.append(features)
            return
        self._held_out.append(features)
        probability = seen.probability.flatten(1)[:, places].T
        self._errors.append(F.nll_loss(probability.clamp(min=1e-12).log(), label.flatten()[places], reduction='none'))

    def _drawn(self, seen: Observation, where: Tensor) -> tuple[Tensor, Tensor]:
        places = where.flatten().nonzero()[:, 0]
        chosen = torch.randperm(len(places), generator=self._generator)[: self._number].to(places.device)
        places = places[chosen]
        return seen.features.flatten(1)[:, places].T.cpu(), places

    def _score(self, expected: Tensor | None) -> Score:
        if not (self._source and self._target and self._held_out):
            raise ConfigError(
                f'{self.name} needs images of the source, seen in training and held out, and of the target'
            )
        held_out = torch.cat(self._held_out)
        weight = density_ratio(torch.cat(self._source), torch.cat(self._target), held_out)
        size = effective_size(weight)
        if size < _SMALLEST:
            raise DataError(
                f'{self.name}: {len(held_out)} pixels of the source are worth {size:.0f} of the target, fewer than '
                f'{_SMALLEST}: they are too few, or their features too easy to tell apart'
            )
        value = -embedded_risk(weight, torch.cat(self._errors).double().cpu(), self._normalisation)
        return Score(value, value, parts=dict(effective_size=size))
