"""An issuer of tokens, and a forger: each writes what it is told to, right or wrong."""

import base64
import time
from typing import Any

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from services.gateway.claims import ClaimRules
from services.gateway.key_ring import KeyRing
from services.gateway.tokens import Tokens
from services.gateway.verification_keys import from_pem


class TurnedClock:
    """A clock that a test turns."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
NOW = float(int(time.time()))
CLAIMS: dict[str, Any] = {
    "sub": "alice",
    "iss": "idp",
    "exp": int(NOW) + 600,
    "roles": ["user", "auditor"],
}
ALL = ("RS256", "RS384", "RS512", "PS256", "ES256", "EdDSA")
KEY_OF: dict[str, PrivateKey] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256"), RSA_KEY),
    "ES256": EC_KEY,
    "EdDSA": ED_KEY,
}
_HASHES = {"RS256": hashes.SHA256(), "RS384": hashes.SHA384(), "RS512": hashes.SHA512()}


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(value: object) -> str:
    """One part of a token: what is given as bytes stands as it is."""
    return b64(value if isinstance(value, bytes) else msgspec.json.encode(value))


def sign(algorithm: str, key: Any, content: bytes) -> bytes:
    """Sign as the algorithm's name says, with whatever key is given."""
    if isinstance(key, rsa.RSAPrivateKey):
        if algorithm == "PS256":
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
            return key.sign(content, pss, hashes.SHA256())
        return key.sign(content, padding.PKCS1v15(), _HASHES.get(algorithm, hashes.SHA256()))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(content, ec.ECDSA(hashes.SHA256())))
        size = (key.curve.key_size + 7) // 8
        return r.to_bytes(size) + s.to_bytes(size)
    signature: bytes = key.sign(content)
    return signature


def token(
    algorithm: str = "RS256",
    key: Any = None,
    header: Any = None,
    claims: Any = None,
    **more: Any,
) -> str:
    """Return a token.

    Args:
        algorithm: its `alg`.
        key: signs it; None takes the issuer's for the algorithm.
        header: members beside `alg` and `typ`, or the whole header as bytes.
        claims: the whole payload as bytes; None takes `CLAIMS`.
        more: claims that are added or replaced; `...` takes one out.
    """
    if not isinstance(header, bytes):
        header = {"alg": algorithm, "typ": "JWT", **(header or {})}
    if claims is None:
        claims = {name: value for name, value in {**CLAIMS, **more}.items() if value is not ...}
    content = f"{part(header)}.{part(claims)}"
    signer = key if key is not None else KEY_OF[algorithm]
    return f"{content}.{b64(sign(algorithm, signer, content.encode()))}"


def jwk(key: Any, **members: Any) -> dict[str, Any]:
    """Return the public key of a private one as a JWK."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        size = (numbers.n.bit_length() + 7) // 8
        made = {"kty": "RSA", "n": b64(numbers.n.to_bytes(size)), "e": b64(numbers.e.to_bytes(3))}
    elif isinstance(public, ec.EllipticCurvePublicKey):
        point = public.public_numbers()
        size = (public.curve.key_size + 7) // 8
        made = {
            "kty": "EC",
            "crv": {"secp256r1": "P-256", "secp384r1": "P-384"}[public.curve.name],
            "x": b64(point.x.to_bytes(size)),
            "y": b64(point.y.to_bytes(size)),
        }
    else:
        made = {"kty": "OKP", "crv": "Ed25519", "x": b64(public.public_bytes_raw())}
    return {**made, **members}


def tokens(  # noqa: PLR0913 - each test needs another
    *keys: Any,
    algorithms: tuple[str, ...] = ALL,
    clock: TurnedClock | None = None,
    issuer: Any = None,
    ring: KeyRing | None = None,
    most: int = 100,
    required_issuer: str | None = None,
    **rules: Any,
) -> Tokens:
    """Return what verifies the tokens of these keys, by default the issuer's."""
    if ring is None:
        ring = KeyRing()
        own = keys or (RSA_KEY, EC_KEY, ED_KEY)
        ring.put("setting", [key for one in own for key in from_pem(public_pem(one))])
    return Tokens(
        ring,
        clock or TurnedClock(NOW),
        algorithms=algorithms,
        rules=ClaimRules(issuer=required_issuer, **rules),
        issuer=issuer,
        most=most,
    )
