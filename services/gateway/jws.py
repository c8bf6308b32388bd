"""Compact JSON Web Signatures (RFC 7515, 8725), read strictly: one spelling, one meaning.

A token is what a stranger wrote until its signature is verified. So nothing in its header chooses
anything but which of the known keys is tried: a header that brings a key, points at one, or asks
for what is not understood here is refused, and so is everything that two readers could read in two
ways.
"""

import base64
import binascii
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from services.common.errors import Unauthenticated
from services.gateway.strict_json import NotStrictError, read_object

PARTS: Final = 3
ENCRYPTED_PARTS: Final = 5
MAX_TEXT: Final = 256
_BRINGS_A_KEY: Final = ("jwk", "jku", "x5u", "x5c")
_NOT_UNDERSTOOD: Final = ("crit", "b64", "zip", "enc")
_TYPES: Final = frozenset(("jwt", "at+jwt", "application/jwt", "application/at+jwt"))


class Signed(NamedTuple):
    """A token whose form is good; nothing of it is verified.

    Args:
        algorithm: what its header says that it is signed with.
        key_id: its `kid`; None without one.
        content: what is signed.
        signature: the signature.
        payload: the claims, as JSON; not to be read before the signature is verified.
    """

    algorithm: str
    key_id: str | None
    content: bytes
    signature: bytes
    payload: bytes

    def claims(self) -> dict[str, Any]:
        """Return the claims; ask only once the signature is verified.

        Raises:
            Unauthenticated: they are no JSON object that can be read in one way only.
        """
        return _object(self.payload, "payload")


def bad_token(why: str) -> Unauthenticated:
    """Return the refusal of a token; nothing of the token stands in it."""
    return Unauthenticated(f"The token is not valid here: {why}.")


def read(token: str, algorithms: Iterable[str]) -> Signed:
    """Take a token apart.

    Args:
        token: the token, ASCII.
        algorithms: those that are accepted.

    Raises:
        Unauthenticated: it is not of the form, or asks for what is not accepted.
    """
    parts = token.split(".")
    if len(parts) == ENCRYPTED_PARTS:
        raise bad_token("it is encrypted (JWE), and only signed ones are accepted")
    if len(parts) != PARTS:
        raise bad_token("it does not have three parts")
    header = _object(_decoded(parts[0], "header"), "header")
    algorithm = _algorithm(header, tuple(algorithms))
    _check_header(header)
    if not parts[2]:
        raise bad_token("it is not signed")
    return Signed(
        algorithm,
        _key_id(header),
        f"{parts[0]}.{parts[1]}".encode("ascii"),
        _decoded(parts[2], "signature"),
        _decoded(parts[1], "payload"),
    )


def decoded(text: str) -> bytes:
    """Return what base64url says in its one canonical spelling (RFC 7515 §2, RFC 4648 §3.5).

    Raises:
        ValueError: it has padding, other characters, or bits that mean nothing.
    """
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        data = b""
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != text:
        msg = "not canonical base64url"
        raise ValueError(msg)
    return data


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        return read_object(data)
    except NotStrictError as error:
        raise bad_token(f"its {what} {error}") from None


def _decoded(part: str, what: str) -> bytes:
    try:
        return decoded(part)
    except ValueError:
        raise bad_token(f"its {what} is not canonical base64url") from None


def _algorithm(header: dict[str, Any], algorithms: tuple[str, ...]) -> str:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise bad_token("its header names no algorithm (`alg`)")
    if algorithm.lower() == "none":
        raise bad_token("it is not signed (`alg` is none)")
    if algorithm not in algorithms:
        raise bad_token(f"only these algorithms are accepted: {', '.join(algorithms)}")
    return algorithm


def _check_header(header: dict[str, Any]) -> None:
    for name in _BRINGS_A_KEY:
        if name in header:
            raise bad_token(f"its header brings a key (`{name}`), and only keys known here count")
    for name in _NOT_UNDERSTOOD:
        if name in header:
            raise bad_token(f"its header asks for `{name}`, which is not understood here")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise bad_token("it is for another purpose (`typ` is neither JWT nor at+jwt)")


def _key_id(header: dict[str, Any]) -> str | None:
    if "kid" not in header:
        return None
    key_id = header["kid"]
    if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_TEXT or not key_id.isprintable():
        raise bad_token(f"`kid` must be a text of 1 to {MAX_TEXT} characters")
    return key_id
