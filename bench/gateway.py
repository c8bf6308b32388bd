"""What the gateway itself costs a request: `python -m bench.gateway`.

The gateway runs in this process with everything on: authentication, roles, guards, redaction of
prompt and answer, commitments, records, limits' headers. Its three neighbours are stand-ins that
answer at once, and no request comes over a socket, so that nobody else's time is in the figures.
One thing at a time is changed beside that, so that the cost of each shows.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import uvloop
from google.api import httpbody_pb2
from google.protobuf.duration_pb2 import Duration
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from bench import machine
from bench.subject import PROMPT
from bench.suite import ANSWER
from bench.suite import STREAM as EVENTS
from services.cli import development
from services.cli.local_services import channel_to
from services.cli.token import mint
from services.common import logs
from services.common.component import Component
from services.common.health import Health
from services.common.run import settle_in
from services.common.settings import load
from services.gateway import wiring
from services.gateway.settings import GatewaySettings
from weaver.audit.v1 import audit_service_pb2 as audit
from weaver.audit.v1 import audit_service_pb2_grpc as audit_grpc
from weaver.common.v1.usage_pb2 import Usage
from weaver.model.v1 import model_service_pb2 as model
from weaver.model.v1 import model_service_pb2_grpc as model_grpc
from weaver.ratelimit.v1 import ratelimit_service_pb2 as limits
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc as limits_grpc

CASES: Mapping[str, Mapping[str, str]] = {
    "everything on": {},
    "a token instead of a key": {},
    "without redaction": {"WEAVER_PII_REDACT": "false"},
    "streams of 20 events": {},
}
_AT_ONCE = (1, 16)
_KEY = "wv-dev-bench-" + "0" * 20
_HOUR_S = 3600


class Limits(limits_grpc.RateLimitServiceServicer):
    """Admits everything."""

    async def BatchReserve(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802 - gRPC's
        """Admit each."""
        second = Duration(seconds=1)
        state = limits.LimitState(
            name="requests", unit=limits.UNIT_REQUESTS, limit=200, remaining=199, window=second
        )
        admitted = [
            limits.ReserveResponse(
                reservation_id=one.reservation_id,
                verdict=limits.VERDICT_ADMITTED,
                limits=[state],
                policy_version="bench",
                source=limits.SOURCE_STORE,
            )
            for one in request.requests
        ]
        settled = [limits.SettleResponse(settled=True) for _ in request.settlements]
        return limits.BatchReserveResponse(responses=admitted, settled=settled)

    async def BatchSettle(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802 - gRPC's
        """Settle each."""
        settled = [limits.SettleResponse(settled=True) for _ in request.requests]
        return limits.BatchSettleResponse(responses=settled)


class Model(model_grpc.ModelServiceServicer):
    """Has one answer."""

    def __init__(self) -> None:
        """Prepare it."""
        done = model.Generation(
            provider="bench", model="bench", usage=Usage(input_tokens=31, output_tokens=90)
        )
        kind = "application/json"
        self._whole = model.GenerateResponse(
            body=ANSWER.encode(), content_type=kind, generation=done
        )
        *events, last = [event + b"\n\n" for event in EVENTS.encode().split(b"\n\n") if event]
        start = model.StreamStart(content_type="text/event-stream")
        self._steps = [
            model.GenerateStreamResponse(start=start),
            *(
                model.GenerateStreamResponse(chunk=model.StreamChunk(body=event))
                for event in events
            ),
            model.GenerateStreamResponse(chunk=model.StreamChunk(body=last, terminal=True)),
            model.GenerateStreamResponse(end=model.StreamEnd(generation=done)),
        ]

    async def ListModels(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802 - gRPC's
        """List it."""
        one = model.Model(id="bench", provider="bench", dialects=[model.DIALECT_OPENAI_CHAT])
        return model.ListModelsResponse(models=[one])

    async def Generate(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802 - gRPC's
        """Give it."""
        return self._whole

    async def GenerateStream(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401, ARG002, N802 - gRPC's
        """Give it event by event."""
        for step in self._steps:
            yield step


class Audit(audit_grpc.AuditServiceServicer):
    """Counts records."""

    def __init__(self) -> None:
        """Begin at 0."""
        self._indexes = count()

    async def AppendRecords(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802 - gRPC's
        """Give each a number."""
        indexes = [next(self._indexes) for _ in request.records]
        return audit.AppendRecordsResponse(origin="bench", indexes=indexes)


class Context:
    """What gRPC's would be: takes what is sent, and sends it nowhere."""

    peer_name = "envoy"

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        """See the class."""
        self._metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the headers of the request."""
        return self._metadata

    async def send_initial_metadata(self, metadata: object) -> None:
        """Take the headers of the answer."""

    async def write(self, message: object) -> None:
        """Take a piece of the answer."""

    def set_trailing_metadata(self, metadata: object) -> None:
        """Take what ends the answer."""


class Methods:
    """Takes servicers like a server, and keeps their methods."""

    def __init__(self) -> None:
        """Begin without any."""
        self.of: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Leave it at methods by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Keep them."""
        self.of |= {f"{service}/{name}": handler for name, handler in handlers.items()}


def _neighbour(name: str, add: Any, servicer: object, service: str) -> Any:  # noqa: ANN401 - generated
    component = Component(
        name, (service,), lambda server: add(servicer, server), Health(), CollectorRegistry()
    )
    component.health.set("", serving=True)
    return channel_to(component, "gateway")


async def _gateway(stack: AsyncExitStack) -> Any:  # noqa: ANN401 - a servicer's method
    neighbours = wiring.Neighbours(
        _neighbour(
            "ratelimit",
            limits_grpc.add_RateLimitServiceServicer_to_server,
            Limits(),  # type: ignore[abstract] # what a call needs of it
            "weaver.ratelimit.v1.RateLimitService",
        ),
        _neighbour(
            "model",
            model_grpc.add_ModelServiceServicer_to_server,
            Model(),
            "weaver.model.v1.ModelService",
        ),
        _neighbour(
            "audit",
            audit_grpc.add_AuditServiceServicer_to_server,
            Audit(),  # type: ignore[abstract] # likewise
            "weaver.audit.v1.AuditService",
        ),
    )
    settings = load(GatewaySettings)
    logs.configure(settings, "bench")
    component = await wiring.build(settings, stack, neighbours)
    methods = Methods()
    component.register(methods)
    return methods.of["weaver.gateway.v1.GatewayService/ChatCompletions"].unary_stream


async def _cost(answer: Any, case: str, token: str, at_once: int, seconds: float) -> float:  # noqa: ANN401 - a servicer's method
    """Return the processor time of a request, in ms."""
    asked: dict[str, object] = {"model": "bench"}
    if case.startswith("streams"):
        asked["stream"] = True
    asked["messages"] = [{"role": "user", "content": PROMPT}]
    request = httpbody_pb2.HttpBody(data=json.dumps(asked, separators=(",", ":")).encode())
    credential = token if "token" in case else _KEY
    metadata = (
        ("authorization", f"Bearer {credential}"),
        ("content-type", "application/json"),
        ("x-weaver-client-address", "192.0.2.7"),
    )
    answered = 0

    async def client() -> None:
        nonlocal answered
        while time.perf_counter() < end:
            logs.request_id.set("18c7f5c9-8460-4542-9588-8327d300712a")
            last = await answer(request, Context(metadata))
            assert b'"choices"' in last.data or b"[DONE]" in last.data, last  # noqa: S101
            answered += 1

    end = time.perf_counter() + 0.3
    await client()
    answered, spent = 0, time.process_time()
    end = time.perf_counter() + seconds
    await asyncio.gather(*(client() for _ in range(at_once)))
    return 1000 * (time.process_time() - spent) / answered


async def _measure(case: str, state: Path, seconds: float) -> dict[int, float]:
    token = mint(
        (state / "keys" / development.JWT_KEY).read_bytes(), "bench", "t", ["user"], _HOUR_S
    )
    async with AsyncExitStack() as stack:
        answer = await _gateway(stack)
        settle_in()
        return {at_once: await _cost(answer, case, token, at_once, seconds) for at_once in _AT_ONCE}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all cases (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of one run (1)")
    parser.add_argument("--json", action="store_true", help="print raw results instead")
    options = parser.parse_args()
    found: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="weaver-bench-") as folder:
        state = Path(folder)
        development.ensure_keys(state)
        base = development.defaults({}, state, state)
        base |= {"WEAVER_ALLOWED_API_KEYS": _KEY, "LOG_LEVEL": "WARNING"}
        del base["WEAVER_ALLOWED_API_KEYS_FILE"]
        for _ in range(options.rounds):
            for case, change in CASES.items():
                with patch.dict("os.environ", {**base, **change}):
                    costs = uvloop.run(_measure(case, state, options.seconds))
                for at_once, cost in costs.items():
                    found.setdefault((case, at_once), []).append(cost)
    if options.json:
        rows = [{"case": case, "at_once": n, "cpu_ms": runs} for (case, n), runs in found.items()]
        print(json.dumps({"machine": machine.describe(), "rows": rows}, indent=1))
        return
    console = Console(width=None if sys.stdout.isatty() else 132)
    console.print(machine.describe())
    table = Table(title="The gateway's own processor time for a request, ms: medians (ranges)")
    for heading in ("case", *(f"{number} at once" for number in _AT_ONCE)):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for case in CASES:
        runs = [found[case, number] for number in _AT_ONCE]
        table.add_row(
            case,
            *(f"{statistics.median(r):.3f} ({min(r):.3f} to {max(r):.3f})" for r in runs),
        )
    console.print(table)


if __name__ == "__main__":
    main()
