"""How a captured text is sealed: under a key derived from its record's commitment key.

The gateway seals, so that a text crosses the network and waits on the disk in no other form; the
gateway's own copy of this is `services.gateway.capture`.
"""

import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.audit.sidestore.vault import Unreadable

PURPOSE: Final = b"weaver captured text v1"
_NONCE = 12


def open_text(commitment_key: bytes, origin: str, index: int, kind: str, sealed: bytes) -> bytes:
    """Return a captured text.

    Raises:
        Unreadable: it was changed, or belongs to another record.
    """
    cipher = AESGCM(hmac.digest(commitment_key, PURPOSE, "sha256"))
    try:
        return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], bound(origin, index, kind))
    except (InvalidTag, ValueError):
        msg = f"the text {kind} was changed, or is another record's"
        raise Unreadable(msg) from None


def bound(origin: str, index: int, kind: str) -> bytes:
    """Return what ties a sealed text to its place."""
    return f"{origin}\n{index}\n{kind}".encode()
