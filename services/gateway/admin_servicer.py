"""AdminService on the wire: usage and policies here, API keys in `api_key_servicer`.

It authenticates, authorises and counts like every other surface, and what is read is recorded
before it is answered.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import msgspec
from google.api import httpbody_pb2

from services.common.errors import InvalidArgument, NotFound
from services.gateway import http
from services.gateway.api_key_servicer import ApiKeyMethods
from services.gateway.apikeys.text import is_id
from services.gateway.apikeys.wiring import ManagedKeys
from services.gateway.authorization import Scope
from services.gateway.calls import Ask, Surface
from services.gateway.limit_reader import LimitReader, usage_json
from services.gateway.pipeline import Pipeline
from services.gateway.principal import Principal
from services.gateway.servicer import JSON, ShapedErrors
from weaver.gateway.v1 import admin_service_pb2 as pb
from weaver.gateway.v1 import admin_service_pb2_grpc

API_KEY = "apikey"
LONGEST_NAME = 256
MOST_ROLES = 32


def _no_model(body: bytes, _: int) -> Ask:
    return Ask("", body, stream=False, input_tokens=0, output_tokens=0)


USAGE = Surface("admin.usage", Scope.ADMIN_READ, _no_model)
POLICIES = Surface("admin.policies", Scope.ADMIN_READ, _no_model)


class AdminServicer(ApiKeyMethods, admin_service_pb2_grpc.AdminServiceServicer):
    """See `weaver.gateway.v1.AdminService`.

    Args:
        pipeline: authenticates, authorises and records.
        limits: tells usage and the limiter's policy.
        policies: tells what else the deployment has decided.
        default_tenant: the tenant of principals that are named without one.
        api_key_roles: the roles of the environment's API keys, where none are named.
        keys: the managed keys; None where there are none.
        known_roles: tells which roles there are.
    """

    def __init__(  # noqa: PLR0913 - each is one neighbour or one declared choice
        self,
        pipeline: Pipeline,
        limits: LimitReader,
        policies: Callable[[], Mapping[str, object]],
        *,
        default_tenant: str,
        api_key_roles: tuple[str, ...],
        keys: ManagedKeys | None,
        known_roles: Callable[[], Collection[str]],
    ) -> None:
        """See the class."""
        super().__init__(pipeline, keys, known_roles, default_tenant)
        self._limits = limits
        self._policies = policies
        self._api_key_roles = api_key_roles

    async def GetUsage(self, request: pb.GetUsageRequest, context: Any) -> Any:
        """Tell what a principal has used of each limit, rules in shadow mode too."""

        async def reading(_: Principal) -> bytes:
            principal = await self._principal(request)
            usages = await self._limits.usage(principal, request.model)
            whose = {
                "tenant": principal.tenant,
                "issuer": principal.issuer,
                "subject": principal.subject,
                "roles": list(principal.roles),
                "model": request.model or None,
            }
            return msgspec.json.encode(whose | usage_json(usages, everything=True))

        return await self._read(USAGE, request, context, reading)

    async def GetPolicies(self, request: pb.GetPoliciesRequest, context: Any) -> Any:
        """Tell which policies are in force."""

        async def reading(_: Principal) -> bytes:
            limits = await self._limits.policy()
            return msgspec.json.encode({"limits": limits, "gateway": dict(self._policies())})

        return await self._read(POLICIES, request, context, reading)

    async def _principal(self, request: pb.GetUsageRequest) -> Principal:
        if not request.subject:
            raise InvalidArgument.of_field("subject", "is missing: whose usage is meant?")
        for field in ("tenant", "issuer", "subject", "model"):
            if len(getattr(request, field)) > LONGEST_NAME:
                raise InvalidArgument.of_field(field, f"must be at most {LONGEST_NAME} characters.")
        if len(request.roles) > MOST_ROLES:
            raise InvalidArgument.of_field("roles", f"must be at most {MOST_ROLES}.")
        issuer = request.issuer or API_KEY
        if issuer == API_KEY and self._keys is not None and is_id(request.subject):
            with contextlib.suppress(NotFound):
                key = await self._keys.administration.get(request.subject)
                if request.tenant in {"", key.tenant}:
                    # It is counted by its own roles and limits, whatever is asked.
                    return key.principal(key.secrets[0])
        roles = tuple(request.roles) or (self._api_key_roles if issuer == API_KEY else ())
        return Principal(
            request.tenant or self._default_tenant,
            issuer,
            request.subject,
            tuple(sorted(set(roles))),
        )

    async def _read(
        self,
        surface: Surface,
        request: Any,
        context: Any,
        reading: Callable[[Principal], Awaitable[bytes]],
    ) -> httpbody_pb2.HttpBody:
        with ShapedErrors(context):
            header = http.request_headers(context)
            body = request.SerializeToString()
            call = http.read_call(context, header, surface, body, time.monotonic())
            data, admission, record = await self._pipeline.read(call, reading)
            await context.send_initial_metadata(http.response_headers(admission, record))
            return httpbody_pb2.HttpBody(content_type=JSON, data=data)
