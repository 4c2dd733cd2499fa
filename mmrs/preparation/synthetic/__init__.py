"""Synthetic aerial scenes with exact labels: a source and a target domain with a gap of chosen strength."""

from mmrs.preparation.synthetic.archives import Tile, make_tile, plan_tiles, write_isprs_archives
from mmrs.preparation.synthetic.pairs import make_pair, write_pairs
from mmrs.preparation.synthetic.worlds import SOURCE_WORLD, World, world_at

__all__ = [
    'SOURCE_WORLD',
    'Tile',
    'World',
    'make_pair',
    'make_tile',
    'plan_tiles',
    'world_at',
    'write_isprs_archives',
    'write_pairs',
]
