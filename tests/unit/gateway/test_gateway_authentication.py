"""Who is calling: what is believed, and everything that is not."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from services.common.errors import Unauthenticated
from services.gateway.authentication import APIKeys, Authenticator
from services.gateway.authorization import Authorizer, Scope
from services.gateway.principal import Principal
from services.gateway.tokens import TokenPolicy, Tokens
from tests.fakes.gateway import StillClock

PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = PRIVATE.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
NOW = time.time()
# PyJWT reads the real clock, and a run of all tests takes a while after this was imported.
LIFE_S = 6 * 3600
CLAIMS: dict[str, Any] = {
    "sub": "alice",
    "iss": "idp",
    "exp": NOW + LIFE_S,
    "roles": ["user", "auditor"],
}


def header(**headers: str) -> Callable[[str], str]:
    return lambda name: headers.get(name.replace("-", "_"), "")


def bearer(credential: str) -> Callable[[str], str]:
    return header(authorization=f"Bearer {credential}")


def authenticator(**policy: Any) -> Authenticator:
    tokens = Tokens(TokenPolicy({"": PUBLIC}, **policy), StillClock(NOW))
    return Authenticator(APIKeys(["key-1", "key-2"], tenant="t", roles=("user",)), tokens)


def signed(key: Any = PRIVATE, algorithm: str = "RS256", **claims: Any) -> str:
    return jwt.encode({**CLAIMS, **claims}, key, algorithm=algorithm)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer key-1"},
        {"authorization": "bearer  key-1 "},
        {"x_api_key": "key-1"},
    ],
)
async def test_an_api_key_names_its_principal_and_never_the_key(headers: dict[str, str]) -> None:
    principal = await authenticator().authenticate(header(**headers))
    assert (principal.tenant, principal.issuer, principal.roles) == ("t", "apikey", ("user",))
    assert principal.subject.startswith("key_")
    assert "key-1" not in principal.subject


async def test_two_keys_are_two_principals() -> None:
    who = authenticator()
    assert await who.authenticate(bearer("key-1")) != await who.authenticate(bearer("key-2"))


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "MISSING_CREDENTIAL"),
        ({"authorization": "Bearer "}, "MISSING_CREDENTIAL"),
        ({"authorization": "Basic a2V5LTE="}, "MISSING_CREDENTIAL"),
        ({"authorization": "Bearer key-3"}, "INVALID_CREDENTIAL"),
        ({"authorization": "Bearer key-1x"}, "INVALID_CREDENTIAL"),
        ({"authorization": "Bearer a.b.c"}, "INVALID_CREDENTIAL"),
        ({"authorization": "Bearer ü"}, "INVALID_CREDENTIAL"),
        ({"authorization": "Bearer key-1\xa0"}, "INVALID_CREDENTIAL"),
        ({"authorization": "Bearer \xa0key-1"}, "INVALID_CREDENTIAL"),
        ({"x_api_key": "key-1\t"}, "INVALID_CREDENTIAL"),
        ({"x_api_key": "key-1\xa0"}, "INVALID_CREDENTIAL"),
        ({"authorization": "Bearer " + "x" * 9000}, "INVALID_CREDENTIAL"),
    ],
)
async def test_anything_else_is_refused(headers: dict[str, str], reason: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await authenticator().authenticate(header(**headers))
    assert caught.value.reason == reason
    assert "key-1x" not in str(caught.value)


async def test_a_token_names_its_principal() -> None:
    principal = await authenticator().authenticate(bearer(signed(tenant="acme")))
    assert principal == Principal("acme", "idp", "alice", ("auditor", "user"))


@pytest.mark.parametrize(
    ("claims", "principal"),
    [
        ({"roles": "user admin"}, Principal("default", "idp", "alice", ("admin", "user"))),
        ({"sub": ""}, None),
        ({"sub": 5}, None),
        ({"sub": "a\ud800"}, None),
        ({"sub": "a\nb"}, None),
        ({"tenant": "x" * 257}, None),
        ({"roles": ["\ud800"]}, None),
        ({"tenant": ["a"]}, None),
        ({"roles": [1]}, None),
        ({"roles": {"a": 1}}, None),
        ({"exp": NOW - 60}, None),
        ({"nbf": NOW + LIFE_S}, None),
    ],
)
async def test_claims_are_checked(claims: dict[str, Any], principal: Principal | None) -> None:
    token = signed(**claims)
    if principal is not None:
        assert await authenticator().authenticate(bearer(token)) == principal
        return
    with pytest.raises(Unauthenticated):
        await authenticator().authenticate(bearer(token))


@pytest.mark.parametrize("claim", ["sub", "exp"])
async def test_a_missing_claim_is_named(claim: str) -> None:
    claims = {name: value for name, value in CLAIMS.items() if name != claim}
    token = jwt.encode(claims, PRIVATE, algorithm="RS256")
    with pytest.raises(Unauthenticated, match=claim):
        await authenticator().authenticate(bearer(token))


def forged_none() -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()

    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(CLAIMS)}."


def forged_hmac() -> str:
    """Sign with the public key as if it were a shared secret."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    text = f"{part(msgspec.json.encode({'alg': 'HS256'}))}.{part(msgspec.json.encode(CLAIMS))}"
    return f"{text}.{part(hmac.new(PUBLIC, text.encode(), hashlib.sha256).digest())}"


@pytest.mark.parametrize(
    "token",
    [
        signed(OTHER),
        signed(algorithm="RS512"),
        signed()[:-4] + "AAAA",
        forged_none(),
        forged_hmac(),
        ".".join([*signed().split(".")[:2], ""]),
        "..",
    ],
    ids=["other key", "other algorithm", "other signature", "none", "hmac", "unsigned", "dots"],
)
async def test_a_forged_token_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        await authenticator().authenticate(bearer(token))


async def test_issuer_and_audience_are_required_where_they_are_set() -> None:
    who = authenticator(issuer="idp", audience=("weaver",))
    assert (await who.authenticate(bearer(signed(aud="weaver")))).subject == "alice"
    for claims in ({"aud": "else"}, {"aud": "weaver", "iss": "else"}, {}):
        with pytest.raises(Unauthenticated):
            await who.authenticate(bearer(signed(**claims)))


async def test_a_remembered_token_is_forgotten_when_it_expires() -> None:
    clock = StillClock(NOW)
    tokens = Tokens(TokenPolicy({"": PUBLIC}), clock)
    token = signed(exp=NOW + LIFE_S)
    assert await tokens.principal(token) is await tokens.principal(token)
    clock.now = NOW + LIFE_S + 100
    # The library's own clock still accepts it; that it is asked again is what counts.
    assert await tokens.principal(token) == await tokens.principal(token)


async def test_a_kind_that_is_switched_off_is_refused() -> None:
    keys = APIKeys(["key-1"], tenant="t", roles=("user",))
    with pytest.raises(Unauthenticated):
        await Authenticator(keys, None).authenticate(bearer(signed()))
    with pytest.raises(Unauthenticated):
        await Authenticator(None, Tokens(TokenPolicy({"": PUBLIC}), StillClock())).authenticate(
            bearer("key-1")
        )


def test_roles_decide_and_an_unknown_role_allows_nothing() -> None:
    authorizer = Authorizer()
    assert authorizer.allows(Principal("t", "i", "s", ("auditor",)), Scope.AUDIT_ALL)
    assert not authorizer.allows(Principal("t", "i", "s", ("user",)), Scope.AUDIT_ALL)
    assert not any(authorizer.allows(Principal("t", "i", "s", ("root",)), scope) for scope in Scope)
