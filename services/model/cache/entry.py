"""One answer as it is kept: what it consists of, its name in the store, and its seal.

The name is an HMAC over everything that makes a request the same, and the seal (AES-256-GCM) is
bound to the name. So the store sees neither prompts nor answers nor callers, and an entry that was
moved, cut or made by somebody else does not open.
"""

import hmac
import os
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.model.cache.wish import CACHE_CONTROL
from services.model.call import Call, Headers

PREFIX: Final = b"wmc:"
KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_IRRELEVANT: Final = frozenset({CACHE_CONTROL, "idempotency-key"})


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One answer, and what is known of the call that brought it.

    Args:
        pieces: the body; a stream's in some pieces of whole events, the last of them terminal.
        content_type: its media type.
        headers: those that belong to the answer and not to the call.
        request_id: of the call that brought it.
        kept_s: when that was, in Unix seconds.
        provider: who answered.
        model: which model answered, as the provider names it.
        cost_micros: what it cost.
        price_version: by which prices.
        finish_reason: in the vendor's word.
    """

    pieces: tuple[bytes, ...]
    content_type: str
    headers: Headers
    request_id: str
    kept_s: float
    provider: str
    model: str
    cost_micros: int
    price_version: str
    finish_reason: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


class Seal:
    """Names and seals entries.

    Args:
        secret: 32 bytes that the replicas which share entries have in common.
    """

    def __init__(self, secret: bytes) -> None:
        """Derive a key for names and one for entries."""
        keys = HKDF(hashes.SHA256(), 2 * KEY_BYTES, None, b"weaver model cache 1").derive(secret)
        self._naming, self._sealing = keys[:KEY_BYTES], keys[KEY_BYTES:]

    def name(self, call: Call, route: bytes) -> bytes:
        """Return the name of the answer to a call.

        Args:
            call: as its caller made it.
            route: the fingerprint of who would be asked.
        """
        headers = tuple(one for one in call.headers if one[0] not in _IRRELEVANT)
        about = (call.caller, call.dialect.name, call.model, headers, call.max_output_tokens, route)
        digest = hmac.new(self._naming, _encode(about), "sha256")
        digest.update(call.body)
        return PREFIX + digest.hexdigest().encode()

    def close(self, name: bytes, entry: Entry) -> bytes:
        """Return an entry, sealed under its name."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher(name).encrypt(nonce, _encode(entry), name)

    def open(self, name: bytes, sealed: bytes) -> Entry | None:
        """Return what was sealed under a name; None when that is not what this is."""
        nonce, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return _decode(self._cipher(name).decrypt(nonce, text, name))
        except (InvalidTag, ValueError, msgspec.MsgspecError):
            return None

    def _cipher(self, name: bytes) -> AESGCM:
        # A key for each name: however many entries there are, no nonce comes twice under one.
        return AESGCM(hmac.digest(self._sealing, name, "sha256"))
