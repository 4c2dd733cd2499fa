"""The configurations and tools that come with the package, in a checkout and where a wheel was installed."""

from __future__ import annotations

from pathlib import Path

__all__ = ['CONFIGS', 'TOOLS', 'shipped_config']

# Links to the folders of a checkout, which become copies in a wheel. The name is that which OpenMMLab's tools expect.
_FOLDER = Path(__file__).resolve().parents[1] / '.mim'
CONFIGS, TOOLS = (_FOLDER / 'configs').resolve(), (_FOLDER / 'tools').resolve()

_PREFIX = 'mmrs::'


def shipped_config(name: str) -> str:
    """The file of ``mmrs::NAME``, a configuration by its path in `configs`; any other name is returned as it is."""
    return str(CONFIGS / name.removeprefix(_PREFIX)) if name.startswith(_PREFIX) else name
