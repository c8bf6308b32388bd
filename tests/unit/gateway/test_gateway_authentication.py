"""Who is calling: what is believed, and everything that is not."""

from collections.abc import Callable

import pytest

from services.common.errors import Unauthenticated
from services.gateway.authentication import APIKeys, Authenticator
from services.gateway.authorization import Authorizer, Scope
from services.gateway.principal import Principal
from tests.fakes.tokens import token, tokens


def header(**headers: str) -> Callable[[str], str]:
    return lambda name: headers.get(name.replace("-", "_"), "")


def bearer(credential: str) -> Callable[[str], str]:
    return header(authorization=f"Bearer {credential}")


def authenticator() -> Authenticator:
    return Authenticator(APIKeys(["key-1", "key-2"], tenant="t", roles=("user",)), tokens())


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
    principal = await authenticator().authenticate(bearer(token(tenant="acme")))
    assert principal == Principal("acme", "idp", "alice", ("auditor", "user"))


async def test_a_kind_that_is_switched_off_is_refused() -> None:
    keys = APIKeys(["key-1"], tenant="t", roles=("user",))
    with pytest.raises(Unauthenticated):
        await Authenticator(keys, None).authenticate(bearer(token()))
    with pytest.raises(Unauthenticated):
        await Authenticator(None, tokens()).authenticate(bearer("key-1"))


def test_roles_decide_and_an_unknown_role_allows_nothing() -> None:
    authorizer = Authorizer()
    assert authorizer.allows(Principal("t", "i", "s", ("auditor",)), Scope.AUDIT_ALL)
    assert not authorizer.allows(Principal("t", "i", "s", ("user",)), Scope.AUDIT_ALL)
    assert not any(authorizer.allows(Principal("t", "i", "s", ("root",)), scope) for scope in Scope)
