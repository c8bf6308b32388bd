"""The RPCs of `weaver.audit.v1.AuditService`: messages in, domain calls, messages out."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import repeat
from typing import Any

from google.protobuf import timestamp_pb2

from services.audit.keys.archive import ArchivedKey
from services.audit.merkle import leaf_hash
from services.audit.messages import commitment_key_of, filter_of, record_of
from services.audit.permissions import check_append, check_read
from services.audit.ports import Entry
from services.audit.record import encode
from services.audit.side_servicer import SideServicer, identity_of, stored_message
from services.audit.sidestore.pseudonyms import Caller
from services.common.errors import InvalidArgument
from services.common.peer import peer_name
from weaver.audit.v1 import audit_service_pb2 as pb
from weaver.audit.v1 import audit_service_pb2_grpc, record_pb2

_MAX_BATCH = 1_000


class AuditServicer(SideServicer, audit_service_pb2_grpc.AuditServiceServicer):
    """Serves one log.

    Args:
        origin: the log's name.
        log: where records go.
        reader: where they are read.
        store: the side store.
        naming: how records name callers.
        eraser: carries out orders to erase.
        configurations: what services were started with.
    """

    async def AppendRecords(
        self,
        request: pb.AppendRecordsRequest,
        context: Any,
    ) -> pb.AppendRecordsResponse:
        """Append records and return their indexes once they are durable."""
        peer = peer_name(context)
        if len(request.records) > _MAX_BATCH:
            raise InvalidArgument.of_field("records", f"must be at most {_MAX_BATCH}.")
        callers: Iterable[Caller | None] = repeat(None)
        if self._naming.pseudonyms:
            callers = await self._callers(request.records)
        # From here to the queue nothing may wait: `Eraser.forget` relies on it.
        entries = self._entries(peer, request.records, callers)
        indexes = await self._log.append(entries) if entries else []
        for message in request.records:
            if message.type == record_pb2.EVENT_TYPE_SERVICE_STARTED:
                await self._configurations.started(peer, message.attributes)
        return pb.AppendRecordsResponse(
            origin=self._origin, indexes=indexes, pseudonyms=self._naming.pseudonyms
        )

    async def ListRecords(
        self,
        request: pb.ListRecordsRequest,
        context: Any,
    ) -> pb.ListRecordsResponse:
        """List records that match a filter."""
        check_read(peer_name(context))
        wanted = filter_of(request.filter)
        if request.filter.HasField("owner"):
            owner = identity_of(request.filter.owner, "filter.owner")
            wanted = await self._naming.owned_filter(wanted, owner)
        else:
            wanted = await self._naming.named_filter(wanted)
        page = await self._reader.page(
            wanted,
            size=request.page_size,
            token=request.page_token,
            ascending=request.ascending,
        )
        return pb.ListRecordsResponse(
            records=[stored_message(record) for record in page.records],
            next_page_token=page.next_token,
            pseudonyms=wanted.pseudonyms,
        )

    async def GetRecord(
        self,
        request: pb.GetRecordRequest,
        context: Any,
    ) -> pb.GetRecordResponse:
        """Return the record at an index."""
        check_read(peer_name(context))
        return pb.GetRecordResponse(record=stored_message(await self._owned(request)))

    async def GetReceipt(
        self,
        request: pb.GetReceiptRequest,
        context: Any,
    ) -> pb.GetReceiptResponse:
        """Return a record with the proof that a signed checkpoint covers it."""
        check_read(peer_name(context))
        await self._owned(request)
        stored, receipt = await self._reader.receipt(request.index)
        return pb.GetReceiptResponse(record=stored_message(stored), proof=str(receipt))

    async def GetCheckpoint(
        self,
        request: pb.GetCheckpointRequest,
        context: Any,
    ) -> pb.GetCheckpointResponse:
        """Return the newest signed checkpoint, or the newest that witnesses cosigned."""
        check_read(peer_name(context))
        reader = self._reader
        signed = reader.witnessed_checkpoint() if request.witnessed else reader.checkpoint()
        return pb.GetCheckpointResponse(checkpoint=str(signed.note))

    async def GetConsistencyProof(
        self,
        request: pb.GetConsistencyProofRequest,
        context: Any,
    ) -> pb.GetConsistencyProofResponse:
        """Prove that the log of one size is a prefix of the log of another."""
        check_read(peer_name(context))
        size, hashes = await self._reader.consistency(request.first_size, request.second_size)
        return pb.GetConsistencyProofResponse(second_size=size, hashes=hashes)

    async def ListKeys(
        self,
        request: pb.ListKeysRequest,  # noqa: ARG002 - gRPC's signature
        context: Any,
    ) -> pb.ListKeysResponse:
        """List every public key that ever signed."""
        check_read(peer_name(context))
        return pb.ListKeysResponse(
            origin=self._origin, keys=[_key(archived) for archived in self._reader.keys]
        )

    async def GetTile(
        self,
        request: pb.GetTileRequest,
        context: Any,
    ) -> pb.GetTileResponse:
        """Return one tile or entry bundle."""
        check_read(peer_name(context))
        return pb.GetTileResponse(data=await self._reader.tile(request.path))

    async def _callers(self, messages: Sequence[record_pb2.Record]) -> list[Caller | None]:
        """Return who each record is about; whoever is not known gets a key first."""
        while True:
            callers: list[Caller | None] = []
            missing: list[tuple[str, str, str]] = []
            for message in messages:
                caller = None
                if message.HasField("principal"):
                    who = message.principal
                    identity = (who.tenant, who.issuer, who.subject)
                    caller = self._naming.cached(identity)
                    if caller is None:
                        missing.append(identity)
                callers.append(caller)
            if not missing:
                return callers
            # Whoever was found may be forgotten while this waits, so all are looked up again.
            await self._naming.callers(missing)

    def _entries(
        self,
        peer: str,
        messages: Iterable[record_pb2.Record],
        callers: Iterable[Caller | None],
    ) -> list[Entry]:
        entries = []
        seal = self._store.vault.seal
        for position, (message, caller) in enumerate(zip(messages, callers, strict=False)):
            try:
                record = record_of(message, caller)
                key = commitment_key_of(message)
                data = encode(record)
            except InvalidArgument as error:
                raise _at(position, error) from None
            check_append(peer, record.id, record.type, f"records[{position}]")
            sealed = None if key is None else seal(key)
            entries.append(Entry(data, leaf_hash(data), record.id, sealed))
        return entries


def _at(position: int, error: InvalidArgument) -> InvalidArgument:
    """Return an error of a record with the record's place in the request."""
    place = f"records[{position}]"
    if not error.violations:
        return InvalidArgument.of_field(place, error.message)
    violation = error.violations[0]
    return InvalidArgument.of_field(f"{place}.{violation.field}", violation.description)


def _key(archived: ArchivedKey) -> pb.Key:
    return pb.Key(
        verifier_key=archived.verifier_key,
        algorithm=archived.algorithm,
        public_key_pem=archived.public_key_pem,
        start_time=_timestamp(archived.start_time),
        end_time=None if archived.end_time is None else _timestamp(archived.end_time),
        archived=archived.validity_json,
    )


def _timestamp(text: str) -> timestamp_pb2.Timestamp:
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(datetime.fromisoformat(text))
    return timestamp
