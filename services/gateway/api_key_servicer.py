"""The methods of AdminService that manage API keys: messages to orders, keys to JSON.

What is asked for is checked before anything is admitted; what is about to change is recorded before
it does, with the id of the key and never the key.
"""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

import msgspec
from google.api import httpbody_pb2

from services.common.errors import InvalidArgument, Unimplemented
from services.gateway import http, json_requests
from services.gateway.apikeys import order, text
from services.gateway.apikeys.administration import Administration, Change, Filter
from services.gateway.apikeys.documents import document, limits_document, written_document
from services.gateway.apikeys.ports import Observer, Written
from services.gateway.apikeys.wiring import ManagedKeys
from services.gateway.authorization import Scope
from services.gateway.calls import Ask, Surface, without_model
from services.gateway.pipeline import Pipeline
from services.gateway.principal import OwnLimits, Principal
from services.gateway.servicer import JSON, ShapedErrors
from weaver.gateway.v1 import admin_service_pb2 as pb

PAGE: Final = 100
LARGEST_PAGE: Final = 1_000
STATES: Final = ("", "active", "disabled", "expired")
_EDITED: Final = {
    "owner": "owner",
    "roles": "roles",
    "models": "models",
    "limits": "limits",
    "time_to_live_seconds": "life_s",
}
_SHOWN: Final = 512

Facts = dict[str, str]


def _surface(action: str, scope: Scope) -> Surface:
    return Surface(f"admin.api_keys.{action}", scope, without_model)


CREATE: Final = _surface("create", Scope.ADMIN)
UPDATE: Final = _surface("update", Scope.ADMIN)
DISABLE: Final = _surface("disable", Scope.ADMIN)
ENABLE: Final = _surface("enable", Scope.ADMIN)
ROTATE: Final = _surface("rotate", Scope.ADMIN)
LIST: Final = _surface("list", Scope.ADMIN_READ)
GET: Final = _surface("get", Scope.ADMIN_READ)


class ApiKeyMethods:
    """What `weaver.gateway.v1.AdminService` does with keys.

    Args:
        pipeline: authenticates, authorises and records.
        keys: None where no keys are managed.
        known_roles: tells which roles there are.
        default_tenant: the tenant of keys that are made without one.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        keys: ManagedKeys | None,
        known_roles: Callable[[], Collection[str]],
        default_tenant: str,
    ) -> None:
        """See the class."""
        self._pipeline = pipeline
        self._keys = keys
        self._known_roles = known_roles
        self._default_tenant = default_tenant

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Any) -> Any:
        """Make a key and show it, this once."""
        made = text.make()

        def plan() -> Facts:
            new = order.check_new(self._new(request), self._known_roles())
            return _facts("api_key_create", made.id, {"tenant": new.tenant, **_terms(new)})

        async def doing(administrator: Principal) -> bytes:
            written = await self._admin.create(made, self._new(request), _name(administrator))
            return self._shown("create", written, made.text)

        return await self._take(CREATE, request, context, plan, doing)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Any) -> Any:
        """List keys, the oldest first."""

        def plan() -> None:
            if request.state not in STATES:
                known = ", ".join(state for state in STATES if state)
                raise InvalidArgument.of_field("state", f"must be one of {known}.")
            if not 0 <= request.page_size <= LARGEST_PAGE:
                raise InvalidArgument.of_field("page_size", f"must be from 1 to {LARGEST_PAGE}.")
            token = request.page_token
            if token and not (token.isascii() and token.isdecimal() and len(token) <= 10):  # noqa: PLR2004 - a rank
                raise InvalidArgument.of_field("page_token", "must come from the last response.")

        async def doing(_: Principal) -> bytes:
            wanted = Filter(request.tenant, request.owner, request.state)
            size, start = request.page_size or PAGE, int(request.page_token or 0)
            keys, more = await self._admin.page(wanted, start, size)
            now = self._admin.now()
            answer = {
                "api_keys": [document(key, now) for key in keys],
                "next_page_token": "" if more is None else str(more),
            }
            return msgspec.json.encode(answer)

        return await self._take(LIST, request, context, plan, doing)

    async def GetApiKey(self, request: pb.GetApiKeyRequest, context: Any) -> Any:
        """Return a key, without the key itself."""

        def plan() -> None:
            order.check_id(request.id)

        async def doing(_: Principal) -> bytes:
            return msgspec.json.encode(
                document(await self._admin.get(request.id), self._admin.now())
            )

        return await self._take(GET, request, context, plan, doing)

    async def UpdateApiKey(self, request: pb.UpdateApiKeyRequest, context: Any) -> Any:
        """Change what a key may do, or who answers for it."""

        def plan() -> Facts:
            edit = order.check_edit(_edit(request), self._known_roles())
            return _facts("api_key_update", order.check_id(request.id), _terms(edit))

        def change() -> Change:
            return _edit(request).applied

        return await self._change(UPDATE, request, context, plan, change)

    async def DisableApiKey(self, request: pb.DisableApiKeyRequest, context: Any) -> Any:
        """Disable a key."""

        def plan() -> Facts:
            return _facts("api_key_disable", order.check_id(request.id))

        return await self._change(
            DISABLE, request, context, plan, lambda: lambda key, _: key.switched(disabled=True)
        )

    async def EnableApiKey(self, request: pb.EnableApiKeyRequest, context: Any) -> Any:
        """Enable a key."""

        def plan() -> Facts:
            return _facts("api_key_enable", order.check_id(request.id))

        return await self._change(
            ENABLE, request, context, plan, lambda: lambda key, _: key.switched(disabled=False)
        )

    async def RotateApiKey(self, request: pb.RotateApiKeyRequest, context: Any) -> Any:
        """Give a key a new secret and show it, this once."""

        def overlap() -> int:
            return order.check_overlap(request.overlap_seconds, none=request.without_overlap)

        def plan() -> Facts:
            facts = {"overlap_seconds": str(overlap())}
            return _facts("api_key_rotate", order.check_id(request.id), facts)

        async def doing(administrator: Principal) -> bytes:
            made = text.make(request.id)
            written = await self._admin.change(
                request.id,
                lambda key, now: key.rotated(made.text, overlap_s=overlap(), now=now),
                _name(administrator),
            )
            return self._shown("rotate", written, made.text)

        return await self._take(ROTATE, request, context, plan, doing)

    async def _change(
        self,
        surface: Surface,
        request: Any,
        context: Any,
        plan: Callable[[], Facts],
        change: Callable[[], Change],
    ) -> httpbody_pb2.HttpBody:
        async def doing(administrator: Principal) -> bytes:
            written = await self._admin.change(request.id, change(), _name(administrator))
            return self._shown(surface.name.rpartition(".")[2], written)

        return await self._take(surface, request, context, plan, doing)

    def _shown(self, action: str, written: Written, key: str = "") -> bytes:
        """Return a changed key as JSON, with its text where it is new."""
        self._reports.changed(action, safe=written.safe)
        shown = written_document(written, self._admin.now())
        return msgspec.json.encode({"id": written.key.id, "key": key} | shown if key else shown)

    @property
    def _admin(self) -> Administration:
        return self._managed.administration

    @property
    def _reports(self) -> Observer:
        return self._managed.reports

    @property
    def _managed(self) -> ManagedKeys:
        if self._keys is None:
            msg = "No API keys are managed here: set REDIS_HOST or WEAVER_API_KEY_STORE."
            raise Unimplemented(msg)
        return self._keys

    def _new(self, request: pb.CreateApiKeyRequest) -> order.NewKey:
        return order.NewKey(
            request.tenant or self._default_tenant,
            request.owner,
            tuple(request.roles) or ("user",),
            tuple(request.models),
            _limits(request.limits),
            request.time_to_live_seconds,
        )

    async def _take(
        self,
        surface: Surface,
        request: Any,
        context: Any,
        plan: Callable[[], Facts | None],
        doing: Callable[[Principal], Awaitable[bytes]],
    ) -> httpbody_pb2.HttpBody:
        """Take a request through the pipeline; its plan is checked once its caller may ask."""

        def read(body: bytes, _most: int) -> Ask:
            _ = self._managed
            json_requests.read(request)
            plan()
            return without_model(body)

        facts: Callable[[], Mapping[str, str]] | None = None
        if surface.scope is Scope.ADMIN:
            facts = lambda: plan() or {}  # noqa: E731 - the plan of a change has facts
        with ShapedErrors(context):
            header = http.request_headers(context)
            body = request.SerializeToString()
            way = msgspec.structs.replace(surface, read=read)
            call = http.read_call(context, header, way, body, time.monotonic())
            data, admission, record = await self._pipeline.read(call, doing, order=facts)
            await context.send_initial_metadata(http.response_headers(admission, record))
            return httpbody_pb2.HttpBody(content_type=JSON, data=data)


def _edit(request: pb.UpdateApiKeyRequest) -> order.Edit:
    paths = list(request.update_mask.paths)
    if not paths or not set(paths) <= set(_EDITED):
        known = ", ".join(_EDITED)
        raise InvalidArgument.of_field("update_mask", f"must name fields of {known}.")
    values = {
        "owner": request.owner,
        "roles": tuple(request.roles),
        "models": tuple(request.models),
        "limits": _limits(request.limits),
        "time_to_live_seconds": request.time_to_live_seconds,
    }
    return order.Edit(**{_EDITED[path]: values[path] for path in paths})  # type: ignore[arg-type] # each field has its own type


def _limits(limits: pb.ApiKeyLimits) -> OwnLimits:
    return OwnLimits(
        limits.requests_per_second,
        limits.burst,
        limits.tokens_per_minute,
        limits.tokens_per_day,
        limits.cost_micros_per_day,
        limits.cost_micros_per_month,
        limits.concurrency,
    )


def _name(principal: Principal) -> str:
    return f"{principal.issuer}:{principal.subject}"


def _terms(asked: order.NewKey | order.Edit) -> Facts:
    """Return what a key is to be allowed, as the log keeps it; who answers for it is no part."""
    facts: Facts = {}
    if asked.roles is not None:
        facts["roles"] = " ".join(asked.roles)[:_SHOWN]
    if asked.models is not None:
        facts["models"] = " ".join(asked.models)[:_SHOWN]
    if asked.limits is not None:
        facts["limits"] = msgspec.json.encode(limits_document(asked.limits)).decode()
    if asked.life_s is not None:
        facts["time_to_live_seconds"] = str(asked.life_s)
    if isinstance(asked, order.Edit) and asked.owner is not None:
        facts["owner"] = "changed"
    return facts


def _facts(action: str, id_: str, more: Facts | None = None) -> Facts:
    return {"action": action, "key": id_, **(more or {})}
