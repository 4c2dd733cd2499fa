"""Weights from files: read without running foreign code, fetched, and matched with a model."""

from mmrs.weights.matching import Match, expand_bands, is_pretrained, load_matching
from mmrs.weights.reading import dataset_meta_of, read_checkpoint, state_dict_of, trusting_checkpoints
from mmrs.weights.remote import download, load_checkpoint
from mmrs.weights.writing import save_changed

__all__ = [
    'Match',
    'dataset_meta_of',
    'download',
    'expand_bands',
    'is_pretrained',
    'load_checkpoint',
    'load_matching',
    'read_checkpoint',
    'save_changed',
    'state_dict_of',
    'trusting_checkpoints',
]
