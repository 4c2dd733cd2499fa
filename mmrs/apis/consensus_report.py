"""What is to be said of several masks and their consensus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmrs.apis.comparison import markdown_table
from mmrs.preparation.consensus.annotators import cohen_kappa

__all__ = ['Annotator', 'ConsensusReport']


@dataclass
class Annotator:
    """One of the masks.

    Attributes:
        name: What it is called.
        path: Its file.
        pixels: ``(K,)`` pixels of each class.
        consistency: ``(K,)`` self-consistency by class, 0.05 to 0.95.
        share: Of its pixels that a classifier finds which has learnt from its labels of other parts of the image; NaN
            where none could be.
        trust: ``(K,)`` what its classes weigh, 1 on average over the annotators.
        with_consensus: ``(K, K)`` pixels by its class and that of the consensus.
    """

    name: str
    path: str
    pixels: np.ndarray
    consistency: np.ndarray
    share: float
    trust: np.ndarray
    with_consensus: np.ndarray


@dataclass
class ConsensusReport:
    """Annotators, their agreement and the consensus.

    Attributes:
        classes: Names of the K classes.
        annotators: The R masks.
        agreed: ``(R, R, K, K)`` pixels by the class of two annotators, the first being the one with the lower index.
        energies: Of the consensus and of the votes.
        pixels: How many got a class, were disputed, and so on.
        by_class: ``(2, K)`` pixels of each class in the consensus and in the majority vote.
        smoothness: Lambda.
        windows: How many windows were cut.
    """

    classes: tuple[str, ...]
    annotators: list[Annotator]
    agreed: np.ndarray
    energies: dict[str, float]
    pixels: dict[str, int]
    by_class: np.ndarray
    smoothness: float
    windows: int

    def kappa(self, first: int, second: int) -> float:
        """Agreement of two annotators beyond chance."""
        return cohen_kappa(self.agreed[min(first, second), max(first, second)])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names, number = [a.name for a in self.annotators], len(self.annotators)
        return dict(
            classes=list(self.classes),
            smoothness=self.smoothness,
            windows=self.windows,
            pixels=self.pixels,
            energies=self.energies,
            annotators={
                a.name: dict(
                    path=a.path,
                    self_consistency=a.share,
                    kappa_with_consensus=cohen_kappa(a.with_consensus),
                    kappa={names[s]: self.kappa(r, s) for s in range(number) if s != r},
                    pixels=dict(zip(self.classes, a.pixels)),
                    self_consistency_by_class=self._used(a, a.consistency),
                    weight_by_class=self._used(a, a.trust),
                )
                for r, a in enumerate(self.annotators)
            },
            consensus=dict(zip(self.classes, self.by_class[0])),
            majority=dict(zip(self.classes, self.by_class[1])),
        )

    def _used(self, annotator: Annotator, values: np.ndarray) -> dict[str, float | None]:
        """Values by the name of a class; None of those that an annotator does not use."""
        used = zip(self.classes, values, annotator.pixels)
        return {name: float(value) if pixels else None for name, value, pixels in used}

    def _tables(self) -> dict[str, list[list[str]]]:
        """Rows of each table, the first being its heading, by its title."""
        names, number = [a.name for a in self.annotators], len(self.annotators)
        annotators = [['annotator', 'pixels', 'self-consistency', 'kappa with consensus']]
        annotators += [
            [a.name, f'{a.pixels.sum():,}', _cell(a.share), _cell(cohen_kappa(a.with_consensus))]
            for a in self.annotators
        ]
        kappas = [['', *names]]
        kappas += [
            [names[r], *('' if s == r else _cell(self.kappa(r, s)) for s in range(number))] for r in range(number)
        ]
        shares = self.by_class / np.maximum(self.by_class.sum(axis=1, keepdims=True), 1)
        by_class = [['class', 'consensus %', 'majority %', *names]]
        by_class += [
            [
                name,
                *(f'{100 * share:.2f}' for share in shares[:, k]),
                *(self._consistency(a, k) for a in self.annotators),
            ]
            for k, name in enumerate(self.classes)
        ]
        return {
            'Annotators': annotators,
            "Agreement of two (Cohen's kappa)": kappas,
            'Classes: share of the pixels, self-consistency (weight)': by_class,
        }

    def _consistency(self, annotator: Annotator, k: int) -> str:
        return f'{annotator.consistency[k]:.2f} ({annotator.trust[k]:.2f})' if annotator.pixels[k] else '-'

    def lines(self) -> list[str]:
        """What is no table."""
        pixels = self.pixels
        total = max(pixels['labelled'], 1)
        others = [f'{pixels[name]:,} ({100 * pixels[name] / total:.2f} %) {name}' for name in list(pixels)[1:]]
        energies = ', '.join(f'{name} {value:.6g}' for name, value in self.energies.items())
        return [f'pixels: {pixels["labelled"]:,} labelled, {", ".join(others)}', f'energy: {energies}']

    def print(self, console: Console) -> None:
        """Show the report."""
        for title, (heading, *rows) in self._tables().items():
            table = Table(title=title, title_justify='left')
            for i, name in enumerate(heading):
                table.add_column(escape(name), justify='right' if i else 'left')
            for row in rows:
                table.add_row(*map(escape, row))
            console.print(table)
        for line in self.lines():
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    def markdown(self) -> str:
        """The same as text."""
        tables = (f'## {title}\n\n{markdown_table(*(rows[0], rows[1:]))}' for title, rows in self._tables().items())
        return '\n'.join(['# Consensus\n', *(f'{line}  ' for line in self.lines()), '', *tables])


def _cell(value: float) -> str:
    return '-' if np.isnan(value) else f'{value:.3f}'
