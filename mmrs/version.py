"""Version of the package: the one place that `setup.py`, `mmrs.__version__` and the changelog agree on."""

__version__ = '0.1.0'
