"""ModelService: from the wire to the room and back. It decides nothing."""

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Protocol

from google.protobuf.duration_pb2 import Duration

from services.common.errors import InvalidArgument
from services.model.call import Answer, Call, Dialect, Generation, Headers, Usage
from services.model.ports import AnswerStream
from services.model.route import STAR, Routes
from services.model.trial import told
from weaver.common.v1 import usage_pb2
from weaver.model.v1 import model_service_pb2 as pb
from weaver.model.v1 import model_service_pb2_grpc

_DIALECTS: Mapping[pb.Dialect.ValueType, Dialect] = {
    pb.DIALECT_OPENAI_CHAT: Dialect.OPENAI_CHAT,
    pb.DIALECT_OPENAI_RESPONSES: Dialect.OPENAI_RESPONSES,
    pb.DIALECT_OPENAI_EMBEDDINGS: Dialect.OPENAI_EMBEDDINGS,
    pb.DIALECT_ANTHROPIC_MESSAGES: Dialect.ANTHROPIC_MESSAGES,
    pb.DIALECT_ANTHROPIC_COUNT_TOKENS: Dialect.ANTHROPIC_COUNT_TOKENS,
}


class Context(Protocol):
    """What is used of a gRPC context."""

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None without one."""
        ...


class Answers(Protocol):
    """What is served: a `Generator`, or the cache before it."""

    @property
    def routes(self) -> Routes:
        """The public models."""
        ...

    async def generate(self, call: Call) -> tuple[Answer, Generation]:
        """Return the whole answer and what is known about it."""
        ...

    async def open(self, call: Call) -> AnswerStream:
        """Return the answer as a stream, once its first event is here."""
        ...


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Serves answers."""

    def __init__(self, generator: Answers) -> None:
        """See the class."""
        self._generator = generator

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """Call a provider and return its whole answer."""
        call = _call(request, context.time_remaining())
        answer, generation = await self._generator.generate(call)
        return pb.GenerateResponse(
            body=answer.body,
            content_type=answer.content_type,
            headers=_headers((*answer.headers, *told(generation.attempts))),
            generation=_generation(generation),
        )

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        """Call a provider and stream its answer; ending the stream ends the call."""
        stream = await self._generator.open(_call(request.request, context.time_remaining()))
        try:
            start = pb.StreamStart(
                content_type=stream.content_type, headers=_headers(stream.headers)
            )
            yield pb.GenerateStreamResponse(start=start)
            while (chunk := await stream.read()) is not None:
                yield pb.GenerateStreamResponse(
                    chunk=pb.StreamChunk(body=chunk.body, terminal=chunk.terminal)
                )
            end = pb.StreamEnd(generation=_generation(stream.generation()))
            if stream.error is not None:
                end.error = stream.error.reason
                end.error_message = stream.error.message
            yield pb.GenerateStreamResponse(end=end)
        finally:
            await stream.aclose()

    async def ListModels(
        self,
        request: pb.ListModelsRequest,  # noqa: ARG002 - it is empty
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> pb.ListModelsResponse:
        """List the public models with their limits and prices."""
        return pb.ListModelsResponse(
            models=(
                pb.Model(
                    id=route.name,
                    provider=route.targets[0].provider.name,
                    context_tokens=route.context_tokens,
                    max_output_tokens=route.max_output_tokens,
                    input_price_micros=max(
                        route.dearest.input_micros, route.dearest.cache_write_micros or 0
                    ),
                    output_price_micros=route.dearest.output_micros,
                    price_version=route.dearest.version,
                    dialects=_spoken(route.dialects),
                    created=route.created,
                    pattern=STAR in route.name,
                    roles=route.roles,
                    capabilities=route.capabilities,
                )
                for route in self._generator.routes
            )
        )


def _call(request: pb.GenerateRequest, timeout_s: float | None) -> Call:
    dialect = _DIALECTS.get(request.dialect)
    if dialect is None:
        raise InvalidArgument.of_field(field="dialect", description="must be one that exists.")
    principal = request.principal
    return Call(
        request.request_id,
        dialect,
        request.model,
        request.body,
        tuple((header.name.lower(), header.value) for header in request.headers),
        timeout_s,
        request.max_output_tokens,
        (principal.tenant, principal.issuer, principal.subject),
    )


def _headers(headers: Headers) -> Iterable[pb.Header]:
    return [pb.Header(name=name, value=value) for name, value in headers]


def _spoken(dialects: frozenset[Dialect]) -> list[pb.Dialect.ValueType]:
    return [key for key, dialect in _DIALECTS.items() if dialect in dialects]


def _generation(generation: Generation) -> pb.Generation:
    return pb.Generation(
        provider=generation.provider,
        model=generation.model,
        usage=_usage(generation.usage),
        cost_micros=generation.cost_micros,
        price_version=generation.price_version,
        attempts=[
            pb.Attempt(
                provider=attempt.provider,
                model=attempt.model,
                http_status=attempt.http_status,
                error=attempt.error,
                duration=_duration(attempt.duration_s),
            )
            for attempt in generation.attempts
        ],
        finish_reason=generation.finish_reason,
        upstream_duration=_duration(generation.upstream_duration_s),
        cache=generation.cache,
        cache_of=generation.cache_of,
    )


def _usage(usage: Usage) -> usage_pb2.Usage:
    return usage_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        cache_write_input_tokens=usage.cache_write_input_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        estimated=usage.estimated,
    )


def _duration(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))
