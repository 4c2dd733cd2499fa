"""What tests on arbitrary input share.

The examples are the same in every run. ``HYPOTHESIS_PROFILE=long`` tries many more, new ones each time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mmrs.utils.errors import UserError, describe

#: Seconds after which an example counts as hanging.
PATIENCE = 20

# The time that an example takes is no measure on a machine with other work; what hangs is found by `ours`.
_COMMON: dict[str, Any] = dict(deadline=None, suppress_health_check=list(HealthCheck), database=None)
settings.register_profile('default', derandomize=True, max_examples=25, **_COMMON)
settings.register_profile('long', max_examples=3000, print_blob=True, **_COMMON)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'default'))


class Hanging(BaseException):
    """An example took too long."""


def _interrupt(*_: object) -> None:
    raise Hanging(f'no result after {PATIENCE} seconds')


@contextmanager
def ours() -> Iterator[None]:
    """Passes on nothing but errors that are not addressed to the user, and what hangs."""
    before = signal.signal(signal.SIGALRM, _interrupt)
    signal.alarm(PATIENCE)
    try:
        yield
    except UserError as error:
        if not describe(error):
            raise
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@st.composite
def broken(draw: Any, files: st.SearchStrategy[bytes]) -> bytes:
    """A file that is cut, or in which some bytes are replaced, taken out or put in."""
    content = bytearray(draw(files))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        what = draw(st.sampled_from(['cut', 'replace', 'remove', 'insert', 'zeros', 'ones']))
        if what == 'cut':
            del content[place:]
        elif what == 'remove':
            del content[place : place + draw(st.integers(1, 64))]
        elif what == 'insert':
            content[place:place] = draw(st.binary(min_size=1, max_size=16))
        else:
            new = draw(st.binary(min_size=1, max_size=8))
            new = {'zeros': bytes(len(new)), 'ones': b'\xff' * len(new)}.get(what, new)
            content[place : place + len(new)] = new
    return bytes(content)


#: Values of every type that a YAML file or a command line can give.
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([-1, 0, 1, 2, 3, 255, 256, 2**31, 0.5, -0.5, 1e300, float('nan'), float('inf'), '', 'x'])
    | st.floats()
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
