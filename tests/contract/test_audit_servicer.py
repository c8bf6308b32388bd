"""AuditService over a real channel and over the local one."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.audit.checkpoint import parse_signed_checkpoint
from services.audit.keys.signatures import load_keys
from services.audit.layout import Layout
from services.audit.merkle import verify_consistency
from services.audit.note import parse_verifier_key
from services.audit.receipt import parse_receipt, verify_receipt
from services.audit.tiles import unpack_entries
from services.audit.verification.verifier import verify
from services.audit.wiring import build
from services.common.channel import call, open_channel
from services.common.component import Component
from services.common.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from services.common.local import LocalChannel
from services.common.server import Listener, start_server
from tests.fakes.auditlog import intent, outcome, record, settings_in
from weaver.audit.v1 import audit_service_pb2 as pb
from weaver.audit.v1 import audit_service_pb2_grpc as rpc
from weaver.audit.v1 import record_pb2


class Client:
    """Calls the service as a peer, by the common client helper."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    async def __call__(self, method: str, request: object) -> Any:
        return await call(getattr(self._stub, method), request, timeout_s=10)

    async def append(self, *records: record_pb2.Record) -> list[int]:
        response = await self("AppendRecords", pb.AppendRecordsRequest(records=records))
        return list(response.indexes)

    async def listed(self, **request: Any) -> list[int]:
        response = await self("ListRecords", pb.ListRecordsRequest(**request))
        return [stored.index for stored in response.records]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return settings_in(tmp_path).log_path


@pytest.fixture
async def component(tmp_path: Path) -> AsyncIterator[Component]:
    async with AsyncExitStack() as stack:
        yield await build(settings_in(tmp_path, max_pending=1_500), stack)


@pytest.fixture(params=["grpc", "local"])
async def clients(
    request: pytest.FixtureRequest, component: Component, tmp_path: Path
) -> AsyncIterator[dict[str, Client]]:
    peers = ("gateway", "model")
    async with AsyncExitStack() as stack:
        if request.param == "local":
            found = {}
            for peer in peers:
                channel: Any = LocalChannel(peer)
                component.register(channel)
                found[peer] = Client(rpc.AuditServiceStub(channel))
            yield found
            return
        settings = settings_in(tmp_path)
        handle = await start_server(
            component,
            settings,
            stack,
            [Listener("127.0.0.1:0")],
            allowed_clients=settings.allowed_clients,
        )
        found = {}
        for peer in peers:
            remote = open_channel(handle.addresses[0], settings, own=peer, peer="audit")
            stack.push_async_callback(remote.close)
            found[peer] = Client(rpc.AuditServiceStub(remote))
        yield found


@pytest.fixture
def client(clients: dict[str, Client]) -> Client:
    return clients["gateway"]


async def test_append_returns_the_origin_and_an_index_for_each_record(client: Client) -> None:
    request = pb.AppendRecordsRequest(records=[intent(1), outcome(2, of=1)])
    response = await client("AppendRecords", request)
    assert response.origin == "weaver.local/development/audit-0"
    assert list(response.indexes) == [3, 4]
    again = await client("AppendRecords", request)
    assert list(again.indexes) == [3, 4]
    assert await client.append() == []


async def test_append_refuses_the_same_id_with_other_content(client: Client) -> None:
    await client.append(record(1))
    other = record(1)
    other.reason = "OTHER"
    with pytest.raises(AlreadyExists) as caught:
        await client.append(other)
    assert caught.value.reason == "RECORD_CONFLICT"


async def test_append_refuses_over_a_thousand_records(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="at most 1000"):
        await client.append(*(record(i) for i in range(1, 1_002)))
    assert len(await client.append(*(record(i) for i in range(1, 1_001)))) == 1_000


def changed(field: str, value: object) -> record_pb2.Record:
    message = intent(1)
    target: Any = message
    *path, name = field.split(".")
    for part in path:
        target = getattr(target, part)
    setattr(target, name, value)
    return message


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (changed("type", 0), "records[0].type"),
        (changed("type", 99), "records[0].type"),
        (changed("id.instance", ""), "records[0].id.instance"),
        (changed("id.instance", "gateway test"), "records[0].id.instance"),
        (changed("id.epoch", 0), "records[0].id"),
        (changed("id.sequence", 0), "records[0].id"),
        (changed("id.sequence", 2**53), "records[0].id"),
        (changed("trace_id", "XYZ"), "records[0].trace_id"),
        (changed("outcome", 77), "records[0].outcome"),
        (changed("cost_micros", 2**60), "records[0].cost_micros"),
        (changed("usage.input_tokens", -(2**60)), "records[0].usage.input_tokens"),
        (changed("event_time.nanos", -1), "records[0].event_time"),
        (changed("event_time.seconds", 2**40), "records[0].event_time"),
        (changed("duration.seconds", 2**50), "records[0].duration"),
        (changed("intent_id.epoch", 1), "records[0].intent_id.instance"),
        (changed("commitment_key", b"short"), "records[0].commitment_key"),
        (changed("reason", "x" * 70_000), "records[0]"),
        (
            record_pb2.Record(type=record_pb2.EVENT_TYPE_INTENT, id=intent(1).id),
            "records[0].event_time",
        ),
        (
            record_pb2.Record(type=record_pb2.EVENT_TYPE_INTENT, event_time=intent(1).event_time),
            "records[0].id.instance",
        ),
    ],
)
async def test_append_names_the_field_that_is_wrong(
    client: Client, message: record_pb2.Record, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await client.append(message)
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        (
            "commitments",
            record_pb2.Commitment(kind=record_pb2.COMMITMENT_KIND_PROMPT_SENT, hmac_sha256=b"x"),
            "hmac_sha256",
        ),
        ("commitments", record_pb2.Commitment(hmac_sha256=b"x" * 32), "kind"),
        ("redactions", record_pb2.Redaction(type="EMAIL", count=1), "direction"),
    ],
)
async def test_append_names_the_part_that_is_wrong(
    client: Client, name: str, value: Any, field: str
) -> None:
    message = record(1)
    getattr(message, name).append(value)
    with pytest.raises(InvalidArgument) as caught:
        await client.append(message)
    assert caught.value.violations[0].field == f"records[0].{name}.{field}"


async def test_append_refuses_attributes_that_are_not_in_snake_case(client: Client) -> None:
    message = record(1)
    message.attributes["Bad Key"] = "x"
    with pytest.raises(InvalidArgument, match="snake_case"):
        await client.append(message)


async def test_append_refuses_another_peers_id_and_types(clients: dict[str, Client]) -> None:
    started = record_pb2.EVENT_TYPE_SERVICE_STARTED
    model = clients["model"]
    with pytest.raises(PermissionDenied, match="does not belong"):
        await model.append(record(1, event_type=started, instance="gateway-1"))
    with pytest.raises(PermissionDenied, match="does not belong"):
        await model.append(record(1, event_type=started, instance="modelling"))
    with pytest.raises(PermissionDenied, match="may not append"):
        await model.append(record(1, instance="model-1"))
    with pytest.raises(PermissionDenied, match="does not belong"):
        await clients["gateway"].append(record(1, instance="audit-0"))
    for instance in ("model", "model-1"):
        assert await model.append(record(1, event_type=started, instance=instance))


async def test_only_the_gateway_may_read(clients: dict[str, Client]) -> None:
    model = clients["model"]
    for method, request in (
        ("ListRecords", pb.ListRecordsRequest()),
        ("GetRecord", pb.GetRecordRequest()),
        ("GetReceipt", pb.GetReceiptRequest()),
        ("GetCheckpoint", pb.GetCheckpointRequest()),
        ("GetConsistencyProof", pb.GetConsistencyProofRequest()),
        ("ListKeys", pb.ListKeysRequest()),
        ("GetTile", pb.GetTileRequest()),
    ):
        with pytest.raises(PermissionDenied, match="may not read"):
            await model(method, request)


async def test_list_filters_and_orders(client: Client) -> None:
    indexes = await client.append(intent(1), record(2), record(3), outcome(4, of=1))

    async def found(**fields: Any) -> list[int]:
        return await client.listed(filter=pb.RecordFilter(**fields))

    assert await client.listed() == [*reversed(indexes), 2, 1, 0]
    assert await client.listed(ascending=True) == [0, 1, 2, *indexes]
    assert await found(tenant="acme") == list(reversed(indexes))
    assert await found(tenant="other") == []
    assert await found(tenant="acme", issuer="apikey", subject="subject-1") == [
        indexes[3],
        indexes[0],
    ]
    assert await found(request_id="request-2") == [indexes[1]]
    types = [record_pb2.EVENT_TYPE_INTENT, record_pb2.EVENT_TYPE_OUTCOME]
    assert await found(types=types) == [indexes[3], indexes[0]]
    start, end = Timestamp(seconds=1_700_000_002), Timestamp(seconds=1_700_000_004)
    assert await found(start_time=start, end_time=end) == [indexes[2], indexes[1]]


async def test_list_pages_without_gap_or_repeat(client: Client) -> None:
    indexes = await client.append(*(record(i) for i in range(1, 251)))
    for ascending in (False, True):
        found: list[int] = []
        token = ""
        pages = 0
        while True:
            response = await client(
                "ListRecords",
                pb.ListRecordsRequest(
                    filter=pb.RecordFilter(tenant="acme"), page_token=token, ascending=ascending
                ),
            )
            pages += 1
            found += [stored.index for stored in response.records]
            token = response.next_page_token
            if pages == 1:  # What comes meanwhile shifts nothing.
                await client.append(record(1_000 + ascending))
            if not token:
                break
        expected = indexes if ascending else list(reversed(indexes))
        assert [index for index in found if index in indexes] == expected
        assert pages == 3


async def test_list_refuses_a_token_of_another_listing(client: Client) -> None:
    await client.append(record(1), record(2))
    response = await client("ListRecords", pb.ListRecordsRequest(page_size=1))
    assert response.next_page_token
    for request in (
        pb.ListRecordsRequest(page_token=response.next_page_token, ascending=True),
        pb.ListRecordsRequest(page_token="%%%"),
        pb.ListRecordsRequest(page_token="AAAA"),
        pb.ListRecordsRequest(page_size=1_001),
        pb.ListRecordsRequest(page_size=-1),
        pb.ListRecordsRequest(filter=pb.RecordFilter(types=[99])),  # type: ignore[list-item]
        pb.ListRecordsRequest(filter=pb.RecordFilter(start_time=Timestamp(seconds=2**50))),
    ):
        with pytest.raises(InvalidArgument):
            await client("ListRecords", request)


async def test_a_record_reads_back_as_the_bytes_that_are_hashed(client: Client) -> None:
    (index,) = await client.append(intent(1))
    for _ in range(2):
        response = await client("GetRecord", pb.GetRecordRequest(index=index))
        assert response.record.index == index
        assert b'"request_id":"request-1"' in response.record.entry
        assert intent(1).commitment_key.hex().encode() not in response.record.entry
        await client("GetReceipt", pb.GetReceiptRequest(index=index))  # Now the tree has it.
    with pytest.raises(NotFound):
        await client("GetRecord", pb.GetRecordRequest(index=index + 1))
    with pytest.raises(NotFound):
        await client("GetReceipt", pb.GetReceiptRequest(index=2**63))


async def test_a_receipt_proves_a_record_with_the_public_key_alone(client: Client) -> None:
    indexes = await client.append(*(intent(i) for i in range(1, 301)))
    keys = (await client("ListKeys", pb.ListKeysRequest())).keys
    for index in (indexes[0], indexes[-1], indexes[100]):
        response = await client("GetReceipt", pb.GetReceiptRequest(index=index))
        receipt = parse_receipt(response.proof)
        for key in keys:
            trusted = [parse_verifier_key(key.verifier_key)]
            assert verify_receipt(receipt, response.record.entry, trusted) == trusted


async def test_the_checkpoint_and_the_consistency_proof_verify(client: Client) -> None:
    await client.append(record(1))
    await client("GetReceipt", pb.GetReceiptRequest(index=3))
    first = await client("GetCheckpoint", pb.GetCheckpointRequest())
    (last, *_) = reversed(await client.append(*(record(i) for i in range(2, 400))))
    await client("GetReceipt", pb.GetReceiptRequest(index=last))
    second = await client("GetCheckpoint", pb.GetCheckpointRequest())
    old = parse_signed_checkpoint(first.checkpoint.encode()).checkpoint
    new = parse_signed_checkpoint(second.checkpoint.encode()).checkpoint
    assert old.size < new.size
    for size in (0, new.size):
        request = pb.GetConsistencyProofRequest(first_size=old.size, second_size=size)
        response = await client("GetConsistencyProof", request)
        assert response.second_size == new.size
        assert verify_consistency(old.size, new.size, response.hashes, old.root, new.root)
    for first_size, second_size in ((5, 4), (1, new.size + 1), (new.size + 1, 0)):
        request = pb.GetConsistencyProofRequest(first_size=first_size, second_size=second_size)
        with pytest.raises(InvalidArgument):
            await client("GetConsistencyProof", request)


async def test_keys_are_listed_with_their_validity(client: Client) -> None:
    response = await client("ListKeys", pb.ListKeysRequest())
    assert response.origin == "weaver.local/development/audit-0"
    assert [key.algorithm for key in response.keys] == ["RSA", "Ed25519"]
    for key in response.keys:
        assert key.public_key_pem.startswith("-----BEGIN PUBLIC KEY-----")
        assert key.HasField("start_time")
        assert not key.HasField("end_time")


async def test_tiles_are_served_as_they_lie(client: Client, log: Path) -> None:
    indexes = await client.append(*(record(i) for i in range(1, 300)))
    await client("GetReceipt", pb.GetReceiptRequest(index=indexes[-1]))
    for path in ("0/000", "entries/000", "1/000.p/1"):
        response = await client("GetTile", pb.GetTileRequest(path=path))
        assert response.data == (log / "tile" / path).read_bytes()
    assert len(unpack_entries((log / "tile" / "entries" / "000").read_bytes())) == 256


@pytest.mark.parametrize(
    "path", ["", "0", "../checkpoint", "0/../../checkpoint", "/etc/passwd", "0/000.p/999", "x"]
)
async def test_a_tiles_path_cannot_leave_the_tiles(client: Client, path: str) -> None:
    with pytest.raises(InvalidArgument):
        await client("GetTile", pb.GetTileRequest(path=path))


async def test_a_tile_that_is_not_there_is_not_found(client: Client) -> None:
    for path in ("5/000", "0/x999/999", "entries/000.p/255", "0/000"):
        with pytest.raises(NotFound):
            await client("GetTile", pb.GetTileRequest(path=path))


async def test_what_was_served_verifies_offline(client: Client, log: Path) -> None:
    await client.append(*(record(i) for i in range(1, 700)))
    await client("GetReceipt", pb.GetReceiptRequest(index=600))
    assert verify(log, load_keys(Layout(log).keys)).good
