"""HTTP to a provider: pooled and warm connections, time-outs, bounded answers.

It sends what it is given and nothing of its own accord: no cookies, no redirects, no proxies from
the environment, no second tries. It calls httpx's transport directly, because the client above it
costs 150 microseconds of CPU for each call and adds nothing that is wanted here.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self, cast

import aiohttp
import httpx
import msgspec
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from httpx_aiohttp import AiohttpTransport

from services.model.call import Headers
from services.model.credential import NO_KEY, Credential, Header, bearer
from services.model.failure import ProviderError, failed, timed_out

_SLICE = 256 * 1024
_READ_AHEAD = 16 * 1024
_MOST_PATHS = 1_000
# What a body's own framing breaks with is no ClientError: aiohttp passes on what its parser raised.
_BROKEN = (httpx.HTTPError, aiohttp.ClientError, HttpProcessingError, OSError)


class Limits(msgspec.Struct, frozen=True):
    """How long and how large.

    Args:
        connect_s: until a connection stands, TLS included.
        first_byte_s: from there until the response headers, or a stream's first event.
        idle_s: between two pieces of a body.
        answer_bytes: the longest body that is accepted.
    """

    connect_s: float = 5.0
    first_byte_s: float = 60.0
    idle_s: float = 60.0
    answer_bytes: int = 16 * 1024 * 1024


class Reply:
    """An HTTP response whose body is still arriving.

    Args:
        response: as the transport returned it.
        limits: how long to wait for a piece, and how many bytes to accept.
    """

    def __init__(self, response: httpx.Response, limits: Limits) -> None:
        """See the class."""
        self.status = response.status_code
        self.headers: Mapping[str, str] = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in response.headers.raw
        }
        """By name in lower case; of two with one name the later."""
        self._stream = cast("httpx.AsyncByteStream", response.stream)
        self._pieces = aiter(self._stream)
        self._limits = limits
        self._left = limits.answer_bytes

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def read(self) -> bytes:
        """Return the next piece of the body; empty at its end.

        Raises:
            ProviderError: it breaks off, stalls, or is too long.
        """
        try:
            async with asyncio.timeout(self._limits.idle_s):
                piece = await anext(self._pieces, b"")
        except TimeoutError:
            msg = "The provider stopped in the middle of its answer."
            raise timed_out(msg) from None
        except _BROKEN:
            msg = "The connection broke in the middle of the provider's answer."
            raise failed(msg) from None
        self._left -= len(piece)
        if self._left < 0:
            sentence = f"The provider's answer is longer than {self._limits.answer_bytes} bytes."
            raise failed(sentence, http_status=self.status, retryable=False)
        return piece

    async def read_all(self) -> bytes:
        """Return the whole body.

        Raises:
            ProviderError: as `read` does.
        """
        first = await self.read()
        second = await self.read() if first else b""
        if not second:
            return first
        pieces = [first, second]
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    async def aclose(self) -> None:
        """Give the connection back when the body was read to its end, else cut it."""
        try:
            await self._stream.aclose()
        except _BROKEN:
            return

    async def __aenter__(self) -> Self:
        """Return the reply."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.aclose()


class Endpoint:
    """One provider's base URL, and the key to it.

    Args:
        transport: carries requests; closing it is the caller's business.
        base_url: without a slash at its end.
        headers: sent with each request.
        limits: how long and how large.
        credential: the key; what it is now is sent with each request.
        key_header: makes a header of the key.
        query: appended to each path, such as `api-version=2024-10-21`.
    """

    def __init__(  # noqa: PLR0913 - what an address consists of
        self,
        transport: httpx.AsyncBaseTransport,
        base_url: str,
        headers: Headers,
        limits: Limits,
        *,
        credential: Credential = NO_KEY,
        key_header: Header = bearer,
        query: str = "",
    ) -> None:
        """See the class."""
        self._transport = transport
        self._base_url = base_url
        self._plain = [(name.encode(), value.encode()) for name, value in headers]
        self._headers = self._plain
        self._urls: dict[str, httpx.URL] = {}
        self._credential = credential
        self._key_header = key_header
        self._key = ""
        self._query = f"?{query}" if query else ""
        self.limits = limits
        timeouts = {"connect": limits.connect_s, "pool": limits.connect_s}
        self._extensions = {"timeout": timeouts}

    def clean(self, text: bytes) -> bytes:
        """Return what the provider said without our key in it."""
        return self._credential.clean(text)

    async def post(self, path: str, body: bytes, headers: Headers) -> Reply:
        """Send a body and return the reply once its headers are here.

        Raises:
            ProviderError: no connection, no headers in time, or headers that cannot be read.
        """
        url = self._urls.get(path)
        if url is None:
            if len(self._urls) >= _MOST_PATHS:
                self._urls.clear()
            url = self._urls[path] = httpx.URL(self._base_url + path + self._query)
        if self._credential.value is not self._key:
            self._rekey(self._credential.value)
        length = (b"content-length", b"%d" % len(body))
        request = httpx.Request(
            "POST",
            url,
            headers=[
                *self._headers,
                *((name.encode(), value.encode()) for name, value in headers),
                length,
            ],
            extensions=self._extensions,
            **({"content": body} if len(body) <= _SLICE else {"stream": _Slices(body)}),
        )
        try:
            async with asyncio.timeout(self.limits.first_byte_s):
                response = await self._transport.handle_async_request(request)
        except TimeoutError:
            msg = "The provider did not begin to answer in time."
            raise timed_out(msg) from None
        except _BROKEN as error:
            raise _unanswered(error) from None
        return Reply(response, self.limits)

    def _rekey(self, key: str) -> None:
        self._key = key
        self._headers = self._plain
        if key:
            name, value = self._key_header(key)
            self._headers = [*self._plain, (name.encode(), value.encode())]


class _Slices(httpx.AsyncByteStream):
    """A long body in pieces, so that sending it does not hold up every other call."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        view = memoryview(self._body)
        for start in range(0, len(view), _SLICE):
            yield bytes(view[start : start + _SLICE])


class _Handler(ResponseHandler):
    """A connection that tells who reads a body when the rest of it cannot be read.

    aiohttp closes such a connection, and leaves the reader to wait for the end of its patience.
    """

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        super().set_exception(exc, *cause)
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError(str(exc)))


class _Connector(aiohttp.TCPConnector):
    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - aiohttp's
        super().__init__(**options)
        handler: type[ResponseHandler] = _Handler
        self._factory = functools.partial(handler, loop=self._loop)


def pooled_transport() -> AiohttpTransport:
    """Return a transport with a pool of its own, without a bound; close it with `aclose`.

    Certificates verify against the bundle that `SSL_CERT_FILE` or `SSL_CERT_DIR` names, else
    against certifi's. It resolves names anew every ten seconds.
    """
    context = httpx.create_ssl_context()

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=_Connector(limit=0, ssl=context, keepalive_timeout=55.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            # What each stream whose caller does not read holds here.
            read_bufsize=_READ_AHEAD,
            auto_decompress=False,
            skip_auto_headers=("accept", "accept-encoding", "user-agent"),
        )

    return AiohttpTransport(verify=context, trust_env=False, client=session)


def _unanswered(error: Exception) -> ProviderError:
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) else error
    if isinstance(cause, aiohttp.ClientResponseError):
        return failed("The provider's response headers cannot be read.", retryable=False)
    if isinstance(cause, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return failed("The provider's certificate does not verify.")
    if isinstance(cause, aiohttp.ServerDisconnectedError):
        return failed("The provider closed the connection without an answer.")
    return failed("The provider cannot be reached.")
