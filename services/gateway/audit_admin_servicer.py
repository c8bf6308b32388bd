"""AuditAdminService on the wire: who may administer has the side store forget and erase.

The audit service records each order before it carries it out; the request itself is recorded here,
like every other.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from google.api import httpbody_pb2

from services.common import logs
from services.common.errors import InvalidArgument, NotFound
from services.gateway import http, json_requests
from services.gateway.audit_client import AuditClient, principal_message
from services.gateway.authorization import Scope
from services.gateway.calls import Ask, Surface
from services.gateway.pipeline import Pipeline
from services.gateway.principal import Principal
from services.gateway.servicer import JSON, ShapedErrors
from weaver.audit.v1 import audit_service_pb2 as audit_pb
from weaver.common.v1 import identity_pb2
from weaver.gateway.v1 import audit_admin_service_pb2 as pb
from weaver.gateway.v1 import audit_admin_service_pb2_grpc

LONGEST_NOTE = 256
MOST_RECORDS = 1_000


def _no_model(body: bytes, _: int) -> Ask:
    return Ask("", body, stream=False, input_tokens=0, output_tokens=0)


FORGET = Surface("admin.audit.forget", Scope.ADMIN, _no_model)
ERASE = Surface("admin.audit.erase", Scope.ADMIN, _no_model)
LOOK_UP = Surface("admin.audit.look_up", Scope.ADMIN, _no_model)


class AuditAdminServicer(audit_admin_service_pb2_grpc.AuditAdminServiceServicer):
    """See `weaver.gateway.v1.AuditAdminService`.

    Args:
        pipeline: authenticates, authorises and records.
        audit: the log.
        default_tenant: the tenant of principals that are named without one.
    """

    def __init__(self, pipeline: Pipeline, audit: AuditClient, default_tenant: str) -> None:
        """See the class."""
        self._pipeline = pipeline
        self._audit = audit
        self._default_tenant = default_tenant

    async def ForgetPrincipal(self, request: pb.ForgetPrincipalRequest, context: Any) -> Any:
        """Forget a principal."""

        async def doing(administrator: Principal) -> bytes:
            asked = audit_pb.ForgetPrincipalRequest(
                principal=await self._principal(request), order=_order(administrator, request.note)
            )
            done = await self._audit.read("ForgetPrincipal", asked)
            return msgspec.json.encode(
                {
                    "pseudonym": done.pseudonym,
                    "erased": done.erased,
                    "plain_records": done.plain_records,
                    "index": done.index,
                }
            )

        return await self._do(FORGET, request, context, doing)

    async def EraseRecords(self, request: pb.EraseRecordsRequest, context: Any) -> Any:
        """Erase the keys and texts of records, or of all records of a principal."""

        async def doing(administrator: Principal) -> bytes:
            if bool(request.indexes) == bool(request.subject):
                msg = "name either records or a subject."
                raise InvalidArgument.of_field("indexes, subject", msg)
            if len(request.indexes) > MOST_RECORDS:
                raise InvalidArgument.of_field("indexes", f"must be at most {MOST_RECORDS}.")
            asked = audit_pb.EraseRecordsRequest(
                indexes=request.indexes, order=_order(administrator, request.note)
            )
            if request.subject:
                asked.principal.CopyFrom(await self._principal(request))
            done = await self._audit.read("EraseRecords", asked)
            return msgspec.json.encode({"erased": done.erased, "index": done.index})

        return await self._do(ERASE, request, context, doing)

    async def LookUpPrincipal(self, request: pb.LookUpPrincipalRequest, context: Any) -> Any:
        """Tell the pseudonym of a principal, or the principal of a pseudonym."""

        async def doing(_: Principal) -> bytes:
            if bool(request.pseudonym) == bool(request.subject):
                msg = "name either a subject or a pseudonym."
                raise InvalidArgument.of_field("subject, pseudonym", msg)
            asked = audit_pb.LookUpPrincipalRequest(pseudonym=request.pseudonym)
            if request.subject:
                asked.principal.CopyFrom(_named(request))
            found = await self._audit.read("LookUpPrincipal", asked)
            return msgspec.json.encode(
                {
                    "tenant": found.principal.tenant,
                    "issuer": found.principal.issuer,
                    "subject": found.principal.subject,
                    "pseudonym": found.pseudonym,
                }
            )

        return await self._do(LOOK_UP, request, context, doing)

    async def _principal(self, request: Any) -> identity_pb2.Principal:
        """Return who is meant: the one known principal with the subject, or an API key's."""
        if not request.subject:
            raise InvalidArgument.of_field("subject", "is missing: whose records are meant?")
        named = _named(request)
        if named.tenant and named.issuer:
            return named
        with contextlib.suppress(NotFound):
            asked = audit_pb.LookUpPrincipalRequest(principal=named)
            known: identity_pb2.Principal = (
                await self._audit.read("LookUpPrincipal", asked)
            ).principal
            return known
        return identity_pb2.Principal(
            tenant=request.tenant or self._default_tenant,
            issuer=request.issuer or "apikey",
            subject=request.subject,
        )

    async def _do(
        self,
        surface: Surface,
        request: Any,
        context: Any,
        doing: Callable[[Principal], Awaitable[bytes]],
    ) -> httpbody_pb2.HttpBody:
        def read(body: bytes, most: int) -> Ask:
            json_requests.read(request)
            return _no_model(body, most)

        with ShapedErrors(context):
            header = http.request_headers(context)
            body = request.SerializeToString()
            way = msgspec.structs.replace(surface, read=read)
            call = http.read_call(context, header, way, body, time.monotonic())
            data, admission, record = await self._pipeline.read(call, doing)
            await context.send_initial_metadata(http.response_headers(admission, record))
            return httpbody_pb2.HttpBody(content_type=JSON, data=data)


def _named(request: Any) -> identity_pb2.Principal:
    return identity_pb2.Principal(
        tenant=request.tenant, issuer=request.issuer, subject=request.subject
    )


def _order(administrator: Principal, note: str) -> audit_pb.Order:
    if len(note) > LONGEST_NOTE:
        raise InvalidArgument.of_field("note", f"must be at most {LONGEST_NOTE} characters.")
    return audit_pb.Order(
        administrator=principal_message(administrator),
        request_id=logs.request_id.get(),
        note=note,
    )
