"""GatewayService on the wire: messages to calls, answers and errors back. No decisions."""

import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import TracebackType
from typing import Any

import msgspec
from google.api import httpbody_pb2

from services.common import logs
from services.common.errors import Internal, Unavailable, WeaverError
from services.common.interceptors.call_metrics import waited
from services.gateway import anthropic, http, openai, responses, typed
from services.gateway.apikeys.documents import grant_document
from services.gateway.authorization import Scope
from services.gateway.calls import CACHE_CONTROL, Ask, StreamedResponse, Surface, WholeResponse
from services.gateway.catalogue import unknown_model
from services.gateway.event_redaction import MessageRedactor, ResponseRedactor
from services.gateway.health import HealthReport
from services.gateway.limit_reader import LimitReader, unavailable_json, usage_json
from services.gateway.pipeline import Pipeline
from weaver.gateway.v1 import gateway_service_pb2 as pb
from weaver.gateway.v1 import gateway_service_pb2_grpc

JSON = "application/json"
VENDOR_BODY = "vendor_body"
ANTHROPIC_VERSION = "anthropic-version"
CHAT = Surface("chat.completions", Scope.GENERATE, openai.chat, "OPENAI_CHAT")
EMBEDDINGS = Surface("embeddings", Scope.GENERATE, openai.embeddings, "OPENAI_EMBEDDINGS")
RESPONSES = Surface(
    "responses",
    Scope.GENERATE,
    responses.responses,
    "OPENAI_RESPONSES",
    error_event=responses.error_event,
    redaction=ResponseRedactor,
)
_ANTHROPIC_HEADERS = ("anthropic-beta", ANTHROPIC_VERSION, "idempotency-key", CACHE_CONTROL)
MESSAGES = Surface(
    "messages",
    Scope.GENERATE,
    anthropic.messages,
    "ANTHROPIC_MESSAGES",
    headers=_ANTHROPIC_HEADERS,
    error_event=anthropic.error_event,
    redaction=MessageRedactor,
)
COUNT_TOKENS = Surface(
    "messages.count_tokens",
    Scope.GENERATE,
    anthropic.count_tokens,
    "ANTHROPIC_COUNT_TOKENS",
    headers=_ANTHROPIC_HEADERS,
)


def _no_body(body: bytes, _: int) -> Ask:
    return Ask("", body, stream=False, input_tokens=0, output_tokens=0)


HEALTH_DETAILS = Surface("health", Scope.ADMIN_READ, _no_body)


class ShapedErrors:
    """Gives errors the shape that a vendor's clients expect, beside their gRPC status.

    Args:
        context: gRPC's.
        error_body: writes an error as the vendor does.
    """

    __slots__ = ("_context", "_error_body")

    def __init__(
        self, context: Any, error_body: Callable[[WeaverError, str], bytes] = openai.error_body
    ) -> None:
        """See the class."""
        self._context = context
        self._error_body = error_body

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        """Put the error's body into the trailing metadata; the error goes on."""
        if not isinstance(error, Exception):
            return
        known = error if isinstance(error, WeaverError) else Internal("Internal error.")
        body = self._error_body(known, logs.request_id.get())
        self._context.set_trailing_metadata(http.error_trailers(known, body))
        # The provider's own body is in the trailers; twice would burst a client's header limit.
        known.metadata = {key: text for key, text in known.metadata.items() if key != VENDOR_BODY}


class GatewayServicer(gateway_service_pb2_grpc.GatewayServiceServicer):
    """See `weaver.gateway.v1.GatewayService`.

    Args:
        pipeline: takes model calls.
        health: reports how the suite is.
        limits: tells what callers have used.
        default_model: the model of typed calls that name none.
    """

    def __init__(
        self, pipeline: Pipeline, health: HealthReport, limits: LimitReader, default_model: str
    ) -> None:
        """See the class."""
        self._pipeline = pipeline
        self._health = health
        self._limits = limits
        self._generate = Surface(
            "generate", Scope.GENERATE, partial(typed.generate, default_model), "OPENAI_CHAT"
        )
        self._generate_stream = Surface(
            "generate", Scope.GENERATE, partial(typed.generate_stream, default_model), "OPENAI_CHAT"
        )

    async def Health(self, request: pb.HealthRequest, context: Any) -> Any:
        """Report whether the suite can serve, and the state of its parts."""
        with ShapedErrors(context):
            body, good = self._health.probe(request.probe)
        if not good:
            trailers = [(http.HTTP_STATUS, "503"), (http.ERROR_BODY, body.decode("ascii"))]
            context.set_trailing_metadata(trailers)
            raise self._health.error()
        return httpbody_pb2.HttpBody(content_type=JSON, data=body)

    async def GetHealthDetails(self, request: pb.GetHealthDetailsRequest, context: Any) -> Any:
        """Report everything to who may read what administrators see."""
        with ShapedErrors(context):
            header = http.request_headers(context)
            body = request.SerializeToString()
            call = http.read_call(context, header, HEALTH_DETAILS, body, time.monotonic())
            await self._pipeline.permit(call)
            return httpbody_pb2.HttpBody(content_type=JSON, data=self._health.body())

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Any) -> Any:
        """Tell a caller who they are taken for, and what they have used."""
        with ShapedErrors(context):
            principal = await self._pipeline.authenticate(http.request_headers(context))
            try:
                usages = await self._limits.usage(principal, request.model)
                usage = usage_json(usages, everything=False)
            except Unavailable as error:
                usage = unavailable_json(error)
            body = {
                "tenant": principal.tenant,
                "issuer": principal.issuer,
                "subject": principal.subject,
                "roles": list(principal.roles),
                "permissions": self._pipeline.permissions(principal).summary(),
                "api_key": grant_document(principal.grant),
                "usage": usage,
            }
            return httpbody_pb2.HttpBody(content_type=JSON, data=msgspec.json.encode(body))

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> Any:  # noqa: ARG002 - gRPC's signature
        """List the models that the caller may use, as the vendor whose client asks."""
        header = http.request_headers(context)
        vendor = anthropic if header(ANTHROPIC_VERSION) else openai
        with ShapedErrors(context, vendor.error_body):
            models = await self._pipeline.models(header)
            return httpbody_pb2.HttpBody(content_type=JSON, data=vendor.model_list(models))

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> Any:
        """Return one model that the caller may use, as the vendor whose client asks."""
        header = http.request_headers(context)
        vendor = anthropic if header(ANTHROPIC_VERSION) else openai
        with ShapedErrors(context, vendor.error_body):
            for model in await self._pipeline.models(header, request.id):
                data = msgspec.json.encode(vendor.model_json(model))
                return httpbody_pb2.HttpBody(content_type=JSON, data=data)
            raise unknown_model(request.id)

    async def ChatCompletions(  # type: ignore[override] # see interceptors.chain
        self, request: httpbody_pb2.HttpBody, context: Any
    ) -> httpbody_pb2.HttpBody:
        """Answer OpenAI chat completions, whole or streamed; the last message is returned."""
        return await self._answer(CHAT, request, context)

    async def Responses(  # type: ignore[override] # see interceptors.chain
        self, request: httpbody_pb2.HttpBody, context: Any
    ) -> httpbody_pb2.HttpBody:
        """Answer OpenAI responses, likewise."""
        return await self._answer(RESPONSES, request, context)

    async def Messages(  # type: ignore[override] # see interceptors.chain
        self, request: httpbody_pb2.HttpBody, context: Any
    ) -> httpbody_pb2.HttpBody:
        """Answer Anthropic messages, likewise."""
        return await self._answer(MESSAGES, request, context, anthropic.error_body)

    async def _answer(
        self,
        surface: Surface,
        request: httpbody_pb2.HttpBody,
        context: Any,
        error_body: Callable[[WeaverError, str], bytes] = openai.error_body,
    ) -> httpbody_pb2.HttpBody:
        """Answer whole or streamed, as the body asks; the last message is returned."""
        response = await self._run(surface, request.data, context, error_body)
        if isinstance(response, WholeResponse):
            return httpbody_pb2.HttpBody(content_type=response.content_type, data=response.body)
        try:
            content_type = response.content_type
            async for piece in response:
                message = httpbody_pb2.HttpBody(content_type=content_type, data=piece)
                await context.write(message.SerializeToString())
            last = httpbody_pb2.HttpBody(content_type=content_type, data=await response.last())
            waited.set((True, response.generation.upstream_duration_s))
            if response.record is not None:
                trailer = ("x-weaver-record", http.record_header(response.record))
                context.set_trailing_metadata([trailer])
            return last
        finally:
            await response.aclose()

    async def Embeddings(
        self, request: httpbody_pb2.HttpBody, context: Any
    ) -> httpbody_pb2.HttpBody:
        """Answer OpenAI embeddings."""
        response = await self._run(EMBEDDINGS, request.data, context)
        assert isinstance(response, WholeResponse)  # noqa: S101 - the surface never streams
        return httpbody_pb2.HttpBody(content_type=response.content_type, data=response.body)

    async def CountTokens(
        self, request: httpbody_pb2.HttpBody, context: Any
    ) -> httpbody_pb2.HttpBody:
        """Count the tokens of Anthropic messages."""
        response = await self._run(COUNT_TOKENS, request.data, context, anthropic.error_body)
        assert isinstance(response, WholeResponse)  # noqa: S101 - the surface never streams
        return httpbody_pb2.HttpBody(content_type=response.content_type, data=response.body)

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        """Answer a typed model call."""
        response = await self._run(self._generate, request.SerializeToString(), context)
        assert isinstance(response, WholeResponse)  # noqa: S101 - it did not ask for a stream
        text = typed.answer_text(response.body)
        return typed.response(text, response.generation, response.record, logs.request_id.get())

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: Any
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        """Stream the answer to a typed model call."""
        response = await self._run(self._generate_stream, request.SerializeToString(), context)
        assert not isinstance(response, WholeResponse)  # noqa: S101 - it asked for a stream
        try:
            async for piece in response:
                for text in typed.text_deltas(piece):
                    yield pb.GenerateStreamResponse(text_delta=text)
            last = await response.last()
            waited.set((True, response.generation.upstream_duration_s))
            for text in typed.text_deltas(last) if response.error is None else ():
                yield pb.GenerateStreamResponse(text_delta=text)
            yield self._typed_end(response)
        finally:
            await response.aclose()

    def _typed_end(self, response: StreamedResponse) -> pb.GenerateStreamResponse:
        request_id = logs.request_id.get()
        error = response.error
        if error is None:
            done = typed.response("", response.generation, response.record, request_id)
            return pb.GenerateStreamResponse(done=done)
        return pb.GenerateStreamResponse(
            error=pb.StreamError(reason=error.reason, message=error.message, request_id=request_id)
        )

    async def _run(
        self,
        surface: Surface,
        body: bytes,
        context: Any,
        error_body: Callable[[WeaverError, str], bytes] = openai.error_body,
    ) -> WholeResponse | StreamedResponse:
        """Take a call through the pipeline and send what goes before its answer."""
        arrived = time.monotonic()
        with ShapedErrors(context, error_body):
            header = http.request_headers(context)
            call = http.read_call(context, header, surface, body, arrived)
            response = await self._pipeline.run(call)
            whole = isinstance(response, WholeResponse)
            record = None
            if whole:
                record = response.record
                waited.set((False, response.generation.upstream_duration_s))
            headers = http.response_headers(response.admission, record, surface.name)
            try:
                await context.send_initial_metadata((*headers, *response.headers))
            except BaseException:
                if not isinstance(response, WholeResponse):
                    await response.aclose()
                raise
            return response
