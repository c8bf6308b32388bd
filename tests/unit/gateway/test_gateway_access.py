"""Who may call what: each method of the gateway, called as everybody who may and who may not."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default

from services.common.errors import PermissionDenied, Unauthenticated, Unavailable, WeaverError
from services.common.settings import load
from services.gateway import access
from services.gateway.access import ACCESS, Open
from services.gateway.authorization import Scope
from services.gateway.roles import MODEL_SURFACES
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import SERVICES, Neighbours, build
from tests.fakes.tokens import RSA_KEY, public_pem, token

ROOT = Path(__file__).parents[3]
SURFACES_OF = {
    "ChatCompletions": "chat.completions",
    "Responses": "responses",
    "Messages": "messages",
    "CountTokens": "messages.count_tokens",
    "Embeddings": "embeddings",
    "Generate": "generate",
    "GenerateStream": "generate",
}


def every_method() -> dict[str, MethodDescriptor]:
    """Return each method of each service of the gateway, as the contracts declare them."""
    found = (Default().FindServiceByName(name) for name in SERVICES)
    return {method.full_name: method for service in found for method in service.methods}


METHODS = every_method()


def allows(*, surfaces: str = "", audit: str = "", administration: str = "none") -> str:
    return (
        f"{{surfaces: [{surfaces}], models: {{allow: ['*']}}, audit: {{{audit}}}, "
        f"administration: {administration}}}"
    )


EVERYTHING = {
    "surfaces": "'*'",
    "audit": "records: all, keys: all, texts: all",
    "administration": "write",
}
ONLY: dict[Scope, str] = {
    Scope.MODELS: allows(surfaces="models"),
    Scope.AUDIT_OWN: allows(audit="records: own"),
    Scope.AUDIT_ALL: allows(audit="records: all"),
    Scope.AUDIT_KEYS: allows(audit="records: own, keys: own"),
    Scope.AUDIT_TEXTS: allows(audit="records: own, texts: own"),
    Scope.ADMIN_READ: allows(administration="read"),
    Scope.ADMIN: allows(administration="write"),
}
ALL_BUT: dict[Scope, str] = {
    Scope.MODELS: allows(**{**EVERYTHING, "surfaces": ", ".join(MODEL_SURFACES)}),
    Scope.AUDIT_OWN: allows(**{**EVERYTHING, "audit": ""}),
    Scope.AUDIT_ALL: allows(**{**EVERYTHING, "audit": "records: tenant, keys: own, texts: own"}),
    Scope.AUDIT_KEYS: allows(**{**EVERYTHING, "audit": "records: all, texts: all"}),
    Scope.AUDIT_TEXTS: allows(**{**EVERYTHING, "audit": "records: all, keys: all"}),
    Scope.ADMIN_READ: allows(**{**EVERYTHING, "administration": "none"}),
    Scope.ADMIN: allows(**{**EVERYTHING, "administration": "read"}),
}
ROLES = "\n".join(
    [
        "version: 1",
        "roles:",
        *(f"  only-{scope.name}: {role}" for scope, role in ONLY.items()),
        *(f"  but-{scope.name}: {role}" for scope, role in ALL_BUT.items()),
        *(f"  only-{name}: {allows(surfaces=name)}" for name in MODEL_SURFACES),
        *(
            f"  but-{name}: "
            + allows(**{**EVERYTHING, "surfaces": ", ".join({*MODEL_SURFACES} - {name})})
            for name in MODEL_SURFACES
        ),
    ]
)


class Gone:
    """A channel to a neighbour that is not there."""

    def unary_unary(self, *_: object, **__: object) -> Callable[..., Any]:
        async def call(*_: object, **__: object) -> object:
            msg = "not there"
            raise Unavailable(msg)

        return call

    def unary_stream(self, *_: object, **__: object) -> Callable[..., Any]:
        async def call(*_: object, **__: object) -> AsyncIterator[object]:
            msg = "not there"
            raise Unavailable(msg)
            yield

        return call


class Context:
    """A call's context, as far as servicers use it."""

    peer_name = ""

    def __init__(self, credential: str) -> None:
        self._metadata = (("authorization", f"Bearer {credential}"),) if credential else ()

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def peer(self) -> str:
        return "ipv4:192.0.2.1:1"

    def set_trailing_metadata(self, metadata: object) -> None:
        assert metadata

    async def send_initial_metadata(self, metadata: object) -> None:
        assert metadata


class Gateway:
    """A gateway whose methods can be called by their names."""

    def __init__(self) -> None:
        self.methods: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        assert handlers

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        for name, handler in handlers.items():
            self.methods[f"{service}.{name}"] = handler.unary_unary or handler.unary_stream

    async def verdict(self, name: str, *roles: str, credential: str | None = None) -> str:
        """Say how a call with an empty request ends: `in`, or what kept it out."""
        request = message_factory.GetMessageClass(METHODS[name].input_type)()
        if credential is None:
            credential = token(roles=list(roles), exp=4_000_000_000)
        called = self.methods[name](request, Context(credential))
        try:
            if METHODS[name].server_streaming and hasattr(called, "__aiter__"):
                async for _ in called:
                    pass
            else:
                await called
        except Unauthenticated:
            return "unauthenticated"
        except PermissionDenied:
            return "denied"
        except (WeaverError, NotImplementedError):
            return "in"  # Whatever lies behind the door.
        return "in"


@pytest.fixture
async def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    (tmp_path / "roles.yaml").write_text(ROLES)
    for name, value in {
        "WEAVER_AUTH_MODE": "jwt",
        "WEAVER_JWT_PUBLIC_KEY": public_pem(RSA_KEY).decode(),
        "WEAVER_ROLES_FILE": str(tmp_path / "roles.yaml"),
        "WEAVER_STATE_DIR": str(tmp_path),
        "WEAVER_AUDIT_TIMEOUT_MS": "10",
        "WEAVER_DRAIN_SECONDS": "0",
    }.items():
        monkeypatch.setenv(name, value)
    served = Gateway()
    async with AsyncExitStack() as stack:
        component = await build(load(GatewaySettings), stack, Neighbours(Gone(), Gone(), Gone()))
        component.register(served)
        yield served


def test_the_page_has_every_method_and_no_other() -> None:
    """Promise: no method is served of which nobody decided who may call it."""
    assert set(METHODS) == set(ACCESS)
    with pytest.raises(LookupError, match=r"a\.B\.C"):
        access.check([*METHODS, "a.B.C"])


def test_every_path_of_the_front_door_leads_to_a_method_of_the_page() -> None:
    envoy = (ROOT / "deploy" / "envoy" / "envoy.yaml").read_text()
    names = re.findall(r"/(weaver\.gateway\.v1\.\w+/\w+)", envoy)
    paths = {name.replace("/", ".") for name in names}
    assert paths
    assert paths <= set(ACCESS)


async def test_each_method_is_served(gateway: Gateway) -> None:
    assert set(gateway.methods) == set(METHODS)


async def test_nobody_without_a_credential_gets_in(gateway: Gateway) -> None:
    for name, needs in ACCESS.items():
        for credential in ("", "guess", "a.b.c"):
            verdict = await gateway.verdict(name, credential=credential)
            assert verdict == ("in" if needs is Open.ANYONE else "unauthenticated"), name


async def test_nobody_without_a_role_gets_further_than_their_own_name(gateway: Gateway) -> None:
    """Promise: what no role allows is denied."""
    for name, needs in ACCESS.items():
        for roles in ((), ("nobody-declared-this",)):
            verdict = await gateway.verdict(name, *roles)
            assert verdict == ("in" if isinstance(needs, Open) else "denied"), name


async def test_each_permission_opens_what_needs_it_and_no_other_does(gateway: Gateway) -> None:
    """Promise: every method is enforced by the one page, and by exactly its permission."""
    for name, needs in ACCESS.items():
        if isinstance(needs, Open):
            continue
        what = SURFACES_OF[name.rpartition(".")[2]] if needs is Scope.GENERATE else needs.name
        assert await gateway.verdict(name, f"only-{what}") == "in", name
        assert await gateway.verdict(name, f"but-{what}") == "denied", name


async def test_built_in_roles_open_what_is_theirs(gateway: Gateway) -> None:
    for name, needs in ACCESS.items():
        opened = {
            role
            for role in ("user", "service", "auditor", "admin")
            if await gateway.verdict(name, role) == "in"
        }
        expected = {"user", "service", "auditor", "admin"}
        if needs is Scope.GENERATE:
            expected = {"user", "service", "admin"}
        elif needs is Scope.AUDIT_ALL:
            expected = {"auditor", "admin"}
        elif needs in {Scope.ADMIN, Scope.ADMIN_READ}:
            expected = {"admin"}
        assert opened == expected, name
