"""The model service over its stub."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from services.common.channel import call as rpc
from services.common.channel import stream as rpc_stream
from services.common.errors import Unavailable, WeaverError
from services.gateway.audit_client import principal_message
from services.gateway.events import Usage
from services.gateway.ports import (
    Answer,
    Generation,
    ModelCall,
    ModelInfo,
    StreamChunk,
    StreamEnd,
    StreamStart,
    StreamStep,
)
from weaver.model.v1 import model_service_pb2 as pb
from weaver.model.v1 import model_service_pb2_grpc

SERVICE = "weaver.model.v1.ModelService"
IDEMPOTENT = (f"/{SERVICE}/ListModels",)
LIST_TIMEOUT_S = 2.0
_PREFIX = "DIALECT_"


class ModelClient:
    """The port `Model`.

    Args:
        channel: to the model service.
    """

    def __init__(self, channel: Any) -> None:  # noqa: ANN401 - gRPC's or local
        """See the class."""
        self._stub = model_service_pb2_grpc.ModelServiceStub(channel)

    async def generate(self, call: ModelCall, *, timeout_s: float) -> Answer:
        """Return the whole answer."""
        try:
            response = await rpc(self._stub.Generate, _request(call), timeout_s=timeout_s)
        except WeaverError as error:
            raise _caller_error(error) from error
        return Answer(
            response.body,
            response.content_type,
            _headers(response.headers),
            _generation(response.generation),
        )

    async def stream(self, call: ModelCall) -> AsyncGenerator[StreamStep, None]:
        """Stream the answer."""
        request = pb.GenerateStreamRequest(request=_request(call))
        steps = rpc_stream(self._stub.GenerateStream, request)
        try:
            async with aclosing(steps):
                async for step in steps:
                    if step.HasField("end"):
                        # It is the last: the call ends by itself, and not because we leave.
                        await anext(steps, None)
                    yield _step(step)
        except WeaverError as error:
            raise _caller_error(error) from error

    async def models(self) -> Sequence[ModelInfo]:
        """Return every public model."""
        try:
            response = await rpc(
                self._stub.ListModels, pb.ListModelsRequest(), timeout_s=LIST_TIMEOUT_S
            )
        except WeaverError as error:
            raise _caller_error(error) from error
        return [
            ModelInfo(
                model.id,
                model.provider,
                model.context_tokens,
                model.max_output_tokens,
                model.input_price_micros,
                model.output_price_micros,
                model.created,
                model.pattern,
                tuple(model.roles),
                frozenset(map(_dialect, model.dialects)),
            )
            for model in response.models
        ]


def _dialect(number: pb.Dialect.ValueType) -> str:
    return pb.Dialect.Name(number).removeprefix(_PREFIX)


def _caller_error(error: WeaverError) -> WeaverError:
    """Say in the caller's words that the model service itself cannot be reached."""
    own = error.reason in {"OVERLOADED", "CANCELLED", "PEER_NOT_ALLOWED"}
    if isinstance(error, Unavailable) and own:
        msg = "The model service cannot be reached. Try again."
        return Unavailable(msg, reason="MODEL_UNAVAILABLE", retry_after_s=1.0)
    return error


def _request(call: ModelCall) -> pb.GenerateRequest:
    request = pb.GenerateRequest(
        request_id=call.request_id,
        dialect=pb.Dialect.Value(_PREFIX + call.dialect),
        model=call.model,
        body=call.body,
        principal=principal_message(call.principal),
        max_output_tokens=call.max_output_tokens,
    )
    for name, value in call.headers:
        request.headers.add(name=name, value=value)
    return request


def _step(step: pb.GenerateStreamResponse) -> StreamStep:
    kind = step.WhichOneof("step")
    if kind == "chunk":
        return StreamChunk(step.chunk.body, step.chunk.terminal)
    if kind == "start":
        return StreamStart(step.start.content_type, _headers(step.start.headers))
    return StreamEnd(_generation(step.end.generation), step.end.error, step.end.error_message)


def _headers(headers: Sequence[pb.Header]) -> tuple[tuple[str, str], ...]:
    return tuple((header.name, header.value) for header in headers)


def _generation(message: pb.Generation) -> Generation:
    usage = message.usage
    return Generation(
        message.provider,
        message.model,
        Usage(
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_input_tokens,
            usage.cache_write_input_tokens,
            usage.reasoning_tokens,
            usage.estimated,
        ),
        message.cost_micros,
        message.price_version,
        len(message.attempts),
        message.finish_reason,
        message.upstream_duration.seconds + message.upstream_duration.nanos / 1e9,
        _tries(message) if len(message.attempts) > 1 else "",
        message.cache,
        message.cache_of,
    )


def _tries(message: pb.Generation) -> str:
    return ", ".join(
        f"{one.provider}/{one.model} {one.error.lower() or 'ok'} {one.http_status or '-'}"
        for one in message.attempts
    )
