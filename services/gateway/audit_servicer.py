"""AuditReaderService on the wire: authenticates, authorises, records, forwards."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from google.api import httpbody_pb2

from services.gateway import audit_reader, http
from services.gateway.audit_client import AuditClient, timestamp
from services.gateway.authorization import Scope
from services.gateway.calls import Ask, Surface
from services.gateway.pipeline import Pipeline
from services.gateway.principal import Principal
from services.gateway.servicer import JSON, ShapedErrors
from weaver.audit.v1 import audit_service_pb2 as audit_pb
from weaver.audit.v1 import record_pb2
from weaver.gateway.v1 import audit_reader_service_pb2 as pb
from weaver.gateway.v1 import audit_reader_service_pb2_grpc

TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"


def _no_model(body: bytes, _: int) -> Ask:
    return Ask("", body, stream=False, input_tokens=0, output_tokens=0)


RECORDS = Surface("audit.records", Scope.AUDIT_OWN, _no_model)
RECEIPT = Surface("audit.receipt", Scope.AUDIT_OWN, _no_model)
PROOF = Surface("audit.proof", Scope.AUDIT_OWN, _no_model)
TILE = Surface("audit.tile", Scope.AUDIT_ALL, _no_model)


class AuditReaderServicer(audit_reader_service_pb2_grpc.AuditReaderServiceServicer):
    """See `weaver.gateway.v1.AuditReaderService`.

    Args:
        pipeline: authenticates, authorises and records.
        audit: the log.
    """

    def __init__(self, pipeline: Pipeline, audit: AuditClient) -> None:
        """See the class."""
        self._pipeline = pipeline
        self._audit = audit

    async def ListRecords(self, request: pb.ListRecordsRequest, context: Any) -> Any:
        """List records, newest first."""

        async def reading(principal: Principal) -> bytes:
            response = await self._audit.read("ListRecords", self._filter(request, principal))
            page = {
                "records": [
                    audit_reader.record_json(record.index, record.entry)
                    for record in response.records
                ],
                "next_page_token": response.next_page_token,
            }
            return msgspec.json.encode(page)

        return await self._read(RECORDS, request, context, reading)

    async def GetRecord(self, request: pb.GetRecordRequest, context: Any) -> Any:
        """Return the record at an index."""

        async def reading(principal: Principal) -> bytes:
            asked = audit_pb.GetRecordRequest(index=request.index)
            record = (await self._audit.read("GetRecord", asked)).record
            self._check(record, principal)
            return msgspec.json.encode(audit_reader.record_json(record.index, record.entry))

        return await self._read(RECORDS, request, context, reading)

    async def GetReceipt(self, request: pb.GetReceiptRequest, context: Any) -> Any:
        """Return a record's receipt."""

        async def reading(principal: Principal) -> bytes:
            asked = audit_pb.GetReceiptRequest(index=request.index)
            response = await self._audit.read("GetReceipt", asked)
            record = response.record
            self._check(record, principal)
            receipt = {
                **audit_reader.record_json(record.index, record.entry),
                "proof": response.proof,
            }
            return msgspec.json.encode(receipt)

        return await self._read(RECEIPT, request, context, reading)

    async def GetTile(self, request: pb.GetTileRequest, context: Any) -> Any:
        """Return a tile or an entry bundle."""

        async def reading(_: Principal) -> bytes:
            asked = audit_pb.GetTileRequest(path=request.path)
            data: bytes = (await self._audit.read("GetTile", asked)).data
            return data

        return await self._read(TILE, request, context, reading, BYTES)

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, context: Any) -> Any:
        """Return the newest signed checkpoint, as text."""
        with ShapedErrors(context):
            self._permit(request, context)
            asked = audit_pb.GetCheckpointRequest(witnessed=request.witnessed)
            response = await self._audit.read("GetCheckpoint", asked)
            return httpbody_pb2.HttpBody(content_type=TEXT, data=response.checkpoint.encode())

    async def GetConsistencyProof(
        self, request: pb.GetConsistencyProofRequest, context: Any
    ) -> Any:
        """Prove that the log only grew between two sizes."""
        with ShapedErrors(context):
            self._permit(request, context)
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
            self._permit(request, context)
            response = await self._audit.read("ListKeys", audit_pb.ListKeysRequest())
            keys = [
                {
                    "verifier_key": key.verifier_key,
                    "algorithm": key.algorithm,
                    "public_key_pem": key.public_key_pem,
                    "start_time": key.start_time.ToJsonString(),
                    "end_time": key.end_time.ToJsonString() if key.HasField("end_time") else None,
                }
                for key in response.keys
            ]
            data = msgspec.json.encode({"origin": response.origin, "keys": keys})
            return httpbody_pb2.HttpBody(content_type=JSON, data=data)

    def _permit(self, request: Any, context: Any) -> None:
        """Let a caller read what holds no record: it is not recorded, its refusal is counted."""
        header = http.request_headers(context)
        body = request.SerializeToString()
        self._pipeline.permit(http.read_call(context, header, PROOF, body, time.monotonic()))

    async def _read(
        self,
        surface: Surface,
        request: Any,
        context: Any,
        reading: Callable[[Principal], Awaitable[bytes]],
        content_type: str = JSON,
    ) -> httpbody_pb2.HttpBody:
        """Take a reading through the pipeline and send its answer."""
        with ShapedErrors(context):
            header = http.request_headers(context)
            body = request.SerializeToString()
            call = http.read_call(context, header, surface, body, time.monotonic())
            data, admission, record = await self._pipeline.read(call, reading)
            await context.send_initial_metadata(http.response_headers(admission, record))
            return httpbody_pb2.HttpBody(content_type=content_type, data=data)

    def _check(self, record: audit_pb.StoredRecord, principal: Principal) -> None:
        """Hide a record that is another's."""
        if self._pipeline.may(principal, Scope.AUDIT_ALL):
            return
        if not audit_reader.own(record.entry, principal):
            raise audit_reader.no_such_record(record.index)

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
        if self._pipeline.may(principal, Scope.AUDIT_ALL):
            asked.filter.tenant = request.tenant
            asked.filter.subject = request.subject
        else:
            asked.filter.tenant = principal.tenant
            asked.filter.issuer = principal.issuer
            asked.filter.subject = principal.subject
        return asked
