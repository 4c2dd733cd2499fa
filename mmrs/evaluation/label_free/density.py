from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .criterion import LabelFreeCriterion, Score, entropy, mean_over_classes, shares_of
from .observation import Observation

__all__ = ['SoftNeighbourhoodDensity', 'neighbourhood_density']


def neighbourhood_density(
    features: Tensor, temperature: float = 0.05, itself: bool = False, epsilon: float = 0.0
) -> Tensor:
    """Entropy of each sample's similarity to all others, in nats.

    Args:
        features: ``(M, D)``; of this criterion, probabilities.
        temperature: Of the similarities, which are cosines.
        itself: Whether a sample is one of its own neighbours, as in the authors' release for segmentation.
        epsilon: Added inside the logarithm, as there.

    Returns:
        ``(M,)``, 0 to ``ln(M - 1)``.
    """
    unit = F.normalize(features)
    similarity = unit @ unit.T / temperature
    if not itself:
        similarity.fill_diagonal_(-torch.inf)
    share = similarity.softmax(1)
    return entropy(share) if not epsilon else -(share * (share + epsilon).log()).sum(1)


class SoftNeighbourhoodDensity(LabelFreeCriterion):
    """SND: how many other pixels are much like a pixel. A network that predicts one class wins, and so does one that
    predicts all of them everywhere.

    Pixels are sampled in equal numbers for each predicted class; which of them comes first is the same for every
    network.

    Args:
        num_classes: K.
        number: Largest number of sampled pixels of all classes together.
        temperature: See :func:`neighbourhood_density`.
        seed: Of the sample.

    Reference:
        Saito et al., arXiv 2108.10860; ``SNDValidator`` of pytorch-adapt.
    """

    name = 'soft_neighbourhood_density'

    def __init__(self, num_classes: int, number: int = 1200, temperature: float = 0.05, seed: int = 0) -> None:
        super().__init__(num_classes)
        self._each, self._temperature = -(-number // num_classes), temperature
        self._generator = torch.Generator().manual_seed(seed)
        self._counts = torch.zeros(num_classes, dtype=torch.int64)
        self._kept = [(torch.empty(0), torch.empty(0, num_classes)) for _ in range(num_classes)]

    def _look(self, seen: Observation) -> None:
        order = torch.rand(seen.valid.shape, generator=self._generator)[seen.valid.cpu()]
        pixels = seen.pixels.cpu()
        label = pixels.argmax(1)
        self._counts += torch.bincount(label, minlength=self.num_classes)
        for i, (first, kept) in enumerate(self._kept):
            own = label == i
            places, own_pixels = torch.cat([first, order[own]]), torch.cat([kept, pixels[own]])
            places, chosen = places.topk(min(self._each, len(places)), largest=False)
            self._kept[i] = places, own_pixels[chosen]

    def _score(self, expected: Tensor | None) -> Score:
        sample = torch.cat([pixels for _, pixels in self._kept])
        density = neighbourhood_density(sample, self._temperature)
        of_class = density.split([len(pixels) for _, pixels in self._kept])
        per_class = torch.stack([own.mean() for own in of_class]).double()
        value = mean_over_classes(per_class, shares_of(self._counts), expected, 0.0)
        return Score(value, density.mean().item(), tuple(per_class.tolist()))
