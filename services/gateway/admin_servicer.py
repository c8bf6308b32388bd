"""AdminService on the wire: whoever may administer learns that nothing is administered here yet.

It authenticates, authorises and counts like every other surface, so that nobody else learns even
that.
"""

import time
from typing import Any

from services.common.errors import Unimplemented
from services.gateway import http
from services.gateway.authorization import Scope
from services.gateway.calls import Ask, Surface
from services.gateway.pipeline import Pipeline
from services.gateway.principal import Principal
from services.gateway.servicer import ShapedErrors
from weaver.gateway.v1 import admin_service_pb2_grpc


def _unserved(_: bytes, __: int) -> Ask:
    raise Unimplemented("Administration is not served here yet.")


ADMIN = Surface("admin", Scope.ADMIN, _unserved)


class AdminServicer(admin_service_pb2_grpc.AdminServiceServicer):
    """See `weaver.gateway.v1.AdminService`.

    Args:
        pipeline: authenticates, authorises and counts.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        """See the class."""
        self._pipeline = pipeline

    async def _refuse(self, request: Any, context: Any) -> Any:
        with ShapedErrors(context):
            header = http.request_headers(context)
            body = request.SerializeToString()
            call = http.read_call(context, header, ADMIN, body, time.monotonic())
            return (await self._pipeline.read(call, _nothing))[0]

    CreateApiKey = _refuse
    ListApiKeys = _refuse
    GetApiKey = _refuse
    DisableApiKey = _refuse
    RotateApiKey = _refuse
    GetUsage = _refuse
    GetPolicies = _refuse


async def _nothing(_: Principal) -> None:
    """Do nothing: reading the request has refused it already."""
