"""Criteria by which tiles are chosen, one after the other."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch

from mmrs.utils.errors import ConfigError, DataError, require

from .facts import FEATURES, GRADIENTS, Tiles
from .gradients import gradient_distance

__all__ = [
    'CRITERIA',
    'Balanced',
    'Chosen',
    'Diversity',
    'GradientMatching',
    'Random',
    'TileCriterion',
    'Uncertainty',
]


@dataclass(frozen=True)
class Chosen:
    """A tile that is chosen.

    Attributes:
        index: Which one.
        value: Of the criterion, when it was chosen; higher is better.
        reason: In words.
    """

    index: int
    value: float
    reason: str


class TileCriterion(ABC):
    """Chooses tiles greedily: each time the one of the highest value, of equal ones the first.

    Args:
        tiles: What is known of them.
        seed: Of what is drawn.

    Raises:
        ConfigError: A fact that it needs is unknown.
    """

    #: Name on command lines and in tables.
    name: str
    #: Facts that it needs beside those that :class:`Tiles` always has.
    uses: tuple[str, ...] = ()

    def __init__(self, tiles: Tiles, seed: int = 0) -> None:
        for fact in self.uses:
            require(getattr(tiles, fact) is not None, f'tiles.{fact}', None, f'known {fact} (of {self.name})')
        self.tiles, self.seed = tiles, seed
        self.taken: list[int] = []

    def choose(self, number: int | None = None, budget: float = math.inf) -> list[Chosen]:
        """The tiles to label, the most wanted one first.

        Args:
            number: How many; None: as many as the budget allows.
            budget: What they may cost together. A tile that is too dear is passed over for others.

        Raises:
            ConfigError: There are fewer candidates, or even the cheapest is too dear.
            DataError: There is no candidate.
        """
        left = self.tiles.candidates & ~self.tiles.labelled
        if not left.any():
            raise DataError(f'there is no tile to choose from: {self._numbers()}')
        if number is not None and number > left.sum():
            raise ConfigError(f'k is {number}, but there are {left.sum()} tiles to choose from: {self._numbers()}')
        for index in np.flatnonzero(self.tiles.labelled).tolist():
            self._take(index)
        chosen: list[Chosen] = []
        while number is None or len(chosen) < number:
            open_to = left & (self.tiles.costs <= budget)
            if not open_to.any():
                break
            values = self._values()
            index = int(np.where(open_to, values, -np.inf).argmax())
            value = float(values[index])
            chosen.append(Chosen(index, value, self._reason(index, value)))
            self._take(index)
            left[index] = False
            budget -= float(self.tiles.costs[index])
        if not chosen:
            cheapest = self.tiles.costs[left].min()
            raise ConfigError(f'budget is {budget:g}, but the cheapest tile costs {cheapest:g}; raise it')
        return chosen

    def _numbers(self) -> str:
        without, labelled = (~self.tiles.candidates).sum(), self.tiles.labelled.sum()
        return f'{len(self.tiles.costs)} in all, {without} without enough data, {labelled} labelled already'

    def _take(self, index: int) -> None:
        """Take a tile, or one that has labels already."""
        self.taken.append(index)

    @abstractmethod
    def _values(self) -> np.ndarray:
        """Of each tile, ``(T,)``, were it taken next."""

    @abstractmethod
    def _reason(self, index: int, value: float) -> str:
        """Why a tile is taken next, in words."""


class Random(TileCriterion):
    """What every other criterion has to be better than."""

    name = 'random'

    def __init__(self, tiles: Tiles, seed: int = 0) -> None:
        super().__init__(tiles, seed)
        self._order = np.random.default_rng(seed).permutation(len(tiles.costs)).astype(float)

    def _values(self) -> np.ndarray:
        return self._order

    def _reason(self, index: int, value: float) -> str:
        return f'drawn at random (seed {self.seed})'


class Uncertainty(TileCriterion):
    """The tiles of which the network is least sure; they may all show the same."""

    name = 'uncertainty'

    def _values(self) -> np.ndarray:
        return self.tiles.uncertainty

    def _reason(self, index: int, value: float) -> str:
        return _unsure(self.tiles, index)


class Diversity(TileCriterion):
    """k-centre greedy: each time the tile farthest from those that are taken, in the network's feature space.

    The first is the one nearest to the mean of all candidates. No tile is then farther from a chosen one than twice the
    smallest distance that any choice could reach.

    Reference:
        Sener & Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach, arXiv 1708.00489,
        algorithm 1.
    """

    name = 'diversity'
    uses = (FEATURES,)

    def __init__(self, tiles: Tiles, seed: int = 0) -> None:
        super().__init__(tiles, seed)
        assert tiles.features is not None
        self._features = tiles.features.astype(np.float64)
        self._nearest = np.full(len(self._features), np.inf)

    def _values(self) -> np.ndarray:
        if self.taken:
            return self._nearest
        return -self._distance(self._features[self.tiles.candidates].mean(0))

    def _take(self, index: int) -> None:
        super()._take(index)
        self._nearest = np.minimum(self._nearest, self._distance(self._features[index]))

    def _distance(self, place: np.ndarray) -> np.ndarray:
        return np.linalg.norm(self._features - place, axis=1)

    def _reason(self, index: int, value: float) -> str:
        if not self.taken:
            return 'the most typical of all tiles'
        others = self._nearest[self.tiles.candidates]
        share = 100 * (others < self._nearest[index]).mean()
        return f'unlike the tiles before it: farther from them than {share:.0f} % of the tiles'


class GradientMatching(TileCriterion):
    """Tiles whose mean gradient of the last layer together is most like that of all candidates.

    It sums up the target rather than looking for what is hard. Gradients are of the predicted classes, and scaled so
    that the mean of all has length 1: the distance has a constant that is not to decide.

    Reference:
        The distance of Lee et al., arXiv 2202.02916, by which they learn synthetic images.
    """

    name = 'gradient'
    uses = (GRADIENTS,)

    def __init__(self, tiles: Tiles, seed: int = 0) -> None:
        super().__init__(tiles, seed)
        assert tiles.gradients is not None
        gradients = torch.from_numpy(tiles.gradients).double()
        mean = gradients[torch.from_numpy(tiles.candidates)].mean(0)
        scale = mean.norm().clamp(min=torch.finfo(torch.float64).tiny)
        self._gradients, self._wanted, self._sum = gradients / scale, mean / scale, torch.zeros_like(mean)

    def _values(self) -> np.ndarray:
        together = (self._sum + self._gradients) / (len(self.taken) + 1)
        return -gradient_distance(together, self._wanted).numpy()

    def _take(self, index: int) -> None:
        super()._take(index)
        self._sum = self._sum + self._gradients[index]

    def _reason(self, index: int, value: float) -> str:
        return f'with it the gradient of the chosen tiles is at {-value:.3f} from that of all'


class Balanced(Diversity):
    """Uncertain tiles, unlike each other, of all classes: the product of three values.

    These are the uncertainty; the distance to the nearest tile that is taken (1 for the first); and how even the
    shares of the classes in the maps of all that are taken would be, as their entropy over that of equal shares. A tile
    in which one of the three is nought adds nothing.
    """

    name = 'balanced'

    def __init__(self, tiles: Tiles, seed: int = 0) -> None:
        super().__init__(tiles, seed)
        self._sum = np.zeros(tiles.shares.shape[1])

    def _values(self) -> np.ndarray:
        distance = self._nearest if self.taken else np.ones(len(self._nearest))
        return distance * self.tiles.uncertainty * self._evenness()

    def _evenness(self) -> np.ndarray:
        shares = self._sum + self.tiles.shares
        shares = shares / np.maximum(shares.sum(1, keepdims=True), 1e-12)
        return torch.special.entr(torch.from_numpy(shares)).sum(1).numpy() / math.log(shares.shape[1])

    def _take(self, index: int) -> None:
        super()._take(index)
        self._sum = self._sum + self.tiles.shares[index]

    def _reason(self, index: int, value: float) -> str:
        before = self._sum / max(self._sum.sum(), 1e-12)
        most = int((self.tiles.shares[index] - before).argmax())
        own = self.tiles.shares[index, most]
        then = f', {100 * before[most]:.0f} % of the tiles before' if self.taken else ''
        unlike = f'; {super()._reason(index, value)}' if self.taken else ''
        return f'{_unsure(self.tiles, index)}{unlike}; {self.tiles.classes[most]} is {100 * own:.0f} % of it{then}'


def _unsure(tiles: Tiles, index: int) -> str:
    own, others = tiles.uncertainty[index], tiles.uncertainty[tiles.candidates]
    return f'unsure: {own:.2f}, more than {100 * (others < own).mean():.0f} % of the tiles'


#: Criteria by their names.
CRITERIA: dict[str, type[TileCriterion]] = {
    kind.name: kind for kind in (Balanced, Uncertainty, Diversity, GradientMatching, Random)
}
