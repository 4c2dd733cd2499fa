"""Command-line options that several tools have."""

from __future__ import annotations

import argparse

from mmengine.config import DictAction

__all__ = ['add_cfg_options', 'add_launcher']


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, a dict of dotted keys and values; None where it is not given."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override the config: a.b=1, list="[1,2]" or list=1,2 (no blanks inside, quotes around brackets)',
    )


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add ``--launcher``."""
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
