"""Files sealed as age seals them (C2SP age v1): for public keys, or under a passphrase.

Who makes a backup needs the public key alone and cannot open what it made. The format is age's own,
so a backup is opened by any age program on a day when there is no Weaver to run. It refuses to
write anything unsealed, and to hand out a byte that was not verified.
"""

import hmac
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from services.cli.backup.age_keys import (
    FILE_KEY,
    LINE,
    TAG,
    AgeError,
    Identity,
    Passphrase,
    Recipient,
    Stanza,
    derive,
    plain64,
    unplain64,
)

CHUNK: Final = 64 * 1024
_VERSION = b"age-encryption.org/v1"
_LONGEST_HEADER = 64 * 1024


def seal(data: Iterable[bytes], recipients: Sequence[Recipient]) -> Iterator[bytes]:
    """Return a sealed file, piece by piece; memory is a few chunks.

    Raises:
        AgeError: there is no recipient, or a passphrase is not the only one.
    """
    if not recipients:
        msg = "nobody could open it: name a recipient or a passphrase"
        raise AgeError(msg)
    if len(recipients) > 1 and any(isinstance(one, Passphrase) for one in recipients):
        msg = "a passphrase is the only way into a file, or none of the ways"
        raise AgeError(msg)
    file_key = os.urandom(FILE_KEY)
    stanzas = b"".join(recipient.wrap(file_key).lines() for recipient in recipients)
    header = _VERSION + b"\n" + stanzas + b"---"
    yield header + b" " + plain64(_mac(file_key, header)) + b"\n"
    nonce = os.urandom(16)
    yield nonce
    cipher = ChaCha20Poly1305(derive(file_key, nonce, b"payload"))
    for number, (chunk, last) in enumerate(_chunks(data, CHUNK)):
        yield cipher.encrypt(_nonce(number, last=last), chunk, None)


def open_sealed(data: Iterable[bytes], identities: Sequence[Identity]) -> Iterator[bytes]:
    """Return what was sealed, piece by piece, each verified before it is handed out.

    Raises:
        AgeError: it is no sealed file, it is for others, or it was changed or cut short.
    """
    source = _Source(data)
    file_key, header_mac, header = _read_header(source, identities)
    if not hmac.compare_digest(_mac(file_key, header), header_mac):
        msg = "its header was changed"
        raise AgeError(msg)
    nonce = source.read(16)
    if len(nonce) != 16:  # noqa: PLR2004 - as the format says
        msg = "it was cut short"
        raise AgeError(msg)
    cipher = ChaCha20Poly1305(derive(file_key, nonce, b"payload"))
    for number, (chunk, last) in enumerate(_chunks(source.rest(), CHUNK + TAG)):
        try:
            opened = cipher.decrypt(_nonce(number, last=last), chunk, None)
        except InvalidTag:
            msg = "it was changed or cut short"
            raise AgeError(msg) from None
        if not opened and number:
            msg = "it was changed: an empty chunk ends it"
            raise AgeError(msg)
        yield opened


class _Source:
    """Bytes that arrive in pieces."""

    def __init__(self, data: Iterable[bytes]) -> None:
        self._pieces = iter(data)
        self._held = b""

    def line(self) -> bytes:
        while b"\n" not in self._held:
            piece = next(self._pieces, None)
            if piece is None or len(self._held) > _LONGEST_HEADER:
                msg = "it is no file that age sealed"
                raise AgeError(msg)
            self._held += piece
        line, _, self._held = self._held.partition(b"\n")
        return line

    def read(self, size: int) -> bytes:
        while len(self._held) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._held += piece
        found, self._held = self._held[:size], self._held[size:]
        return found

    def rest(self) -> Iterator[bytes]:
        yield self._held
        yield from self._pieces


def _read_header(source: _Source, identities: Sequence[Identity]) -> tuple[bytes, bytes, bytes]:
    """Return the file's key, what vouches for the header, and the header."""
    first = source.line()
    if first != _VERSION:
        msg = "it is no file that age sealed"
        raise AgeError(msg)
    header, stanzas = io.BytesIO(), []
    header.write(first + b"\n")
    line = source.line()
    while line.startswith(b"-> "):
        body, row = b"", b"x" * LINE
        words = line[3:].split(b" ")
        header.write(line + b"\n")
        while len(row) == LINE:
            row = source.line()
            header.write(row + b"\n")
            body += row
            if header.tell() > _LONGEST_HEADER:
                msg = "its header is too long"
                raise AgeError(msg)
        stanzas.append(Stanza(words, unplain64(body)))
        line = source.line()
    if not line.startswith(b"--- ") or not stanzas:
        msg = "its header is damaged"
        raise AgeError(msg)
    if len(stanzas) > 1 and any(stanza.words[0] == b"scrypt" for stanza in stanzas):
        msg = "its header is damaged: a passphrase must be the only way in"
        raise AgeError(msg)
    header.write(b"---")
    for stanza in stanzas:
        for identity in identities:
            file_key = identity.unwrap(stanza)
            if file_key is not None:
                return file_key, unplain64(line[4:]), header.getvalue()
    msg = "none of the given identities or passphrases opens it"
    raise AgeError(msg)


def _chunks(data: Iterable[bytes], size: int) -> Iterator[tuple[bytes, bool]]:
    """Return data in chunks of one size; the last, which may be shorter, is marked."""
    held = bytearray()
    for piece in data:
        held += piece
        while len(held) > size:
            yield bytes(held[:size]), False
            del held[:size]
    yield bytes(held), True


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11) + (b"\x01" if last else b"\x00")


def _mac(file_key: bytes, header: bytes) -> bytes:
    return hmac.digest(derive(file_key, b"", b"header"), header, "sha256")
