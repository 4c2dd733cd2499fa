"""Domain-adaptive semantic segmentation of remote-sensing imagery, on MMSegmentation 1.x and MMEngine."""

import os
import sys
import warnings
from importlib.util import find_spec

from mmrs.version import __version__

__all__ = ['MissingMMStackError', '__version__', 'require_mm_stack']


class MissingMMStackError(ImportError):
    """MMEngine, MMCV or MMSegmentation is not installed; the message holds the command that installs them."""


def require_mm_stack() -> None:
    """Raise MissingMMStackError where it is missing."""
    # find_spec looks for the packages without running them, so `import mmrs` stays fast. They are no hard requirements
    # because two distributions provide the same import names, and pip would install one over the other.
    missing = [name for name in ('mmengine', 'mmcv', 'mmseg') if find_spec(name) is None]
    if missing:
        raise MissingMMStackError(
            f'mmrs needs {", ".join(missing)}, which this Python environment lacks.\n'
            'Run `make install` in a checkout of mmrs, or:\n'
            '    pip install --no-deps onedl-mmengine==0.10.12 onedl-mmcv==2.3.6 onedl-mmsegmentation==1.4.2\n'
            'For the upstream OpenMMLab packages instead, see requirements/mminstall-openmmlab.txt.'
        )


# The command `mmrs` (-m: `python -m mmrs`) says it itself, without a traceback; the doctor works without the stack.
if os.path.basename((getattr(sys, 'argv', None) or [''])[0]) not in ('mmrs', '-m', 'doctor.py'):
    require_mm_stack()

# MMCV built without its compiled operators says so when its transformer layers are imported. mmrs uses none of them.
warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``', category=UserWarning)
