"""Paths and headers that are meant to be read in one way here and in another behind."""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence

import pytest

from tests.integration.edge.conftest import Edge, ScriptedGateway

pytestmark = pytest.mark.asyncio(loop_scope="session")

USAGE, RECORDS = "/v1/admin/usage", "/v1/audit/records"
# What is the same path to everybody, and so the method behind it.
SAME = (
    f"{USAGE}?",
    f"{USAGE}?x=/v1/models",
    "/v1/./admin/usage",
    "/v1/models/../admin/usage",
    "/v1/models/%2e%2e/admin/usage",
    "/v1/models/%2E%2E/admin/usage",
    "/v1/models/..%2Fadmin/usage",
    "/v1/models/..%2fadmin/usage",
    "/v1/%61dmin/usage",
    "/v1%2Fadmin%2Fusage",
    "https://evil.example/v1/admin/usage",
    f"{USAGE}/",
    f"{USAGE}/.",
    "/v1/admin\\usage",
    "/v1\\admin\\usage",
    "/v1/models\\..\\admin\\usage",
    "/v1/admin%5cusage",
    "/v1/..;/v1/admin/usage",
    "/v1/models/..;/admin/usage",
)
# What one server or another takes for it, and this one does not.
OTHERS = (
    f"/{USAGE}",
    "/v1//admin/usage",
    "/v1/admin//usage",
    f"{USAGE}.",
    f"{USAGE}%20",
    f"{USAGE}%00",
    f"{USAGE};a=b",
    f"{USAGE};/v1/models",
    f"{USAGE}%3B",
    f"{USAGE}.json",
    f"{USAGE}#/v1/models",
    "/V1/ADMIN/USAGE",
    "/v1/Admin/usage",
    "/v1/%2561dmin/usage",
    "/../../v1/admin/usage/../../..",
    "/v1/admin/usage/%2e%2e",
    "/%76%31/admin/%75sage/x",
    "/health/../v1/admin/usage/..",
    "/v1/admin/us%C0%AEage",
    "/v1/ad%u006din/usage",
    "*",
    "v1/admin/usage",
    "//evil.example/v1/admin/usage",
    "/weaver.gateway.v1.AdminService/GetUsage",
)


async def answers(edge: Edge, requests: Sequence[bytes]) -> list[int]:
    """Send each request on a connection of its own, all at once, and return their status."""

    async def one(request: bytes) -> int:
        trust = edge.trust
        trust.verify_mode, trust.check_hostname = ssl.CERT_REQUIRED, True
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", edge.port, ssl=trust, server_hostname="localhost"
        )
        try:
            writer.write(request)
            async with asyncio.timeout(8):
                line = await reader.readline()
            return int(line.split()[1]) if line else 0
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    return await asyncio.gather(*map(one, requests))


def request(target: str, *headers: str, method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "host: x", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def test_a_path_means_the_same_here_and_behind(edge: Edge, gateway: ScriptedGateway) -> None:
    found = dict(zip(SAME, await answers(edge, [*map(request, SAME)]), strict=True))
    assert set(found.values()) == {200}, found
    assert {call.method for call in gateway.calls} == {"GetUsage"}


async def test_an_escape_of_an_escape_stays_a_name(edge: Edge, gateway: ScriptedGateway) -> None:
    assert await answers(edge, [request("/v1/models/%252e%252e/admin/usage")]) == [200]
    assert (gateway.last.method, gateway.last.request.id) == ("GetModel", "%2e%2e/admin/usage")


async def test_what_only_looks_like_a_path_that_is_served_reaches_nobody(
    edge: Edge, gateway: ScriptedGateway
) -> None:
    found = dict(zip(OTHERS, await answers(edge, [*map(request, OTHERS)]), strict=True))
    assert {*found.values()} <= {400, 404, 405, 415}, found
    assert {call.method for call in gateway.calls} <= {"Health"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_no_other_method_reaches_a_path_that_is_read(
    edge: Edge, gateway: ScriptedGateway, method: str
) -> None:
    bodiless = request(USAGE, "content-length: 0", method=method)
    assert (await answers(edge, [bodiless]))[0] in {400, 404, 405}
    assert gateway.calls == []


async def test_nothing_in_the_headers_changes_path_method_or_host(
    edge: Edge, gateway: ScriptedGateway
) -> None:
    tricks = (
        *("x-original-url", "x-rewrite-url", "x-original-uri", "x-forwarded-uri", "x-envoy-path"),
        *("x-envoy-original-path", "x-forwarded-path", "x-forwarded-prefix"),
    )
    methods = ("x-http-method-override", "x-http-method", "x-method-override", "x-original-method")
    hosts = ("x-forwarded-host", "x-host", "x-original-host", "forwarded")
    requests = [request("/health", f"{name}: {USAGE}") for name in tricks]
    requests += [request("/health", f"{name}: POST") for name in methods]
    requests += [request("/health", f"{name}: admin.internal") for name in hosts]
    assert set(await answers(edge, requests)) == {200}
    assert {call.method for call in gateway.calls} == {"Health"}
    values = {value for call in gateway.calls for value in call.metadata.values()}
    assert not {USAGE, "POST", "admin.internal"} & values


async def test_headers_that_smuggle_are_refused_or_do_not_arrive(
    edge: Edge, gateway: ScriptedGateway
) -> None:
    body = "content-length: 4"
    refused = [
        request("/health", "x weaver: 1"),
        request("/health", "x-weaver-a : 1"),
        request("/health", " x-weaver-a: 1"),
        request("/health", "x-a: b\x00"),
        request("/health", "content-length: +4"),
        request("/health", "content-length: 4, 4x"),
        request("/health", "content-length: -1"),
        request("/health", "content-length: 4", "content-length: 5"),
        request("/health", "transfer-encoding: chunked", body),
        request("/health", "transfer-encoding: xchunked"),
        request("/health", "transfer-encoding: chunked, identity"),
        request("/health", "transfer-encoding: gzip, chunked"),
        request("/health", "upgrade: websocket", "connection: upgrade"),
        request("/health", "upgrade: h2c", "connection: upgrade, http2-settings"),
        request("/health", "x-a: 1\nx-weaver-b : 2"),
    ]
    found = await answers(edge, refused)
    seen = {name for call in gateway.calls for name in call.metadata}
    for raw, status in zip(refused, found, strict=True):
        assert status in {0, 400, 403, 404, 501} or b"upgrade" in raw, (raw, status)
    assert not [name for name in seen if name.startswith(("x-weaver-a", "x-weaver-b"))]
    stripped = [
        request("/health", "host: y"),  # there are no virtual hosts: it decides nothing
        request("/health", "x-a: b\rx-weaver-a: 1"),
        request("/health", "connection: close, x-weaver-client-address, authorization"),
        request("/health", "x_weaver_subject: root", "x-forwarded_for: 6.6.6.6"),
        request("/health", "X-WEAVER-Subject: root", "X-Forwarded-For: 6.6.6.6"),
        request("/health", "grpc-timeout: 1n", "te: trailers", "grpc-encoding: gzip"),
        request("/health", "x-envoy-decorator-operation: a", "x-envoy-max-retries: 9"),
        request("/health", "keep-alive: 1", "proxy-connection: close", "te: deflate"),
    ]
    gateway.calls.clear()
    assert set(await answers(edge, stripped)) == {200}
    for call in gateway.calls:
        assert call.metadata["x-weaver-client-address"] == "127.0.0.1"
        forbidden = ("x_", "x-weaver-s", "x-forwarded_", "x-envoy-d", "x-envoy-m", "keep")
        assert not [name for name in call.metadata if name.startswith(forbidden)]
        assert not {"grpc-timeout", "grpc-encoding", "connection"} & set(call.metadata)
        assert call.metadata.get("x-forwarded-for") != "6.6.6.6"
