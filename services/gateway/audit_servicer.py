"""AuditReaderService on the wire: authenticates, authorises, records, forwards."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec
from google.api import httpbody_pb2

from services.common.errors import PermissionDenied
from services.gateway import audit_reader, http
from services.gateway.audit_client import AuditClient, principal_message, timestamp
from services.gateway.authorization import Scope
from services.gateway.calls import Surface, without_model
from services.gateway.pipeline import Pipeline
from services.gateway.principal import Principal
from services.gateway.roles import Reach
from services.gateway.servicer import JSON, ShapedErrors
from weaver.audit.v1 import audit_service_pb2 as audit_pb
from weaver.audit.v1 import record_pb2
from weaver.gateway.v1 import audit_reader_service_pb2 as pb
from weaver.gateway.v1 import audit_reader_service_pb2_grpc

TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
Kind = Literal["records", "keys", "texts"]
KINDS: Final[tuple[Kind, ...]] = ("records", "keys", "texts")
READ_OF_OTHERS: Final[dict[str, tuple[Kind, ...]]] = {
    "records": ("records",),
    "keys": ("records", "keys"),
    "texts": KINDS,
}
"""What WEAVER_AUDIT_AUDITOR_READS lets anybody read of others, whatever their roles."""


RECORDS = Surface("audit.records", Scope.AUDIT_OWN, without_model)
RECEIPT = Surface("audit.receipt", Scope.AUDIT_OWN, without_model)
COMMITMENT_KEY = Surface("audit.commitment_key", Scope.AUDIT_KEYS, without_model)
TEXTS = Surface("audit.texts", Scope.AUDIT_TEXTS, without_model)
PROOF = Surface("audit.proof", Scope.AUDIT_OWN, without_model)
TILE = Surface("audit.tile", Scope.AUDIT_ALL, without_model)


class Reading(NamedTuple):
    """An answer, and what its `audit_read` record says was read."""

    body: bytes
    read: Mapping[str, str]


class AuditReaderServicer(audit_reader_service_pb2_grpc.AuditReaderServiceServicer):
    """See `weaver.gateway.v1.AuditReaderService`.

    Args:
        pipeline: authenticates, authorises and records.
        audit: the log.
        auditor_reads: what auditors see of others: `records`, `keys` or `texts`, each with those
            before it.
    """

    def __init__(self, pipeline: Pipeline, audit: AuditClient, auditor_reads: str) -> None:
        """See the class."""
        self._pipeline = pipeline
        self._audit = audit
        self._auditor_reads = auditor_reads

    async def ListRecords(self, request: pb.ListRecordsRequest, context: Any) -> Any:
        """List records, newest first."""

        async def reading(principal: Principal) -> Reading:
            response = await self._audit.read("ListRecords", self._filter(request, principal))
            page = {
                "records": [
                    audit_reader.record_json(record.index, record.entry)
                    for record in response.records
                ],
                "next_page_token": response.next_page_token,
            }
            subject = request.subject
            if self._audit.pseudonyms and subject:
                # What is read must not name in the log whom the log does not name.
                subject = ",".join(response.pseudonyms) or "unknown"
            filters = {
                "request_id": request.request_id,
                "subject": subject,
                "tenant": request.tenant,
                "types": ",".join(request.type),
                "start_time": request.start_time,
                "end_time": request.end_time,
            }
            indexes = [record.index for record in response.records]
            read = audit_reader.what_was_listed(filters, indexes)
            return Reading(msgspec.json.encode(page), read)

        return await self._read(RECORDS, request, context, reading)

    async def GetRecord(self, request: pb.GetRecordRequest, context: Any) -> Any:
        """Return the record at an index."""

        async def reading(principal: Principal) -> Reading:
            asked = audit_pb.GetRecordRequest(index=request.index)
            await self._narrow(asked, principal, "records")
            record = (await self._audit.read("GetRecord", asked)).record
            body = msgspec.json.encode(audit_reader.record_json(record.index, record.entry))
            return Reading(body, _one("record", request.index))

        return await self._read(RECORDS, request, context, reading)

    async def GetReceipt(self, request: pb.GetReceiptRequest, context: Any) -> Any:
        """Return a record's receipt."""

        async def reading(principal: Principal) -> Reading:
            asked = audit_pb.GetReceiptRequest(index=request.index)
            await self._narrow(asked, principal, "records")
            response = await self._audit.read("GetReceipt", asked)
            record = response.record
            receipt = {
                **audit_reader.record_json(record.index, record.entry),
                "proof": response.proof,
            }
            return Reading(msgspec.json.encode(receipt), _one("receipt", request.index))

        return await self._read(RECEIPT, request, context, reading)

    async def GetCommitmentKey(self, request: pb.GetCommitmentKeyRequest, context: Any) -> Any:
        """Return the key of a record's commitments."""

        async def reading(principal: Principal) -> Reading:
            asked = audit_pb.GetCommitmentKeyRequest(index=request.index)
            await self._narrow(asked, principal, "keys")
            response = await self._audit.read("GetCommitmentKey", asked)
            record = response.record
            key = {
                **audit_reader.record_json(record.index, record.entry),
                "commitment_key": response.commitment_key.hex(),
            }
            return Reading(msgspec.json.encode(key), _one("commitment_key", request.index))

        return await self._read(COMMITMENT_KEY, request, context, reading)

    async def GetTexts(self, request: pb.GetTextsRequest, context: Any) -> Any:
        """Return the texts that were captured for a record."""

        async def reading(principal: Principal) -> Reading:
            asked = audit_pb.GetTextsRequest(index=request.index)
            await self._narrow(asked, principal, "texts")
            response = await self._audit.read("GetTexts", asked)
            record = response.record
            texts = [
                audit_reader.text_json(
                    audit_reader.Text(_kind(text.kind), text.data, text.size, text.truncated)
                )
                for text in response.texts
            ]
            found = {**audit_reader.record_json(record.index, record.entry), "texts": texts}
            read = {**_one("texts", request.index), "count": str(len(texts))}
            return Reading(msgspec.json.encode(found), read)

        return await self._read(TEXTS, request, context, reading)

    async def GetTile(self, request: pb.GetTileRequest, context: Any) -> Any:
        """Return a tile or an entry bundle."""

        async def reading(_: Principal) -> Reading:
            asked = audit_pb.GetTileRequest(path=request.path)
            data: bytes = (await self._audit.read("GetTile", asked)).data
            return Reading(data, {"read": "tile", "path": request.path[:128]})

        return await self._read(TILE, request, context, reading, BYTES)

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, context: Any) -> Any:
        """Return the newest signed checkpoint, as text."""
        with ShapedErrors(context):
            await self._permit(request, context)
            asked = audit_pb.GetCheckpointRequest(witnessed=request.witnessed)
            response = await self._audit.read("GetCheckpoint", asked)
            return httpbody_pb2.HttpBody(content_type=TEXT, data=response.checkpoint.encode())

    async def GetConsistencyProof(
        self, request: pb.GetConsistencyProofRequest, context: Any
    ) -> Any:
        """Prove that the log only grew between two sizes."""
        with ShapedErrors(context):
            await self._permit(request, context)
            asked = audit_pb.GetConsistencyProofRequest(
                first_size=request.first_size, second_size=request.second_size
            )
            response = await self._audit.read("GetConsistencyProof", asked)
            proof = {
                "first_size": request.first_size,
                "second_size": response.second_size,
                # msgspec writes bytes as base64.
                "hashes": list(response.hashes),
            }
            return httpbody_pb2.HttpBody(content_type=JSON, data=msgspec.json.encode(proof))

    async def ListKeys(self, request: pb.ListKeysRequest, context: Any) -> Any:
        """List every public key that ever signed."""
        with ShapedErrors(context):
            await self._permit(request, context)
            response = await self._audit.read("ListKeys", audit_pb.ListKeysRequest())
            keys = [
                {
                    "verifier_key": key.verifier_key,
                    "algorithm": key.algorithm,
                    "public_key_pem": key.public_key_pem,
                    "start_time": key.start_time.ToJsonString(),
                    "end_time": key.end_time.ToJsonString() if key.HasField("end_time") else None,
                    **msgspec.json.decode(key.archived or b"{}", type=dict[str, Any]),
                }
                for key in response.keys
            ]
            data = msgspec.json.encode({"origin": response.origin, "keys": keys})
            return httpbody_pb2.HttpBody(content_type=JSON, data=data)

    async def _permit(self, request: Any, context: Any) -> None:
        """Let a caller read what holds no record: it is not recorded, its refusal is counted."""
        header = http.request_headers(context)
        body = request.SerializeToString()
        await self._pipeline.permit(http.read_call(context, header, PROOF, body, time.monotonic()))

    async def _read(
        self,
        surface: Surface,
        request: Any,
        context: Any,
        reading: Callable[[Principal], Awaitable[Reading]],
        content_type: str = JSON,
    ) -> httpbody_pb2.HttpBody:
        """Take a reading through the pipeline and send its answer."""
        with ShapedErrors(context):
            header = http.request_headers(context)
            body = request.SerializeToString()
            call = http.read_call(context, header, surface, body, time.monotonic())
            done, admission, record = await self._pipeline.read(call, reading, _what)
            await context.send_initial_metadata(http.response_headers(admission, record))
            return httpbody_pb2.HttpBody(content_type=content_type, data=done.body)

    async def _narrow(self, asked: Any, principal: Principal, what: Kind) -> None:
        """Ask as the record's owner, unless the caller's roles reach further."""
        reach = self._reach(principal, what)
        if reach is Reach.ALL:
            return
        if reach is Reach.TENANT:
            about = audit_pb.GetRecordRequest(index=asked.index)
            record = (await self._audit.read("GetRecord", about)).record
            if audit_reader.tenant_of(record.entry) == principal.tenant:
                return
        asked.owner.CopyFrom(principal_message(principal))

    def _reach(self, principal: Principal, what: Kind) -> Reach:
        """Return whose records, keys or texts a caller may read, as roles and deployment say."""
        permissions = self._pipeline.permissions(principal)
        reach = {
            "records": permissions.records,
            "keys": permissions.keys,
            "texts": permissions.texts,
        }[what]
        return reach if what in READ_OF_OTHERS[self._auditor_reads] else min(reach, Reach.OWN)

    def _filter(
        self, request: pb.ListRecordsRequest, principal: Principal
    ) -> audit_pb.ListRecordsRequest:
        """Return the listing that this caller may have."""
        asked = audit_pb.ListRecordsRequest(
            page_size=audit_reader.page_size(request.page_size), page_token=request.page_token
        )
        asked.filter.request_id = request.request_id
        asked.filter.types.extend(
            record_pb2.EventType.Value(f"EVENT_TYPE_{audit_reader.event_type(name).upper()}")
            for name in request.type
        )
        for field in ("start_time", "end_time"):
            seconds = audit_reader.instant(field, getattr(request, field))
            if seconds is not None:
                getattr(asked.filter, field).CopyFrom(timestamp(seconds))
        reach = self._reach(principal, "records")
        if reach is Reach.ALL:
            asked.filter.tenant = request.tenant
            asked.filter.subject = request.subject
        elif reach is Reach.TENANT:
            if request.tenant not in {"", principal.tenant}:
                msg = "Your roles allow the records of your own tenant alone."
                raise PermissionDenied(msg)
            asked.filter.tenant = principal.tenant
            asked.filter.subject = request.subject
        else:
            asked.filter.owner.CopyFrom(principal_message(principal))
        return asked


def _one(what: str, index: int) -> dict[str, str]:
    return {"read": what, "index": str(index)}


def _what(done: Reading) -> Mapping[str, str]:
    return done.read


def _kind(kind: record_pb2.CommitmentKind.ValueType) -> str:
    return record_pb2.CommitmentKind.Name(kind).removeprefix("COMMITMENT_KIND_").lower()
