"""Python runs it in each process that tests start: it leaves out what takes longer than a tiny training."""

import sys
from types import ModuleType

# MMEngine imports it for the optimizers that it has.
sys.modules['transformers'] = None
# MMEngine formats each configuration that it writes.
for name in ('yapf', 'yapf.yapflib', 'yapf.yapflib.yapf_api'):
    sys.modules[name] = ModuleType(name)
sys.modules['yapf'].__version__ = '1'
sys.modules['yapf.yapflib.yapf_api'].FormatCode = lambda text, **_: (text, True)
