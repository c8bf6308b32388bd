"""What happens around every call, without a server."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services.common import logs, peer
from services.common.errors import DeadlineExceeded, NotFound, PermissionDenied
from services.common.health import SERVICE_NAME as HEALTH
from services.common.identifiers import hex64, hex128
from services.common.interceptors.access_log import AccessLog
from services.common.interceptors.call_metrics import CallMetrics
from services.common.interceptors.chain import Behaviour, Chain, Method
from services.common.interceptors.deadline import Deadline
from services.common.interceptors.errors import Errors
from services.common.interceptors.peer import Peer
from services.common.interceptors.telemetry import Telemetry, outcome

METHOD = Method("/weaver.audit.v1.AuditService/GetRecord", streaming=False)


class Context:
    """A call as interceptors see it."""

    def __init__(self, metadata: Any = (), time_remaining: float | None = 5.0) -> None:
        self.metadata = metadata
        self.left = time_remaining
        self.status: Any = 0
        self.details = ""
        self.trailers: Any = (("own", "kept"),)
        self.uris: tuple[bytes, ...] = (b"spiffe://weaver/gateway",)
        self.written: list[Any] = []

    def invocation_metadata(self) -> Any:
        return self.metadata

    def time_remaining(self) -> float | None:
        return self.left

    def code(self) -> Any:
        return self.status

    def trailing_metadata(self) -> Any:
        return self.trailers

    def auth_context(self) -> dict[str, Any]:
        return {"peer_uri": self.uris}

    async def write(self, message: Any) -> None:
        self.written.append(message)

    async def abort(self, code: grpc.StatusCode, details: str, trailers: Any) -> None:
        self.status, self.details, self.trailers = code.value[0], details, trailers
        raise grpc.aio.AbortError


async def fine(request: Any, context: Any) -> str:
    return "fine"


def raising(error: BaseException) -> Behaviour:
    async def behaviour(request: Any, context: Any) -> None:
        raise error

    return behaviour


async def test_an_error_becomes_a_status_and_keeps_the_servicers_trailers() -> None:
    context = Context()
    logs.request_id.set("request-1")
    with pytest.raises(grpc.aio.AbortError):
        await Errors().wrap(METHOD, raising(NotFound("No such record.")))(None, context)
    assert context.status == grpc.StatusCode.NOT_FOUND.value[0]
    assert context.details == "No such record."
    assert context.trailers[0] == ("own", "kept")
    assert b"request-1" in context.trailers[1][1]


async def test_a_defect_is_hidden_from_the_caller() -> None:
    context = Context()
    context.trailers = None
    with pytest.raises(grpc.aio.AbortError):
        await Errors().wrap(METHOD, raising(ValueError("sesame")))(None, context)
    assert "sesame" not in context.details
    assert context.status == grpc.StatusCode.INTERNAL.value[0]


@pytest.mark.parametrize("error", [asyncio.CancelledError(), grpc.aio.AbortError()])
async def test_cancelling_and_aborting_pass(error: BaseException) -> None:
    context = Context()
    with pytest.raises(type(error)):
        await Errors().wrap(METHOD, raising(error))(None, context)
    assert context.details == ""


async def test_a_call_that_goes_well_passes() -> None:
    for interceptor in (Errors(), Deadline(1), AccessLog(), Peer(None)):
        assert await interceptor.wrap(METHOD, fine)(None, Context(time_remaining=None)) == "fine"


async def test_a_call_without_a_deadline_gets_one() -> None:
    with pytest.raises(DeadlineExceeded):
        await Deadline(0.01).wrap(METHOD, lambda *_: asyncio.sleep(60))(
            None, Context(time_remaining=None)
        )


async def test_a_callers_own_deadline_is_left_to_grpc() -> None:
    async def slow(request: Any, context: Any) -> str:
        await asyncio.sleep(0.02)
        return "fine"

    assert await Deadline(0.001).wrap(METHOD, slow)(None, Context(time_remaining=5)) == "fine"


async def test_a_time_out_of_the_servicer_is_not_ours() -> None:
    with pytest.raises(TimeoutError):
        await Deadline(5).wrap(METHOD, raising(TimeoutError()))(None, Context(time_remaining=None))


def test_a_stream_gets_no_deadline() -> None:
    assert Deadline(1).wrap(Method("/s/M", streaming=True), fine) is fine


@pytest.mark.parametrize(
    ("uris", "name"),
    [
        ((b"spiffe://weaver/gateway",), "gateway"),
        ((), ""),
        ((b"https://weaver/gateway",), ""),
        ((b"spiffe://elsewhere/gateway",), ""),
        ((b"spiffe://weaver/gateway", b"spiffe://weaver/audit"), ""),
        ((b"spiffe://weaver/gateway", b"https://x"), "gateway"),
    ],
)
def test_a_peer_is_named_by_exactly_one_uri(uris: tuple[bytes, ...], name: str) -> None:
    assert peer.name_from_certificate({"peer_uri": uris}) == name


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ((("x-weaver-peer", "audit"),), "audit"),
        ((("other", "x"), ("x-weaver-peer", b"audit")), ""),
        ((), ""),
    ],
)
def test_without_mutual_tls_the_peer_names_itself(metadata: Any, name: str) -> None:
    assert peer.name_from_metadata(metadata) == name


async def test_a_peer_that_is_not_on_the_list_is_refused() -> None:
    with pytest.raises(PermissionDenied) as caught:
        await Peer(["model"]).wrap(METHOD, fine)(None, Context())
    assert caught.value.reason == "PEER_NOT_ALLOWED"
    assert "model" not in caught.value.message


async def test_health_answers_any_peer() -> None:
    method = Method(f"/{HEALTH}/Check", streaming=False)
    assert await Peer(["model"]).wrap(method, fine)(None, Context()) == "fine"


async def test_the_name_of_the_peer_reaches_the_servicer() -> None:
    async def who(request: Any, context: Any) -> str:
        return peer.peer_name(context)

    metadata = (("x-weaver-peer", "audit"),)
    assert await Peer(["gateway"]).wrap(METHOD, who)(None, Context(metadata)) == "gateway"
    assert await Peer(None, name="envoy").wrap(METHOD, who)(None, Context(metadata)) == "envoy"
    claimed = Peer(["audit"], believe_metadata=True).wrap(METHOD, who)
    assert await claimed(None, Context(metadata)) == "audit"


def test_without_the_interceptor_the_certificate_is_asked() -> None:
    peer.current.set(None)
    assert peer.peer_name(Context()) == "gateway"


@pytest.mark.parametrize(
    ("metadata", "trusted", "request_id", "trace_id"),
    [
        ((("x-request-id", "mine"),), True, "mine", None),
        ((("x-request-id", "mine"),), False, None, None),
        ((("x-request-id", "two words"),), True, None, None),
        ((("x-request-id", "x" * 129),), True, None, None),
        ((("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"),), False, None, "a" * 32),
        ((("traceparent", f"00-{'0' * 32}-{'b' * 16}-01"),), True, None, None),
        ((("traceparent", "garbage"),), True, None, None),
        ((), True, None, None),
    ],
)
async def test_a_call_is_tied_to_its_request_and_trace(
    metadata: Any, trusted: bool, request_id: str, trace_id: str | None
) -> None:
    async def look(request: Any, context: Any) -> tuple[str, str, str]:
        return logs.service.get(), logs.request_id.get(), logs.trace_id.get()

    telemetry = Telemetry(CallMetrics(CollectorRegistry()), "audit", trusted=trusted)
    service, request, trace = await telemetry.wrap(METHOD, look)(None, Context(metadata))
    assert service == "audit"
    assert len(request) == 32 if request_id is None else request == request_id
    assert len(trace) == 32 if trace_id is None else trace == trace_id


async def test_calls_are_counted_by_method_and_code() -> None:
    registry = CollectorRegistry()
    telemetry = Telemetry(CallMetrics(registry), "audit", trusted=True)
    await telemetry.wrap(METHOD, fine)(None, Context())
    failing = telemetry.wrap(METHOD, Errors().wrap(METHOD, raising(NotFound("no"))))
    for _ in range(2):
        with pytest.raises(grpc.aio.AbortError):
            await failing(None, Context())
    with pytest.raises(asyncio.CancelledError):
        await telemetry.wrap(METHOD, raising(asyncio.CancelledError()))(None, Context())

    def sample(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"grpc_method": METHOD.path, **labels})

    assert sample("grpc_server_handled_total", grpc_code="OK") == 1
    assert sample("grpc_server_handled_total", grpc_code="NOT_FOUND") == 2
    assert sample("grpc_server_handled_total", grpc_code="CANCELLED") == 1
    assert sample("grpc_server_handling_seconds_count") == 4
    assert sample("grpc_server_handling_seconds_bucket", le="+Inf") == 4
    assert b"# TYPE grpc_server_handling_seconds histogram" in generate_latest(registry)


@pytest.mark.parametrize(
    ("seconds", "bound"), [(0.0005, "0.001"), (0.001, "0.001"), (0.0011, "0.0025"), (500, "+Inf")]
)
def test_a_time_falls_into_the_first_bucket_that_holds_it(seconds: float, bound: str) -> None:
    registry = CollectorRegistry()
    CallMetrics(registry).of("/s/M").observe("OK", seconds)
    samples = [
        sample.labels["le"]
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name.endswith("_bucket") and sample.value == 1
    ]
    assert samples[0] == bound


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (5, "NOT_FOUND"),
        (grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
        (99, "UNKNOWN"),
        (None, "UNKNOWN"),
    ],
)
def test_the_outcome_is_the_code_of_the_call(code: Any, name: str) -> None:
    context = Context()
    context.status = code
    assert outcome(context, ValueError()) == name


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    lines: list[tuple[str, dict[str, Any]]] = []

    def line(level: str, event: str, **fields: Any) -> None:
        assert event == "rpc"
        lines.append((level, fields))

    monkeypatch.setattr(logs, "line", line)
    monkeypatch.setattr(logs, "enabled", lambda _: True)
    return lines


async def test_a_call_leaves_one_line(written: list[tuple[str, dict[str, Any]]]) -> None:
    peer.current.set("gateway")
    await AccessLog().wrap(METHOD, fine)(None, Context())
    ((level, fields),) = written
    assert level == "info"
    assert fields.pop("duration_ms") >= 0
    assert fields == {"method": METHOD.path, "code": "OK", "peer": "gateway"}


async def test_a_call_that_fails_leaves_its_code(written: list[tuple[str, dict[str, Any]]]) -> None:
    behaviour = Errors().wrap(METHOD, raising(NotFound("no")))
    with pytest.raises(grpc.aio.AbortError):
        await AccessLog().wrap(METHOD, behaviour)(None, Context())
    assert written[0][1]["code"] == "NOT_FOUND"


async def test_health_checks_are_logged_for_debugging_alone(
    written: list[tuple[str, dict[str, Any]]],
) -> None:
    await AccessLog().wrap(Method(f"/{HEALTH}/Check", streaming=False), fine)(None, Context())
    assert written[0][0] == "debug"


def test_a_line_that_nobody_wants_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "enabled", lambda _: False)
    assert AccessLog().wrap(METHOD, fine) is fine


class Details(grpc.HandlerCallDetails):
    """What gRPC says of a call before it has a context."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


class Marking:
    """Remembers what it wrapped and in which order it was passed."""

    def __init__(self, name: str, passed: list[str]) -> None:
        self.name, self.passed = name, passed
        self.wrapped: list[Method] = []

    def wrap(self, method: Method, behaviour: Behaviour) -> Behaviour:
        self.wrapped.append(method)

        async def marked(request: Any, context: Any) -> Any:
            self.passed.append(self.name)
            return await behaviour(request, context)

        return marked


def find(handler: Any) -> Callable[[Any], Any]:
    async def continuation(details: Any) -> Any:
        return handler

    return continuation


async def test_the_chain_wraps_a_method_once_outermost_first() -> None:
    passed: list[str] = []
    outer, inner = Marking("outer", passed), Marking("inner", passed)
    chain = Chain([outer, inner])
    handler: Any = grpc.unary_unary_rpc_method_handler(fine)
    first = await chain.intercept_service(find(handler), Details(METHOD.path))
    again = await chain.intercept_service(find(None), Details(METHOD.path))
    assert first is again
    assert await first.unary_unary(None, Context()) == "fine"
    assert passed == ["outer", "inner"]
    assert outer.wrapped == [METHOD]


async def test_the_chain_leaves_what_is_not_served_to_grpc() -> None:
    chain = Chain([])
    assert await chain.intercept_service(find(None), Details("/no/Method")) is None


async def test_a_stream_is_written_and_closed_within_its_call() -> None:
    closed: list[bool] = []

    async def numbers(request: Any, context: Any) -> Any:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    async def full(message: Any) -> None:
        raise asyncio.CancelledError

    handler: Any = grpc.unary_stream_rpc_method_handler(numbers)
    wrapped = await Chain([]).intercept_service(find(handler), Details("/s/M"))
    context = Context()
    await wrapped.unary_stream(None, context)
    assert context.written == [1, 2]
    context.write = full  # type: ignore[method-assign]  # breaks off in mid-stream
    with pytest.raises(asyncio.CancelledError):
        await wrapped.unary_stream(None, context)
    assert closed == [True, True]


def test_identifiers_are_hexadecimal_and_differ() -> None:
    assert len(hex128()) == 32
    assert len(hex64()) == 16
    assert len({hex64() for _ in range(1000)}) == 1000
    assert int(hex128(), 16)


def test_a_method_knows_its_service() -> None:
    assert METHOD.service == "weaver.audit.v1.AuditService"
