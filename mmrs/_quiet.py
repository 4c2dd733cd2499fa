"""Import of `mmseg.datasets` without the line that it prints about an optional package.

MMSegmentation's maintained build writes "Could not import OneDL" on standard output, once per package, wherever that
commercial data-set client is absent. Tools whose output is read by other programs cannot have it there. Whatever else
the import prints still appears.
"""

import io
from contextlib import redirect_stdout

with redirect_stdout(io.StringIO()) as _printed:
    import mmseg.datasets  # noqa: F401

for _line in _printed.getvalue().splitlines():
    if 'Could not import OneDL' not in _line:
        print(_line)
