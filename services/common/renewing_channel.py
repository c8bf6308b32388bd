"""A channel that follows renewed certificates and new addresses, under the stubs that hold it.

gRPC fixes a channel's certificate when it is made. So when the files change, new calls go over a
new channel, and the old one ends when the last call on it does. So it is when the neighbour's name
has got other addresses, once the new channel, which has just these, is connected. Each call carries
on the request id and the trace of the call that makes it.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import grpc
import structlog

from services.common import logs, telemetry
from services.common.discovery import Discovery
from services.common.identifiers import hex64
from services.common.outage import Outage
from services.common.peer import INSECURE_HEADER
from services.common.tls import CertificateFiles

Metadata = Sequence[tuple[str, str | bytes]]

LOOK_S = 5.0
"""How often the files are looked at, while calls are made."""
RETIRE_S = 600.0
"""How long calls on an old channel may go on."""
READY_S = 5.0
"""How long a channel to new addresses may take to connect."""
_LOST = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.CONNECTING)

_log = structlog.get_logger()


class RenewingChannel(grpc.aio.Channel):
    """A channel that is made anew when its certificate files or its addresses change.

    Args:
        connect: makes a channel from the files as they are, to what gRPC calls some addresses, or
            to the neighbour's name.
        files: what to follow; None without TLS.
        own: our name, which goes into metadata where no certificate says it.
        discovery: tells the neighbour's addresses; None where it has one for good.
    """

    def __init__(
        self,
        connect: Callable[[str | None], grpc.aio.Channel],
        files: CertificateFiles | None,
        own: str,
        discovery: Discovery | None = None,
    ) -> None:
        """See the class."""
        self._connect = connect
        self._files = files
        self._own = () if files else ((INSECURE_HEADER, own),)
        self._target: str | None = None
        self._channel = connect(None)
        self._generation = 0
        self._loop = asyncio.get_running_loop()
        self._look_at = self._loop.time() + LOOK_S
        self._retiring: dict[asyncio.Task[None], grpc.aio.Channel] = {}
        self._following = (
            None if discovery is None else self._loop.create_task(self._follow(discovery))
        )
        self.outage = Outage(
            lambda: self.get_state() is grpc.ChannelConnectivity.READY,
            (lambda _: False) if discovery is None else discovery.silent,
        )

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,  # noqa: ANN401 - gRPC's, as all that follow
        response_deserializer: Any = None,  # noqa: ANN401
        **options: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Return a method with one request and one response."""
        return self._method(
            "unary_unary", method, request_serializer, response_deserializer, options
        )

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,  # noqa: ANN401
        response_deserializer: Any = None,  # noqa: ANN401
        **options: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Return a method with a stream of responses."""
        return self._method(
            "unary_stream", method, request_serializer, response_deserializer, options
        )

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,  # noqa: ANN401
        response_deserializer: Any = None,  # noqa: ANN401
        **options: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Return a method with a stream of requests."""
        return self._method(
            "stream_unary", method, request_serializer, response_deserializer, options
        )

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,  # noqa: ANN401
        response_deserializer: Any = None,  # noqa: ANN401
        **options: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Return a method with streams both ways."""
        return self._method(
            "stream_stream", method, request_serializer, response_deserializer, options
        )

    async def close(self, grace: float | None = None) -> None:
        """Close all connections; calls under way get the grace, in seconds, to end."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        retiring = dict(self._retiring)
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        await asyncio.gather(
            *(channel.close(grace) for channel in (*retiring.values(), self._channel))
        )

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's
        """Return the state of the newest connection."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the newest connection leaves a state."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the newest connection stands."""
        await self._channel.channel_ready()

    async def __aenter__(self) -> Self:
        """Enter a block that ends with closing."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    def _method(
        self,
        kind: str,
        path: str,
        serializer: Any,  # noqa: ANN401
        deserializer: Any,  # noqa: ANN401
        options: dict[str, Any],
    ) -> "_Method":
        def connect() -> Callable[..., Any]:
            method = getattr(self._channel, kind)(path, serializer, deserializer, **options)
            return cast("Callable[..., Any]", method)

        return _Method(self, path, connect)

    def look(self) -> int:
        """Take up renewed certificates, and return how often that has happened."""
        if self._files is not None and self._loop.time() >= self._look_at:
            self._look_at = self._loop.time() + LOOK_S
            if self._files.renewed():
                self._replace(self._connect(self._target))
        return self._generation

    async def _follow(self, discovery: Discovery) -> None:
        """Take a new channel whenever there are other addresses, and only one that is connected.

        One that is not is tried again, for as long as the addresses are others.
        """
        while True:
            found = await discovery.until_other(lambda: self.get_state() in _LOST)
            target = discovery.target(found)
            channel = self._connect(target)
            try:
                async with asyncio.timeout(READY_S):
                    await channel.channel_ready()
            except TimeoutError:
                _log.warning("neighbour_not_reached", addresses=sorted(found))
                await channel.close()
            except BaseException:
                await channel.close()
                raise
            else:
                self._target = target
                self._replace(channel)
                discovery.take(found)
                _log.info("neighbour_found", addresses=sorted(found))

    def _replace(self, channel: grpc.aio.Channel) -> None:
        """Let new calls go over a channel, and those under way end on the one before."""
        old, self._channel = self._channel, channel
        self._generation += 1
        task = asyncio.create_task(old.close(RETIRE_S))
        self._retiring[task] = old
        task.add_done_callback(self._retiring.pop)

    @property
    def own(self) -> Metadata:
        """What says who we are where no certificate does."""
        return self._own


class _Method:
    """One method of a channel, on whichever connection is the newest."""

    def __init__(
        self, channel: RenewingChannel, path: str, connect: Callable[[], Callable[..., Any]]
    ) -> None:
        self.path = path
        self.outage = channel.outage
        self._channel = channel
        self._connect = connect
        self._generation = channel.look()
        self._invoke = connect()

    def __call__(
        self,
        request: object,
        *,
        metadata: Metadata | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        generation = self._channel.look()
        if generation != self._generation:
            self._generation = generation
            self._invoke = self._connect()
        carried = (*(metadata or ()), *self._channel.own, *_context())
        return self._invoke(request, metadata=carried, **options)


def _context() -> tuple[tuple[str, str], ...]:
    """Return the metadata that tie a call to the request under way."""
    trace = logs.trace_id.get()
    if not trace:
        return ()
    return (
        ("x-request-id", logs.request_id.get()),
        *(telemetry.outgoing_headers() or (("traceparent", f"00-{trace}-{hex64()}-00"),)),
    )
