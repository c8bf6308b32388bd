"""Tokens as attackers write them: the published tricks, and why each is refused."""

import hmac
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from services.gateway.jws import decoded
from tests.fakes.tokens import (
    CLAIMS,
    EC_KEY,
    OTHER_RSA_KEY,
    RSA_KEY,
    b64,
    jwk,
    part,
    public_pem,
    token,
)

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
ED_ORDER = 2**252 + 27742317777372353535851937790883648493
BLANK = b"\0" * 32


def with_hmac(secret: bytes, algorithm: str = "HS256") -> str:
    """Sign with a public key as if it were a shared secret."""
    content = f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(CLAIMS)}"
    name = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}.get(algorithm, "sha256")
    return f"{content}.{b64(hmac.digest(secret, content.encode(), name))}"


def with_signature(algorithm: str, change: Callable[[bytes], bytes]) -> str:
    """Sign well, then change the signature."""
    good = token(algorithm)
    content, _, signature = good.rpartition(".")
    return f"{content}.{b64(change(decoded(signature)))}"


def twice(algorithm: str) -> str:
    return f'{{"alg":"{algorithm}","alg":"RS256","typ":"JWT"}}'


def header(**members: Any) -> str:
    return token(header=members)


def raw_header(text: str) -> str:
    return token(header=text.encode())


def raw_claims(text: str) -> str:
    return token(claims=text.encode())


def pss_salt(length: int) -> str:
    content = f"{part({'alg': 'PS256'})}.{part(CLAIMS)}"
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), length)
    return f"{content}.{b64(RSA_KEY.sign(content.encode(), pss, hashes.SHA256()))}"


GOOD = token()
ES_GOOD = token("ES256")
NEXT = {"A": "B", "Q": "R", "g": "h", "w": "x"}  # with bits behind the last whole byte
NONE_SPELLINGS = ("none", "None", "NONE", "nOnE")
ES_PSYCHIC = {
    "r and s are 0": BLANK + BLANK,
    "r is 0": BLANK + b"\1" * 32,
    "s is 0": b"\1" * 32 + BLANK,
    "r and s are the order": ORDER.to_bytes(32) * 2,
    "r is the order": ORDER.to_bytes(32) + (1).to_bytes(32),
    "s is the order": (1).to_bytes(32) + ORDER.to_bytes(32),
    "r and s are 1": (1).to_bytes(32) * 2,
    "all bits": b"\xff" * 64,
    "empty DER": bytes.fromhex("3006020100020100"),
}
ATTACKS: dict[str, tuple[str, str]] = {
    # The algorithm: CVE-2015-9235, CVE-2016-10555, CVE-2018-1000531, CVE-2022-21449 and their kin.
    **{
        f"alg {name}": (f"{part({'alg': name})}.{part(CLAIMS)}.", "not signed")
        for name in NONE_SPELLINGS
    },
    "alg none with a signature": (
        ".".join([part({"alg": "none"}), *GOOD.split(".")[1:]]),
        "not signed",
    ),
    "alg empty": (header(alg=""), "only these algorithms"),
    "alg missing": (raw_header('{"typ":"JWT"}'), "names no algorithm"),
    "alg is a list": (header(alg=["RS256"]), "names no algorithm"),
    "alg null": (header(alg=None), "names no algorithm"),
    "alg in lower case": (header(alg="rs256"), "only these algorithms"),
    "alg with a space": (header(alg="RS256 "), "only these algorithms"),
    "alg RS1": (header(alg="RS1"), "only these algorithms"),
    "HS256 with the public key": (with_hmac(public_pem(RSA_KEY)), "only these algorithms"),
    "HS512 with the public key": (with_hmac(public_pem(RSA_KEY), "HS512"), "only these"),
    "HS256 with nothing": (with_hmac(b""), "only these algorithms"),
    "RS256 over an HMAC": (with_hmac(public_pem(RSA_KEY), "RS256"), "does not verify"),
    "ES256 by an RSA key": (token("ES256", RSA_KEY), "does not verify"),
    "RS256 by an EC key": (token("RS256", EC_KEY), "does not verify"),
    "EdDSA by an RSA key": (token("EdDSA", RSA_KEY), "does not verify"),
    "RS256 that says PS256": (token("PS256", OTHER_RSA_KEY), "does not verify"),
    "RS256 that says RS512": (
        token("RS512", header={"alg": "RS512"}, key=OTHER_RSA_KEY),
        "does not verify",
    ),
    # Keys that a token brings: CVE-2018-0114 and its kin.
    "jwk": (token(key=OTHER_RSA_KEY, header={"jwk": jwk(OTHER_RSA_KEY)}), "brings a key"),
    "jwk of the good key": (header(jwk=jwk(RSA_KEY)), "brings a key"),
    "jku": (header(jku="https://attacker.example/jwks.json"), "brings a key"),
    "x5u": (header(x5u="https://attacker.example/x.pem"), "brings a key"),
    "x5c": (header(x5c=["MIIB"]), "brings a key"),
    # What is not understood must be refused (RFC 7515 §4.1.11, RFC 7797).
    "crit": (header(crit=["exp"]), "`crit`"),
    "crit empty": (header(crit=[]), "`crit`"),
    "b64 false": (header(b64=False), "`b64`"),
    "b64 false and crit": (header(b64=False, crit=["b64"]), "not understood"),
    "zip": (header(zip="DEF"), "`zip`"),
    "enc": (header(enc="A128GCM"), "`enc`"),
    "another type": (header(typ="logout+jwt"), "another purpose"),
    "a type that is none": (header(typ=5), "another purpose"),
    "JWE": (f"{GOOD}.{part('a')}.{part('b')}", "encrypted"),
    # The id of the key.
    "kid is a path": (
        token(key=OTHER_RSA_KEY, header={"kid": "../../../../dev/null"}),
        "does not verify",
    ),
    "kid is SQL": (
        token(key=OTHER_RSA_KEY, header={"kid": "x' UNION SELECT 'key';--"}),
        "does not verify",
    ),
    "kid is a command": (
        token(key=OTHER_RSA_KEY, header={"kid": "|curl attacker.example"}),
        "does not verify",
    ),
    "kid is an object": (header(kid={"a": 1}), "`kid` must be"),
    "kid is a number": (header(kid=0), "`kid` must be"),
    "kid null": (header(kid=None), "`kid` must be"),
    "kid with NUL": (header(kid="a\0b"), "`kid` must be"),
    "kid with a line end": (header(kid="a\r\nb"), "`kid` must be"),
    "kid too long": (header(kid="k" * 257), "`kid` must be"),
    # One spelling, one meaning.
    "alg twice, the good one last": (raw_header(twice("none")), "header has a name that stands"),
    "alg twice by escapes": (
        raw_header('{"alg":"RS256","\\u0061lg":"none"}'),
        "header has a name that stands",
    ),
    "a claim twice": (
        raw_claims('{"sub":"alice","sub":"root","exp":9999999999}'),
        "payload has a name that stands twice",
    ),
    "a nested name twice": (
        raw_claims('{"sub":"a","exp":9999999999,"x":{"roles":1,"roles":2}}'),
        "payload has a name that stands twice",
    ),
    "exp is NaN": (raw_claims('{"sub":"a","exp":NaN}'), "number that is none"),
    "exp is Infinity": (raw_claims('{"sub":"a","exp":Infinity}'), "number that is none"),
    "exp is -Infinity": (raw_claims('{"sub":"a","exp":-Infinity}'), "number that is none"),
    "exp overflows": (raw_claims('{"sub":"a","exp":1e400}'), "number that is none"),
    "exp is huge": (raw_claims('{"sub":"a","exp":1e300}'), "`exp` must be a time"),
    "exp has 5,000 digits": (raw_claims('{"sub":"a","exp":1%s}' % ("0" * 5000)), "malformed"),
    "NaN elsewhere": (raw_claims('{"sub":"a","exp":9999999999,"x":NaN}'), "number that is none"),
    "payload is a list": (raw_claims("[]"), "payload is not a JSON object"),
    "payload is a text": (raw_claims('"sub"'), "payload is not a JSON object"),
    "payload is empty": (raw_claims(""), "payload is malformed"),
    "payload is nested 3,000 deep": (raw_claims("[" * 3000), "payload is malformed"),
    "payload is not UTF-8": (token(claims=b'{"sub":"\xff","exp":9999999999}'), "malformed"),
    "payload in UTF-16": (token(claims='{"sub":"a"}'.encode("utf-16")), "malformed"),
    "payload with a BOM": (token(claims=b'\xef\xbb\xbf{"sub":"a"}'), "malformed"),
    "payload with something after it": (raw_claims('{"sub":"a","exp":9999999999}{}'), "malformed"),
    "header with something after it": (raw_header('{"alg":"RS256"} x'), "malformed"),
    "header with a comment": (raw_header('{"alg":"RS256"/**/}'), "malformed"),
    "header is a list": (raw_header('["RS256"]'), "header is not a JSON object"),
    "padding": (f"{GOOD}=", "canonical"),
    "padding inside": (GOOD.replace(".", "==.", 1), "canonical"),
    "the other alphabet": (f"{GOOD.rpartition('.')[0]}.{'+/' * 171}", "canonical"),
    "bits that mean nothing": (ES_GOOD[:-1] + NEXT[ES_GOOD[-1]], "canonical"),
    "a space": (GOOD.replace(".", " .", 1), "canonical"),
    "a line end": (f"{GOOD}\n", "canonical"),
    "something after it": (f"{GOOD}AAAA", "does not verify"),
    "a lonely character": (f"{GOOD}AAA", "canonical"),
    "four parts": (f"{GOOD}.", "three parts"),
    "two parts": (GOOD.rpartition(".")[0], "three parts"),
    "no signature": (f"{GOOD.rpartition('.')[0]}.", "not signed"),
    "nothing but dots": ("..", "malformed"),
    "no payload": (f"{GOOD.split('.')[0]}..{GOOD.split('.')[2]}", "does not verify"),
    "another payload": (
        f"{GOOD.split('.')[0]}.{part({**CLAIMS, 'sub': 'root'})}.{GOOD.split('.')[2]}",
        "does not verify",
    ),
    "another header": (
        f"{part({'alg': 'RS256', 'typ': 'at+jwt'})}.{GOOD.split('.', 1)[1]}",
        "does not verify",
    ),
    # Signatures: the classes of Wycheproof's vectors.
    "another key": (token(key=OTHER_RSA_KEY), "does not verify"),
    **{
        f"ES256, {what}": (f"{token('ES256').rpartition('.')[0]}.{b64(raw)}", "does not verify")
        for what, raw in ES_PSYCHIC.items()
    },
    "ES256 in DER": (
        with_signature("ES256", lambda s: b"\x30\x44\x02\x20" + s[:32] + b"\x02\x20" + s[32:]),
        "does not verify",
    ),
    "ES256 with bytes before it": (with_signature("ES256", lambda s: b"\0" + s), "does not verify"),
    "ES256 cut": (with_signature("ES256", lambda s: s[:-1]), "does not verify"),
    "ES256 on P-384": (token("ES256", ec.generate_private_key(ec.SECP384R1())), "not verify"),
    "RS256 of zeros": (with_signature("RS256", lambda s: b"\0" * len(s)), "does not verify"),
    "RS256 of ones": (with_signature("RS256", lambda s: b"\xff" * len(s)), "does not verify"),
    "RS256 that is 1": (with_signature("RS256", lambda s: (1).to_bytes(len(s))), "not verify"),
    "RS256 with a zero before it": (with_signature("RS256", lambda s: b"\0" + s), "not verify"),
    "RS256 plus the modulus": (
        with_signature(
            "RS256",
            lambda s: (int.from_bytes(s) + RSA_KEY.public_key().public_numbers().n).to_bytes(257),
        ),
        "does not verify",
    ),
    "PS256 without salt": (pss_salt(0), "does not verify"),
    "PS256 with a long salt": (pss_salt(64), "does not verify"),
    "EdDSA of zeros": (with_signature("EdDSA", lambda _: b"\0" * 64), "does not verify"),
    "EdDSA cut": (with_signature("EdDSA", lambda s: s[:63]), "does not verify"),
    "EdDSA with S plus the order": (
        with_signature(
            "EdDSA",
            lambda s: s[:32] + (int.from_bytes(s[32:], "little") + ED_ORDER).to_bytes(32, "little"),
        ),
        "does not verify",
    ),
}
