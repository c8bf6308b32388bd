"""An audit service for tests: the real one, in a directory of the test, with quick keys."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, cast

from google.protobuf.timestamp_pb2 import Timestamp

from services.audit.keys.signers import generate_ed25519, generate_rsa, private_pem
from services.audit.settings import AuditSettings
from services.audit.wiring import build
from services.common.component import Component
from services.common.local import LocalChannel
from weaver.audit.v1 import audit_service_pb2 as pb
from weaver.audit.v1 import audit_service_pb2_grpc, record_pb2

EPOCH = 1_700_000_000_000


class RunningLog(NamedTuple):
    """A running audit service and where its log lies."""

    component: Component
    stub: Any
    log: Path

    def stub_of(self, peer: str) -> Any:
        """Return a stub that calls as a peer."""
        channel = LocalChannel(peer)
        self.component.register(channel)
        return audit_service_pb2_grpc.AuditServiceStub(cast("Any", channel))

    async def append(self, records: Sequence[record_pb2.Record]) -> list[int]:
        """Append records as the gateway."""
        response = await self.stub.AppendRecords(pb.AppendRecordsRequest(records=records))
        return list(response.indexes)


@cache
def quick_keys() -> tuple[str, str]:
    """Return an RSA-2048 and an Ed25519 key in PEM, made once a run."""
    return private_pem(generate_rsa(2048)).decode(), private_pem(generate_ed25519()).decode()


def settings_in(state: Path, **overrides: object) -> AuditSettings:
    """Return settings for a log below a directory."""
    rsa, ed25519 = quick_keys()
    values: dict[str, object] = {
        "state_dir": state,
        "signing_key": rsa,
        "ed25519_key": ed25519,
        "checkpoint_interval_ms": 5,
    }
    return AuditSettings(**{**values, **overrides})  # type: ignore[arg-type]


@asynccontextmanager
async def running_log(state: Path, **overrides: object) -> AsyncIterator[RunningLog]:
    """Run an audit service on a directory, and end it gracefully."""
    settings = settings_in(state, **overrides)
    async with AsyncExitStack() as stack:
        component = await build(settings, stack)
        running = RunningLog(component, None, settings.log_path)
        yield running._replace(stub=running.stub_of("gateway"))


def record(
    sequence: int, *, event_type: int = 3, instance: str = "gateway-test", epoch: int = EPOCH
) -> record_pb2.Record:
    """Return a record that is different for each sequence, a refusal unless asked otherwise."""
    message = record_pb2.Record(
        id=record_pb2.RecordId(instance=instance, epoch=epoch, sequence=sequence),
        event_time=Timestamp(seconds=1_700_000_000 + sequence, nanos=123_456_789),
        type=event_type,  # type: ignore[arg-type]
        request_id=f"request-{sequence}",
        source_network="192.0.2.0/24",
        reason="RATE_LIMITED",
        count=1,
    )
    message.principal.tenant = "acme"
    message.principal.issuer = "apikey"
    message.principal.subject = f"subject-{sequence % 3}"
    return message


def intent(sequence: int) -> record_pb2.Record:
    """Return an intent with a commitment and its key."""
    message = record(sequence, event_type=record_pb2.EVENT_TYPE_INTENT)
    digest = sha256(str(sequence).encode()).digest()
    message.commitments.add(kind=record_pb2.COMMITMENT_KIND_PROMPT_SENT, hmac_sha256=digest)
    message.commitment_key = digest[::-1]
    return message


def outcome(sequence: int, *, of: int) -> record_pb2.Record:
    """Return the outcome of an intent."""
    message = record(sequence, event_type=record_pb2.EVENT_TYPE_OUTCOME)
    message.outcome = record_pb2.OUTCOME_STATUS_COMPLETED
    message.intent_id.CopyFrom(record(of).id)
    return message


def files_of(log: Path) -> list[Path]:
    """Return every file of a log's directory."""
    return sorted(path for path in log.rglob("*") if path.is_file())
