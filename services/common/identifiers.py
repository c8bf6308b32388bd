"""Random identifiers of requests and spans.

They are handles, not secrets: unique, and drawn without a system call, which would give up the
interpreter lock and cost more than the rest of a call's bookkeeping.
"""

import random

_random = random.Random()  # noqa: S311 - identifiers, not secrets
_bits = _random.getrandbits


def hex128() -> str:
    """Return 32 hexadecimal digits, not all zero."""
    return f"{_bits(128) or 1:032x}"


def hex64() -> str:
    """Return 16 hexadecimal digits, not all zero."""
    return f"{_bits(64) or 1:016x}"
