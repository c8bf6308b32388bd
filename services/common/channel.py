"""Channels to neighbours, and calls over them that raise Weaver's errors.

A channel finds a restarted neighbour within a second or two, repeats only what may safely be
repeated, shows our certificate, and accepts only the neighbour's.
"""

import asyncio
import json
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
)
from typing import Any

import grpc

from services.common import certificates, telemetry, tls
from services.common.discovery import Discovery, named
from services.common.errors import DeadlineExceeded, Unavailable, WeaverError
from services.common.outage import LONGEST_S, PATIENCE_S, PAUSE_S, Outage
from services.common.renewing_channel import Metadata, RenewingChannel
from services.common.settings import CommonSettings
from services.common.status import code_name, from_rpc_error

_MESSAGE_BYTES = 32 * 1024 * 1024
_MARGIN_S = 0.01
# What gRPC says of a call for which it found no connection, by the policy for several addresses or
# for one, or no address. Such a call was not sent.
_NOT_SENT = (
    "connections to all backends failing",
    "failed to connect to all addresses",
    "DNS resolution failed",
    "errors resolving",
)
# What it says of a call that a server which ends broke off before it looked at it.
_NOT_BEGUN = "CANCELLED"
_NOT_BEGUN_WITHIN_S = 1.0
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    ("grpc.max_metadata_size", 32 * 1024),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # How long one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.dns_min_time_between_resolutions_ms", 200),
    # Long enough to ask a second and a third name server where one is silent (two seconds each, or
    # what resolv.conf says); by itself gRPC waits two minutes for a look-up.
    ("grpc.dns_ares_query_timeout", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
    # A window that grows by measuring would hold megabytes of each stream that nobody reads.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 64 * 1024),
)


def service_config(idempotent: Iterable[str]) -> str:
    """Return the gRPC service config: spread over all addresses, repeat what may be repeated.

    Args:
        idempotent: methods, as `/package.Service/Method`, that are safe to send twice.
    """
    names = []
    for path in idempotent:
        service, _, method = path.removeprefix("/").partition("/")
        names.append({"service": service, "method": method})
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.05s",
        "maxBackoff": "0.5s",
        "backoffMultiplier": 2,
        # A server that ends breaks off what has arrived and was not looked at yet.
        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    }
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if names:
        config["methodConfig"] = [{"name": names, "retryPolicy": policy}]
    return json.dumps(config)


def open_channel(
    address: str,
    settings: CommonSettings,
    *,
    own: str,
    peer: str,
    idempotent: Iterable[str] = (),
) -> grpc.aio.Channel:
    """Open a channel to a neighbour; it connects by itself, now or when the neighbour is there.

    Args:
        address: `host:port`, or `dns:///name:port` to spread over all addresses of a name.
        settings: TLS.
        own: our service's name, whose certificate is shown.
        peer: the neighbour's name, which its certificate must carry.
        idempotent: methods, as `/package.Service/Method`, to repeat when the neighbour is away.

    Raises:
        SettingsError: our certificate cannot be used.
    """
    options = (
        *_OPTIONS,
        ("grpc.service_config", service_config(idempotent)),
        ("grpc.ssl_target_name_override", peer),
    )
    name = named(address)
    discovery = None if name is None else Discovery(*name)
    if not settings.mtls_enabled:
        return RenewingChannel(
            lambda target: grpc.aio.insecure_channel(target or address, options),
            None,
            own,
            discovery,
        )
    certificates.ensure(settings)
    files = tls.CertificateFiles(settings.tls_path, own)
    return RenewingChannel(
        lambda target: grpc.aio.secure_channel(
            target or address, tls.channel_credentials(files.material), options
        ),
        files,
        own,
        discovery,
    )


def remaining(context: Any, limit_s: float) -> float:  # noqa: ANN401 - a grpc.aio or local context
    """Return the seconds that a call made for this context may take: less than the caller waits.

    Raises:
        DeadlineExceeded: nothing is left.
    """
    left_s: float | None = context.time_remaining()
    if left_s is None:
        return limit_s
    left_s -= _MARGIN_S
    if left_s <= 0:
        msg = "The deadline passed."
        raise DeadlineExceeded(msg)
    return min(limit_s, left_s)


async def call(
    method: Callable[..., Awaitable[Any]],
    request: object,
    *,
    timeout_s: float,
    metadata: Metadata = (),
    patience_s: float = 0.0,
) -> Any:  # noqa: ANN401 - the method's response
    """Make a unary call with a stub's method; cancelling it cancels the call.

    Args:
        method: a stub's.
        request: its message.
        timeout_s: how long it may take.
        metadata: goes along.
        patience_s: how much longer while the neighbour cannot be reached; only for what is safe to
            send twice.

    Raises:
        WeaverError: what the other side raised, or Unavailable or DeadlineExceeded.
    """
    begun = telemetry.start_client_span(getattr(method, "path", ""))
    if begun is not None:
        return await _spanned(begun, method, request, timeout_s, metadata, patience_s)
    sent = asyncio.get_running_loop().time()
    end = sent + timeout_s + patience_s
    outage: Outage | None = getattr(method, "outage", None)
    try:
        while True:
            try:
                response = await method(request, timeout=timeout_s, metadata=metadata)
                if outage is not None and outage.lasts:
                    outage.succeeded(sent)
                return response  # noqa: TRY300 - an `else` would not see what the loop repeats
            except grpc.aio.AioRpcError as error:
                if not await _may_go_again(method, error, sent, end, patient=patience_s > 0):
                    raise _translated(error) from error
            sent = asyncio.get_running_loop().time()
            timeout_s = min(timeout_s, end - sent)
    except asyncio.CancelledError:
        _raise_if_not_ours()
        raise


async def _spanned(  # noqa: PLR0913, PLR0917 - as for `call`
    begun: telemetry.Scope,
    method: Callable[..., Awaitable[Any]],
    request: object,
    timeout_s: float,
    metadata: Metadata,
    patience_s: float,
) -> Any:  # noqa: ANN401 - the method's response
    """Do the same within a span."""
    token, code = telemetry.scope.set(begun), "OK"
    try:
        return await call(
            _Bare(method),
            request,
            timeout_s=timeout_s,
            metadata=metadata,
            patience_s=patience_s,
        )
    except BaseException as error:
        code = code_name(error)
        raise
    finally:
        telemetry.scope.reset(token)
        telemetry.finish(begun.span, code)
        begun.span.end()


class _Bare:
    """A method that makes no span of its own."""

    def __init__(self, method: Callable[..., Awaitable[Any]]) -> None:
        self._method = method
        self.outage: Outage | None = getattr(method, "outage", None)

    def __call__(self, request: object, **options: Any) -> Awaitable[Any]:  # noqa: ANN401
        return self._method(request, **options)


async def _may_go_again(
    method: object, error: grpc.aio.AioRpcError, sent: float, end: float, *, patient: bool = False
) -> bool:
    """Wait a moment if nobody looked at a call, and another try may soon succeed.

    Either it was not sent, for want of a connection. Or it arrived at a server that ends, which
    breaks off at once what it has not begun, without a word; what it has begun it lets go on for
    its whole grace, and what is refused carries a status. One that is patient also waits after its
    time was spent on connecting.
    """
    outage: Outage | None = getattr(method, "outage", None)
    if outage is None:
        return False
    now, code = asyncio.get_running_loop().time(), error.code()
    if not (
        (error.details() or "").startswith(_NOT_SENT)
        or (patient and code is grpc.StatusCode.DEADLINE_EXCEEDED and not outage.connected())
        or (
            code is grpc.StatusCode.CANCELLED
            and error.details() == _NOT_BEGUN
            and now - sent < _NOT_BEGUN_WITHIN_S
        )
    ):
        outage.tell(now, error)
        return False
    if not outage.passes(now) or now + PAUSE_S >= end:
        outage.tell(now, error)
        return False
    await asyncio.sleep(PAUSE_S)
    return True


async def stream(  # noqa: C901, PLR0912 - flat, since each chunk of each answer passes here
    method: Callable[..., Any],
    request: object,
    *,
    metadata: Metadata = (),
    timeout_s: float | None = None,
) -> AsyncGenerator[Any, None]:
    """Make a call with a stream of responses; closing the iterator cancels the call.

    Use it within `contextlib.aclosing`, so that leaving the loop early cancels at once.

    Raises:
        WeaverError: as `call` does.
    """
    begun, code = telemetry.start_client_span(getattr(method, "path", "")), "OK"
    responses: Any = None
    sent = asyncio.get_running_loop().time()
    end, answered = sent + (timeout_s or LONGEST_S + PATIENCE_S), False
    outage: Outage | None = getattr(method, "outage", None)
    try:
        while True:
            if begun is None:
                responses = method(request, timeout=timeout_s, metadata=metadata)
            else:
                token = telemetry.scope.set(begun)
                try:
                    responses = method(request, timeout=timeout_s, metadata=metadata)
                finally:
                    telemetry.scope.reset(token)
            try:
                async for response in responses:
                    answered = True
                    yield response
            except grpc.aio.AioRpcError as error:
                if answered or not await _may_go_again(method, error, sent, end):
                    code = error.code().name
                    raise _translated(error) from error
            else:
                if outage is not None and outage.lasts:
                    outage.succeeded(sent)
                return
            sent = asyncio.get_running_loop().time()
            if timeout_s is not None:
                timeout_s = end - sent
    except asyncio.CancelledError:
        code = "CANCELLED"
        _raise_if_not_ours()
        raise
    except BaseException as error:
        code = code_name(error)
        raise
    finally:
        if isinstance(responses, AsyncGenerator):
            await responses.aclose()
        elif responses is not None:
            responses.cancel()
        if begun is not None:
            telemetry.finish(begun.span, code)
            begun.span.end()


def _translated(error: grpc.aio.AioRpcError) -> WeaverError:
    """Return the neighbour's error; that it refuses us is no fault of whoever called us."""
    found = from_rpc_error(error)
    if found.reason == "PEER_NOT_ALLOWED":
        msg = "The service does not accept calls from this one."
        return Unavailable(msg, reason=found.reason)
    return found


def _raise_if_not_ours() -> None:
    """Tell a call that broke off (its channel was closed) from a caller who was cancelled."""
    task = asyncio.current_task()
    if task is not None and not task.cancelling():
        msg = "The call was broken off."
        raise Unavailable(msg, reason="CANCELLED")
