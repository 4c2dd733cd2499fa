"""Python runs it in each process that tests start: it leaves out what takes longer than a tiny training."""

import sys
from types import ModuleType

# MMEngine imports it for the optimizers that it has.
sys.modules['transformers'] = None
# MMEngine formats each configuration that it writes.
api = ModuleType('yapf.yapflib.yapf_api')
api.FormatCode = lambda text, **_: (text, True)
library, package = ModuleType('yapf.yapflib'), ModuleType('yapf')
library.yapf_api, package.yapflib, package.__version__ = api, library, '1'
sys.modules.update({module.__name__: module for module in (package, library, api)})
