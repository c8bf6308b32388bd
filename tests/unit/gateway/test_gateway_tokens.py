"""Tokens: who a good one speaks for, and that its claims are what they must be."""

from typing import Any

import jwt
import pytest

from services.common.errors import Unauthenticated
from services.gateway.claims import ClaimPath
from services.gateway.key_ring import KeyRing
from services.gateway.principal import Principal
from services.gateway.verification_keys import from_pem
from tests.fakes.tokens import (
    ALL,
    CLAIMS,
    KEY_OF,
    NOW,
    OTHER_RSA_KEY,
    RSA_KEY,
    TurnedClock,
    public_pem,
    token,
    tokens,
)

ALICE = Principal("default", "idp", "alice", ("auditor", "user"))


@pytest.mark.parametrize("algorithm", ALL)
async def test_each_algorithm_on_the_list_is_accepted(algorithm: str) -> None:
    assert await tokens().principal(token(algorithm)) == ALICE


@pytest.mark.parametrize("algorithm", ALL)
async def test_what_another_library_signs_is_accepted(algorithm: str) -> None:
    made = jwt.encode(CLAIMS, KEY_OF[algorithm], algorithm=algorithm)
    assert await tokens().principal(made) == ALICE


@pytest.mark.parametrize("algorithm", ALL)
async def test_an_algorithm_that_is_not_on_the_list_is_refused(algorithm: str) -> None:
    others = tuple(one for one in ALL if one != algorithm)
    with pytest.raises(Unauthenticated, match="only these algorithms are accepted"):
        await tokens(algorithms=others).principal(token(algorithm))


@pytest.mark.parametrize(
    ("claims", "principal"),
    [
        ({"tenant": "acme"}, Principal("acme", "idp", "alice", ("auditor", "user"))),
        ({"roles": "user admin"}, Principal("default", "idp", "alice", ("admin", "user"))),
        ({"roles": "user,admin, user"}, Principal("default", "idp", "alice", ("admin", "user"))),
        ({"roles": ...}, Principal("default", "idp", "alice", ("user",))),
        ({"roles": None}, Principal("default", "idp", "alice", ("user",))),
        ({"roles": []}, Principal("default", "idp", "alice")),
        ({"roles": ""}, Principal("default", "idp", "alice")),
        ({"iss": ...}, Principal("default", "jwt", "alice", ("auditor", "user"))),
        ({"exp": NOW + 60.5, "iat": NOW - 0.25}, ALICE),
        ({"exp": NOW - 29}, ALICE),
        ({"nbf": NOW + 29, "iat": NOW + 29}, ALICE),
        ({"aud": "anybody"}, ALICE),
        ({"unknown": {"deep": [1, 2.5, None]}}, ALICE),
    ],
)
async def test_claims_say_who_it_is(claims: dict[str, Any], principal: Principal) -> None:
    assert await tokens().principal(token(**claims)) == principal


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"sub": ...}, "`sub` is missing"),
        ({"sub": ""}, "`sub` must be a text"),
        ({"sub": 5}, "`sub` must be a text"),
        ({"sub": "a\nb"}, "`sub` must be a text"),
        ({"sub": "x" * 257}, "`sub` must be a text"),
        ({"exp": ...}, "`exp` is missing"),
        ({"exp": None}, "`exp` must be a time"),
        ({"exp": "2099-01-01"}, "`exp` must be a time"),
        ({"exp": True}, "`exp` must be a time"),
        ({"exp": -1}, "`exp` must be a time"),
        ({"exp": 10**30}, "`exp` must be a time"),
        ({"exp": 253402300800}, "`exp` must be a time"),
        ({"exp": [NOW + 9]}, "`exp` must be a time"),
        ({"exp": NOW - 30}, "expired"),
        ({"nbf": NOW + 31}, "not valid yet"),
        ({"nbf": "now"}, "`nbf` must be a time"),
        ({"iat": NOW + 31}, "issued in the future"),
        ({"iat": None}, "`iat` must be a time"),
        ({"tenant": "x" * 257}, "`tenant` must be a text"),
        ({"tenant": ["a"]}, "`tenant` must be a text"),
        ({"tenant": ""}, "`tenant` must be a text"),
        ({"roles": [1]}, "`roles` must be"),
        ({"roles": {"a": 1}}, "`roles` must be"),
        ({"roles": ["a\x00"]}, "`roles` must be"),
        ({"roles": [""]}, "`roles` must be"),
        ({"roles": [str(number) for number in range(129)]}, "`roles` must be"),
        ({"iss": "apikey"}, "what API keys are called"),
        ({"iss": 5}, "`iss` must be a text"),
    ],
)
async def test_claims_that_are_not_what_they_must_be_are_refused(
    claims: dict[str, Any], why: str
) -> None:
    with pytest.raises(Unauthenticated, match=why) as caught:
        await tokens().principal(token(**claims))
    expected = "EXPIRED_CREDENTIAL" if why == "expired" else "INVALID_CREDENTIAL"
    assert caught.value.reason == expected


@pytest.mark.parametrize(
    ("name", "claims", "roles"),
    [
        ("groups", {"groups": ["a"]}, ("a",)),
        ("realm_access.roles", {"realm_access": {"roles": ["a"]}}, ("a",)),
        ("realm_access.roles", {"realm_access": "roles"}, ("user",)),
        (
            "realm_access.roles",
            {"realm_access": {"roles": ["a"]}, "realm_access.roles": "b"},
            ("b",),
        ),
        ("https://example.com/roles", {"https://example.com/roles": "a b"}, ("a", "b")),
        ("https://example.com/roles", {"https://example": {"com/roles": "a"}}, ("user",)),
        ("/resource_access/my.app/roles", {"resource_access": {"my.app": {"roles": "a"}}}, ("a",)),
        ("/a~1b/c~0d", {"a/b": {"c~d": ["x"]}}, ("x",)),
    ],
)
async def test_roles_are_found_wherever_an_issuer_puts_them(
    name: str, claims: dict[str, Any], roles: tuple[str, ...]
) -> None:
    claims = {"roles": ["admin"], **claims}
    who = await tokens(roles=ClaimPath(name)).principal(token(**claims))
    assert who.roles == roles


async def test_a_tenant_is_found_in_a_nested_claim() -> None:
    who = await tokens(tenant=ClaimPath("org.id")).principal(token(org={"id": "acme"}))
    assert who.tenant == "acme"


async def test_tokens_without_roles_have_none_where_that_is_the_rule() -> None:
    assert (await tokens(default_roles=()).principal(token(roles=...))).roles == ()


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"aud": "weaver"}, None),
        ({"aud": ["else", "weaver"]}, None),
        ({"aud": "second"}, None),
        ({}, "`aud` is missing"),
        ({"aud": "else"}, "another audience"),
        ({"aud": "weaverx"}, "another audience"),
        ({"aud": []}, "another audience"),
        ({"aud": {"weaver": 1}}, "`aud` must be"),
        ({"aud": ["weaver", 1]}, "`aud` must be"),
        ({"aud": "weaver", "iss": "else"}, r"issuer \(`iss`\) is not accepted"),
        ({"aud": "weaver", "iss": ["idp"]}, r"issuer \(`iss`\) is not accepted"),
        ({"aud": "weaver", "iss": ...}, "`iss` is missing"),
    ],
)
async def test_issuer_and_audience_are_required_where_they_are_set(
    claims: dict[str, Any], why: str | None
) -> None:
    verifier = tokens(required_issuer="idp", audience=("weaver", "second"))
    made = token(**claims)
    if why is None:
        assert await verifier.principal(made) == ALICE
        return
    with pytest.raises(Unauthenticated, match=why):
        await verifier.principal(made)


async def test_a_verified_token_is_remembered_until_it_ends() -> None:
    clock = TurnedClock(NOW)
    verifier = tokens(clock=clock, leeway_s=30.0)
    made = token(exp=NOW + 100)
    assert await verifier.principal(made) is await verifier.principal(made)
    clock.now = NOW + 129
    await verifier.principal(made)
    clock.now = NOW + 130
    with pytest.raises(Unauthenticated, match="expired"):
        await verifier.principal(made)


async def test_what_a_key_verified_is_forgotten_with_the_key() -> None:
    """Promise: a key that is taken away lets nobody in any more."""
    ring = KeyRing()
    ring.put("files", from_pem(public_pem(RSA_KEY), "a"))
    verifier = tokens(ring=ring)
    made = token(header={"kid": "a"})
    assert await verifier.principal(made) == ALICE
    ring.put("files", from_pem(public_pem(OTHER_RSA_KEY), "a"))
    with pytest.raises(Unauthenticated, match="signature does not verify"):
        await verifier.principal(made)


async def test_another_source_that_changes_leaves_remembered_tokens_alone() -> None:
    ring = KeyRing()
    ring.put("files", from_pem(public_pem(RSA_KEY), "a"))
    verifier = tokens(ring=ring)
    made = token(header={"kid": "a"})
    first = await verifier.principal(made)
    ring.put("jwks", from_pem(public_pem(OTHER_RSA_KEY), "b"))
    assert await verifier.principal(made) is first


async def test_remembered_tokens_are_bounded_and_those_in_use_stay() -> None:
    verifier = tokens(most=10)
    used = token(sub="used")
    first = await verifier.principal(used)
    for number in range(30):
        await verifier.principal(token("EdDSA", sub=f"s{number}"))
        assert await verifier.principal(used) is first
    assert len(verifier) <= 10
