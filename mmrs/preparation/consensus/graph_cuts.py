"""The labels of least energy, where each pixel has costs for its classes and neighbours like to agree.

The energy is that of a Markov random field of second order, the costs of all pixels and a Potts term,

    E(f) = sum_p D_p(f_p) + sum_pq V_pq [f_p != f_q],

over the pairs of an 8-neighbourhood. Two classes have an exact minimum, a minimum cut; more classes are moved by alpha
expansion (Boykov, Veksler and Zabih 2001), which ends within a factor of two of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

__all__ = ['Pairs', 'energy', 'hold', 'image_pairs', 'least_energy', 'squared_differences']

# Down, right and the two diagonals: each pair of neighbours once.
_OFFSETS = (0, 1), (1, 0), (1, 1), (1, -1)

# Flows are whole numbers of 32 bits: the largest capacity becomes this one.
_SCALE = 1_000_000

# A move that gains less is rounding.
_LEAST_GAIN = 1e-9


class Pairs(NamedTuple):
    """Pairs of neighbouring pixels.

    Attributes:
        first: ``(P,)`` flat indices of pixels.
        second: ``(P,)`` likewise, of the neighbours.
        values: ``(P,)`` float64: squared distances of the two, or what a border between them costs.
    """

    first: np.ndarray
    second: np.ndarray
    values: np.ndarray

    def within(self, nodes: np.ndarray) -> Pairs:
        """The pairs of which both pixels are among some, ``(H * W,)`` bool, which are then counted anew from 0."""
        kept = nodes[self.first] & nodes[self.second]
        number = np.cumsum(nodes) - 1
        return Pairs(number[self.first[kept]], number[self.second[kept]], self.values[kept])


def squared_differences(bands: np.ndarray) -> Pairs:
    """Squared distances ``|I_p - I_q|^2`` of all neighbours in an image ``(C, H, W)``."""
    height, width = bands.shape[1:]
    index = np.arange(height * width).reshape(height, width)
    parts = []
    for down, right in _OFFSETS:
        here = slice(0, height - down), slice(max(0, -right), width - max(0, right))
        there = slice(down, height), slice(max(0, right), width - max(0, -right))
        squares = ((bands[(slice(None), *here)] - bands[(slice(None), *there)]) ** 2).sum(axis=0, dtype=np.float64)
        parts.append((index[here].ravel(), index[there].ravel(), squares.ravel()))
    return Pairs(*map(np.concatenate, zip(*parts)))


def image_pairs(bands: np.ndarray, smoothness: float, beta: float) -> Pairs:
    """What borders cost: ``V_pq = lambda exp(-|I_p - I_q|^2 / (2 beta)) / dist(p, q)``.

    Args:
        bands: ``(C, H, W)``, standardised.
        smoothness: Lambda.
        beta: Mean of ``|I_p - I_q|^2`` over all pairs; 0 for an image without contrast.
    """
    pairs = squared_differences(bands)
    width = bands.shape[2]
    apart = np.where(np.isin(pairs.second - pairs.first, (1, width)), 1, np.sqrt(2))
    return pairs._replace(values=smoothness * np.exp(-pairs.values / max(2 * beta, np.finfo(float).tiny)) / apart)


def energy(costs: np.ndarray, pairs: Pairs, labels: np.ndarray) -> float:
    """``E(f)`` of labels ``(N,)`` under costs ``(N, K)``."""
    data = np.take_along_axis(costs, labels[:, None], 1).sum()
    return float(data + pairs.values[labels[pairs.first] != labels[pairs.second]].sum())


def hold(costs: np.ndarray, pairs: Pairs, labels: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, Pairs]:
    """What is left to decide where some labels are given.

    Args:
        costs: ``(N, K)``.
        pairs: Indices 0 to N - 1.
        labels: ``(N,)``, of which those that are held count.
        held: ``(N,)`` bool.

    Returns:
        Costs of the other pixels, to which those of borders with held pixels are added; and their pairs.
    """
    extra = np.zeros_like(costs)
    for own, other in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
        met = ~held[own] & held[other]
        np.add.at(extra, (own[met], labels[other[met]]), pairs.values[met])
    # A border costs for all classes but that of the neighbour.
    total = extra.sum(axis=1, keepdims=True)
    return (costs + total - extra)[~held], pairs.within(~held)


def least_energy(costs: np.ndarray, pairs: Pairs, sweeps: int = 20) -> np.ndarray:
    """Labels of least energy: exactly for two classes, a local minimum under expansion moves for more.

    Args:
        costs: ``(N, K)`` D of each pixel and class, 0 to 1.
        pairs: Indices 0 to N - 1, and what borders cost, at least 0.
        sweeps: How often all classes are tried, at most; two or three are usual.

    Returns:
        ``(N,)`` class indices.
    """
    if costs.shape[1] == 2:  # from one class alone, an expansion reaches all labellings
        return _expand(costs, pairs, np.zeros(len(costs), np.int64), 1)
    labels = costs.argmin(axis=1)
    # A class that costs the most everywhere never pays: any class around it would do at no higher price.
    classes = np.flatnonzero((costs < costs.max(initial=0)).any(axis=0))
    best, idle = energy(costs, pairs, labels), 0
    for step in range(sweeps * len(classes)):
        moved = _expand(costs, pairs, labels, classes[step % len(classes)])
        found = energy(costs, pairs, moved)
        if found < best - _LEAST_GAIN:
            labels, best, idle = moved, found, 0
        else:
            idle += 1
        if idle == len(classes):
            break
    return labels


def _expand(costs: np.ndarray, pairs: Pairs, labels: np.ndarray, to: int) -> np.ndarray:
    """The best labels in which any pixels have changed to one class."""
    first, second, values = pairs
    f, g = labels[first], labels[second]
    # Of a pair: what both pay as they are (A), if the second changes (B), if the first does (C).
    a, b, c = (values * pays for pays in (f != g, f != to, g != to))
    change = np.take_along_axis(costs, labels[:, None], 1)[:, 0]
    change = costs[:, to] - change
    change += np.bincount(first, c - a, len(costs)) - np.bincount(second, c, len(costs))
    return np.where(_minimum_cut(change, Pairs(first, second, b + c - a)), to, labels)


def _minimum_cut(change: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Minimises ``sum_p change_p y_p + sum_pq v_pq (1 - y_p) y_q`` over y of 0 and 1.

    Args:
        change: ``(N,)``, of any sign.
        pairs: With values v of at least 0.

    Returns:
        ``(N,)`` bool.
    """
    kept = pairs.values > 0
    pairs = Pairs(*(column[kept] for column in pairs))
    chosen, nodes, change, pairs = _settle(change, pairs)
    if not len(nodes):
        return chosen
    # A pixel is on the source's side where y = 0.
    source, sink, flat = len(nodes), len(nodes) + 1, np.arange(len(nodes))
    up, down = change > 0, change < 0
    tails = np.concatenate([pairs.first, np.full(up.sum(), source), flat[down]])
    heads = np.concatenate([pairs.second, flat[up], np.full(down.sum(), sink)])
    capacities = np.concatenate([pairs.values, change[up], -change[down]])
    whole = np.round(capacities * (_SCALE / capacities.max())).astype(np.int32)
    # Both directions of each edge, so that the flow has the same places as the capacities.
    graph = csr_array(
        coo_array(
            (np.concatenate([whole, np.zeros_like(whole)]), (np.r_[tails, heads], np.r_[heads, tails])),
            (len(nodes) + 2,) * 2,
        )
    )
    rest = graph - maximum_flow(graph, source, sink).flow
    # Among equal cuts that with the fewest changes: the pixels that still reach the sink.
    back = csr_array(rest.T)
    back.data = (back.data > 0).astype(np.int32)
    back.eliminate_zeros()
    reached = breadth_first_order(back, sink, return_predecessors=False)
    chosen[nodes[reached[reached < len(nodes)]]] = True
    return chosen


def _settle(change: np.ndarray, pairs: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray, Pairs]:
    """Decides the pixels whose own cost outweighs whatever their neighbours do, and goes on with what that decides.

    On real masks that is most of them, and a flow is slow. The minimum is not changed by it.

    Returns:
        y of all pixels, `False` where it is open; the open pixels; and what the minimisation is among these.
    """
    chosen, nodes, change = np.zeros(len(change), bool), np.arange(len(change)), change.copy()
    while len(nodes):
        first, second, values = pairs
        size = len(nodes)
        stay = change >= np.bincount(first, values, size)
        go = ~stay & (change <= -np.bincount(second, values, size))
        settled = stay | go
        if settled.sum() < max(1, size // 200):  # few: the flow is faster
            break
        # What a decided pixel makes its open neighbour pay.
        pays = stay[first] & ~settled[second]
        change += np.bincount(second[pays], values[pays], size)
        pays = go[second] & ~settled[first]
        change -= np.bincount(first[pays], values[pays], size)
        chosen[nodes[go]] = True
        pairs, nodes, change = pairs.within(~settled), nodes[~settled], change[~settled]
    return chosen, nodes, change, pairs
