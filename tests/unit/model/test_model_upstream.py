"""HTTP to a provider."""

import aiohttp
import httpx
import pytest
from aiohttp.client_reqrep import ConnectionKey

from services.model.failure import ProviderError
from services.model.upstream import Endpoint, Limits, pooled_transport
from tests.fakes.instant import run
from tests.fakes.wire import Canned, Wire

_KEY = ConnectionKey("provider.test", 443, True, True, None, None, None)


def _caused(cause: Exception) -> httpx.TransportError:
    error = httpx.ConnectError("x")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("before", "sentence", "retryable"),
    [
        (httpx.ConnectError("refused"), "cannot be reached", True),
        (OSError("unreachable"), "cannot be reached", True),
        (_caused(aiohttp.ServerDisconnectedError()), "closed the connection", True),
        (
            _caused(aiohttp.ClientConnectorCertificateError(_KEY, ValueError("x"))),
            "certificate",
            True,
        ),
        (
            aiohttp.ClientResponseError(None, (), message="Too many headers"),  # type: ignore[arg-type]
            "headers cannot be read",
            False,
        ),
    ],
)
def test_no_answer_is_told_apart(before: Exception, sentence: str, retryable: bool) -> None:
    endpoint = Endpoint(Wire(Canned(before=before)), "http://provider.test", (), Limits())

    with pytest.raises(ProviderError, match=sentence) as caught:
        run(endpoint.post("/x", b"{}", ()))
    assert caught.value.retryable is retryable


def test_a_long_body_arrives_whole() -> None:
    wire = Wire(Canned())
    body = bytes(range(256)) * 4096
    endpoint = Endpoint(wire, "http://provider.test", (), Limits())

    run(endpoint.post("/x", body, ()))

    assert wire.bodies == [body]
    assert wire.requests[0].headers["content-length"] == str(len(body))


def test_closing_a_broken_reply_does_not_raise() -> None:
    class Breaking(httpx.AsyncByteStream):
        async def aclose(self) -> None:
            raise httpx.ReadError("gone")

    class Transport(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, stream=Breaking())

    async def main() -> None:
        async with await Endpoint(Transport(), "http://provider.test", (), Limits()).post(
            "/x", b"", ()
        ) as reply:
            assert reply.content_type == ""

    run(main())


def test_the_transport_closes_before_it_was_used() -> None:
    run(pooled_transport().aclose())
