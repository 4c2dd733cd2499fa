"""Adaptation methods: `base.py`, and a file for each, which is registered by being here."""

from importlib import import_module
from pkgutil import iter_modules

from .base import Adaptor, Domain

__all__ = ['Adaptor', 'Domain']

for _module in iter_modules(__path__):
    import_module(f'{__name__}.{_module.name}')
