"""Public keys that verify tokens, each bound to the algorithms that it is for.

The key decides what it can verify, never the token: an RSA key is no secret for an HMAC, and a key
whose issuer declared one algorithm verifies no other (RFC 8725 §3.1). PyJWT does the mathematics;
what it accepts of a token's form is wider than what `services.gateway.jws` lets through.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from services.gateway.jws import MAX_TEXT, decoded

LEAST_RSA_BITS: Final = 2048
MOST_RSA_BITS: Final = 8192
LEAST_RSA_EXPONENT: Final = 65537
MOST_RSA_EXPONENT: Final = 2**32
MOST_PEM_BYTES: Final = 32 * 1024
_P256_BYTES: Final = 32
_PEM: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_RSA: Final = frozenset(("RS256", "RS384", "RS512", "PS256"))
_EC: Final = frozenset(("ES256",))
_OKP: Final = frozenset(("EdDSA",))
_MATHS: Final = {name: get_default_algorithms()[name] for name in (*_RSA, *_EC, *_OKP)}
_SECRET_MEMBERS: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class KeyRefused(Exception):  # noqa: N818 - a verdict
    """What was given is no key that can verify tokens; the message is for the operator."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key.

    Args:
        id: its `kid`; "" for a key without one.
        algorithms: what it may verify.
        fingerprint: SHA-256 of its SubjectPublicKeyInfo, in hex.
        key: the key itself.
    """

    id: str
    algorithms: frozenset[str]
    fingerprint: str
    key: PublicKey = field(repr=False, compare=False)

    def verifies(self, algorithm: str, signature: bytes, content: bytes) -> bool:
        """Return whether a signature by this key is over this content."""
        return algorithm in self.algorithms and _MATHS[algorithm].verify(
            content, self.key, signature
        )


def from_pem(text: bytes, key_id: str = "") -> tuple[VerificationKey, ...]:
    """Return the public keys of a PEM text, all with one id.

    Raises:
        KeyRefused: there is none, or something that is none.
    """
    if b"\0" in text or len(text) > MOST_PEM_BYTES:
        msg = "is no PEM text"
        raise KeyRefused(msg)
    blocks = list(_PEM.finditer(text))
    if not blocks:
        msg = "holds no public key in PEM (`-----BEGIN PUBLIC KEY-----`)"
        raise KeyRefused(msg)
    return tuple(_from_block(block[1], block[0], key_id) for block in blocks)


def from_jwk(jwk: Mapping[str, Any]) -> VerificationKey:
    """Return the key that a JSON Web Key (RFC 7517, 8037) declares, for what it is declared for.

    Raises:
        KeyRefused: it is not for verifying signatures, or not of a kind that is accepted.
    """
    key_id, declared = jwk.get("kid", ""), jwk.get("alg")
    if not isinstance(key_id, str) or len(key_id) > MAX_TEXT or not key_id.isprintable():
        msg = f"`kid` must be a text of at most {MAX_TEXT} characters"
        raise KeyRefused(msg)
    if not _SECRET_MEMBERS.isdisjoint(jwk):
        msg = "it is a private or a shared key: whoever reads it can sign"
        raise KeyRefused(msg)
    if jwk.get("use", "sig") != "sig":
        msg = "it is not for signatures (`use`)"
        raise KeyRefused(msg)
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        msg = "it is not for verifying (`key_ops`)"
        raise KeyRefused(msg)
    try:
        key = _bound(key_id, _public(jwk))
    except (ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        msg = "it is malformed"
        raise KeyRefused(msg) from None
    if declared is None:
        return key
    if not isinstance(declared, str) or declared not in key.algorithms:
        msg = "its algorithm (`alg`) is not one that is accepted for such a key"
        raise KeyRefused(msg)
    return VerificationKey(key.id, frozenset((declared,)), key.fingerprint, key.key)


def _from_block(label: bytes, block: bytes, key_id: str) -> VerificationKey:
    kind = label.decode("ascii")
    if "PRIVATE" in kind:
        msg = "holds a private key; give the public one (`openssl pkey -pubout`)"
        raise KeyRefused(msg)
    if kind == "CERTIFICATE":
        msg = "holds a certificate; give its key (`openssl x509 -pubkey -noout`)"
        raise KeyRefused(msg)
    try:
        loaded = serialization.load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm):
        msg = "holds a public key that cannot be read"
        raise KeyRefused(msg) from None
    return _bound(key_id, loaded)


def _public(jwk: Mapping[str, Any]) -> object:
    kind, curve = jwk.get("kty"), jwk.get("crv")
    if kind == "RSA":
        return rsa.RSAPublicNumbers(_number(jwk["e"]), _number(jwk["n"])).public_key()
    if kind == "EC" and curve == "P-256":
        x, y = (_decoded(jwk[name]) for name in ("x", "y"))
        if {len(x), len(y)} != {_P256_BYTES}:
            raise ValueError
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + x + y)
    if kind == "OKP" and curve == "Ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(_decoded(jwk["x"]))
    msg = "it is neither RSA, nor EC with P-256, nor OKP with Ed25519"
    raise KeyRefused(msg)


def _number(text: object) -> int:
    return int.from_bytes(_decoded(text))


def _decoded(text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError
    return decoded(text.rstrip("="))


def _bound(key_id: str, key: object) -> VerificationKey:
    """Bind a key to what it may verify.

    Raises:
        KeyRefused: it is too weak, or of a kind that is not accepted.
    """
    if isinstance(key, rsa.RSAPublicKey):
        if not LEAST_RSA_BITS <= key.key_size <= MOST_RSA_BITS:
            msg = f"is an RSA key of {key.key_size} bits; {LEAST_RSA_BITS} to {MOST_RSA_BITS} are"
            raise KeyRefused(msg + " accepted")
        if not LEAST_RSA_EXPONENT <= key.public_numbers().e <= MOST_RSA_EXPONENT:
            msg = "is an RSA key whose public exponent is not from 65537 to 2^32"
            raise KeyRefused(msg)
        return _key(key_id, _RSA, key)
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return _key(key_id, _EC, key)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return _key(key_id, _OKP, key)
    msg = "is neither an RSA key, nor an EC key on P-256, nor an Ed25519 key"
    raise KeyRefused(msg)


def _key(key_id: str, algorithms: frozenset[str], key: PublicKey) -> VerificationKey:
    info = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return VerificationKey(key_id, algorithms, hashlib.sha256(info).hexdigest(), key)
