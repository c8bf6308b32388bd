"""Clients of the audit log under measurement, in a process of their own.

Each sends intents as a gateway does: with commitments and their key, a principal, a decision. The
first messages are made before the clock runs.
"""

import asyncio
import hashlib
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench.grpc_client import Connection, connect
from weaver.audit.v1 import audit_service_pb2 as pb
from weaver.audit.v1 import record_pb2

METHOD = "/weaver.audit.v1.AuditService/"
RECEIPT_EVERY_S = 0.1
_TIMEOUT_S = 30.0
_AHEAD = 64


@dataclass(frozen=True)
class Load:
    """What the clients do.

    Attributes:
        address: the log's.
        state: holds the certificates.
        clients: how many, each with a connection of its own and one call under way.
        batch: records in one call.
        records: how many in all; 0 for as many as come in `seconds`.
        seconds: how long.
        pause_s: between calls of one client.
        receipts: whether to ask for the receipt of a fresh record now and then.
    """

    address: str
    state: Path
    clients: int
    batch: int
    records: int = 0
    seconds: float = 0.0
    pause_s: float = 0.0
    receipts: bool = False


@dataclass
class Result:
    """What came of it; times in seconds."""

    records: int = 0
    seconds: float = 0.0
    acknowledged: list[float] = field(default_factory=list)
    receipts: list[float] = field(default_factory=list)


def run(load: Load) -> Result:
    """Put a load on the log and return what came of it."""
    return uvloop.run(_run(load))


async def _run(load: Load) -> Result:
    connections = [await _connect(load) for _ in range(load.clients)]
    result = Result()
    share = load.records // load.clients
    makers = [_messages(f"gateway-{number}", load.batch) for number in range(load.clients)]
    started = time.perf_counter()
    end = started + load.seconds if load.seconds else float("inf")
    await asyncio.gather(
        *(
            # Each receipt asks for a checkpoint of its own, so one client's are enough.
            _client(
                load, connection, make, share, end, result, receipts=load.receipts and not number
            )
            for number, (connection, make) in enumerate(zip(connections, makers, strict=True))
        )
    )
    result.seconds = time.perf_counter() - started
    for connection in connections:
        connection.close()
    return result


async def _connect(load: Load) -> Connection:
    """Return a connection that shows the gateway's certificate and has been used."""
    files = load.state / "tls"
    context = ssl.create_default_context(cafile=str(files / "ca.pem"))
    context.load_cert_chain(files / "gateway.pem", files / "gateway-key.pem")
    connection = await connect(load.address, context, "audit")
    ask = pb.GetCheckpointRequest().SerializeToString()
    async with asyncio.timeout(_TIMEOUT_S):
        await connection.call(connection.head(METHOD + "GetCheckpoint"), ask)
    return connection


async def _client(  # noqa: PLR0913, PLR0917 - what one client works with
    load: Load,
    connection: Connection,
    make: Callable[[], bytes],
    share: int,
    end: float,
    result: Result,
    *,
    receipts: bool,
) -> None:
    append, receipt = (
        connection.head(METHOD + name, {"grpc-timeout": f"{_TIMEOUT_S:.0f}S"})
        for name in ("AppendRecords", "GetReceipt")
    )
    sent = 0
    asked = time.perf_counter()
    ready = [make() for _ in range(_AHEAD)]
    while time.perf_counter() < end and (not share or sent < share):
        request = ready.pop() if ready else make()
        start = time.perf_counter()
        answer = await connection.call(append, request)
        now = time.perf_counter()
        result.acknowledged.append(now - start)
        result.records += load.batch
        sent += load.batch
        if receipts and now - asked > RECEIPT_EVERY_S:
            index = pb.AppendRecordsResponse.FromString(answer).indexes[-1]
            await connection.call(receipt, pb.GetReceiptRequest(index=index).SerializeToString())
            asked = time.perf_counter()
            result.receipts.append(asked - start)
        if load.pause_s:
            await asyncio.sleep(load.pause_s)


def _messages(instance: str, batch: int) -> Callable[[], bytes]:
    """Return what makes the next batch of an instance."""
    epoch = time.time_ns() // 1_000_000
    sequence = 0
    template = _template()

    def make() -> bytes:
        nonlocal sequence
        request = pb.AppendRecordsRequest()
        for _ in range(batch):
            sequence += 1
            message = request.records.add()
            message.CopyFrom(template)
            message.id.instance = instance
            message.id.epoch = epoch
            message.id.sequence = sequence
            message.request_id = f"{instance}-{sequence}"
        return request.SerializeToString()

    return make


def _template() -> record_pb2.Record:
    message = record_pb2.Record(
        type=record_pb2.EVENT_TYPE_INTENT,
        request_id="",
        source_network="192.0.2.0/24",
        surface="chat.completions",
        requested_model="stub-model",
        trace_id="0123456789abcdef" * 2,
    )
    message.event_time.GetCurrentTime()
    message.principal.tenant = "acme"
    message.principal.issuer = "apikey"
    message.principal.subject = "developer"
    message.principal.roles.append("developer")
    message.rate_limit.verdict = "allowed"
    message.rate_limit.policy_version = "sha256:0011223344556677"
    for kind in (
        record_pb2.COMMITMENT_KIND_PROMPT_RECEIVED,
        record_pb2.COMMITMENT_KIND_PROMPT_SENT,
    ):
        message.commitments.add(kind=kind, hmac_sha256=hashlib.sha256(b"text").digest())
    message.commitment_key = bytes(range(32))
    return message
