"""One question to a vendor over HTTP, whole or streamed: what is the same for all of them."""

import asyncio
from collections.abc import Callable

from services.common.clock import Clock
from services.model.call import Answer, Call, Facts, Headers
from services.model.event_stream import EventStream, Watch
from services.model.failure import ProviderError, failed, from_status, timed_out
from services.model.headers import from_provider, is_plain
from services.model.upstream import Endpoint, Reply

_OK = 200
_ERROR_BODY_S = 5.0


class Vendor:
    """A vendor's API at one endpoint.

    Args:
        endpoint: its base URL, with the credential.
        clock: for `Retry-After` dates.
    """

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        """See the class."""
        self._endpoint = endpoint
        self._clock = clock

    async def whole(
        self, path: str, body: bytes, headers: Headers, read: Callable[[bytes], Facts]
    ) -> Answer:
        """Return a whole answer, byte for byte.

        Args:
            path: below the base URL.
            body: the request.
            headers: what goes along beside the endpoint's own.
            read: returns what the answer says about itself.

        Raises:
            ProviderError: there is none.
        """
        async with await self._endpoint.post(path, body, headers) as reply:
            if reply.status != _OK:
                raise await self._refused(reply)
            _expect(reply, "application/json")
            answer = await reply.read_all()
            _expect_utf8(answer)
            return Answer(
                answer, read(answer), _content_type(reply), from_provider(reply.headers.items())
            )

    async def streamed(self, path: str, body: bytes, headers: Headers, watch: Watch) -> EventStream:
        """Return an answer as a stream, once its first event is here.

        Raises:
            ProviderError: there is none.
        """
        try:
            async with asyncio.timeout(self._endpoint.limits.first_byte_s):
                reply = await self._endpoint.post(path, body, headers)
                try:
                    return await self._begun(watch, reply)
                except BaseException:
                    await reply.aclose()
                    raise
        except TimeoutError:
            msg = "The provider did not begin to answer in time."
            raise timed_out(msg) from None

    async def _begun(self, watch: Watch, reply: Reply) -> EventStream:
        if reply.status != _OK:
            raise await self._refused(reply)
        _expect(reply, "text/event-stream")
        stream = EventStream(
            reply, watch, _content_type(reply), from_provider(reply.headers.items())
        )
        await stream.prime()
        return stream

    async def _refused(self, reply: Reply) -> ProviderError:
        try:
            async with asyncio.timeout(_ERROR_BODY_S):
                body = await reply.read_all()
        except (TimeoutError, ProviderError):
            body = b""
        return from_status(
            reply.status, reply.headers, self._endpoint.clean(body), now=self._clock.time()
        )


def request_id_headers(call: Call, *names: str) -> Headers:
    """Return the gateway's request id under the names that a vendor takes note of."""
    if not is_plain(call.request_id):
        return ()
    return tuple((name, call.request_id) for name in names)


def _content_type(reply: Reply) -> str:
    whole = reply.headers.get("content-type", "")
    return whole if is_plain(whole) else reply.content_type


def _expect_utf8(answer: bytes) -> None:
    """Refuse what is no text (RFC 8259, section 8.1); JSON decoders skip what nobody asks for."""
    if answer.isascii():
        return
    try:
        answer.decode()
    except UnicodeDecodeError:
        msg = "The provider's answer is not UTF-8."
        raise failed(msg) from None


def _expect(reply: Reply, content_type: str) -> None:
    if reply.content_type != content_type:
        msg = "The provider answered with a content type that was not asked for."
        raise failed(msg)
    if reply.headers.get("content-encoding", "identity") != "identity":
        msg = "The provider answered with a content encoding that was not asked for."
        raise failed(msg)
