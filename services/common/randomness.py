"""Random bytes for secrets, without a system call each.

Each system call gives up the interpreter lock; under load that costs more than all else that a call
does with the bytes. So they are drawn many at a time from the operating system's generator.
"""

import os
from collections import deque
from typing import Final

SIZE: Final = 32
_AT_ONCE: Final = 128

_drawn: deque[bytes] = deque()
os.register_at_fork(after_in_child=_drawn.clear)


def random32() -> bytes:
    """Return 32 bytes fit for a key; from any thread, and nobody gets the same."""
    try:
        return _drawn.popleft()
    except IndexError:
        fresh = os.urandom(SIZE * _AT_ONCE)
        _drawn.extend(fresh[at : at + SIZE] for at in range(SIZE, len(fresh), SIZE))
        return fresh[:SIZE]
