"""The model service in process and over gRPC, and a client that reaches it either way."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, cast

from services.common import channel
from services.common.component import Component
from services.common.local import LocalChannel
from services.common.server import Listener, start_server
from services.common.settings import load
from services.model.settings import ModelSettings
from services.model.wiring import build
from weaver.model.v1 import model_service_pb2 as pb
from weaver.model.v1 import model_service_pb2_grpc

ODD = b'{"temperature":1e0, "model":"m",\n"top_p":1.0,"messages":[{"content":"hi"}],"new":{}}'
STREAM = b'{"stream":true,"model":"m","messages":[{"role":"user","content":"one two three"}]}'
OPENAI = {"provider": "openai", "model_name": "m", "api_key": "sk-provider", "retries": 1}
Start = Callable[..., Awaitable["Service"]]


class Service:
    """The service, and a stub that reaches it."""

    def __init__(self, component: Component, stub: Any) -> None:
        self.component = component
        self._stub = stub

    async def generate(
        self,
        body: bytes = ODD,
        dialect: pb.Dialect.ValueType = pb.DIALECT_OPENAI_CHAT,
        *,
        model: str = "m",
        timeout_s: float = 5,
    ) -> pb.GenerateResponse:
        request = _request(body, dialect, model)
        answer = await channel.call(self._stub.Generate, request, timeout_s=timeout_s)
        assert isinstance(answer, pb.GenerateResponse)
        return answer

    def stream(self, body: bytes = STREAM) -> AsyncGenerator[pb.GenerateStreamResponse, None]:
        request = pb.GenerateStreamRequest(request=_request(body, pb.DIALECT_OPENAI_CHAT, "m"))
        steps = channel.stream(self._stub.GenerateStream, request)
        return cast("AsyncGenerator[pb.GenerateStreamResponse, None]", steps)

    async def models(self) -> list[pb.Model]:
        answer = await channel.call(self._stub.ListModels, pb.ListModelsRequest(), timeout_s=5)
        return list(answer.models)


def _request(body: bytes, dialect: pb.Dialect.ValueType, model: str) -> pb.GenerateRequest:
    headers = [
        pb.Header(name="Authorization", value="Bearer client"),
        pb.Header(name="OpenAI-Project", value="p"),
    ]
    return pb.GenerateRequest(
        request_id="r-1", dialect=dialect, model=model, body=body, headers=headers
    )


def starter(kind: str, stack: AsyncExitStack) -> Start:
    """Return what starts the service with changed settings, `local` or over `grpc`."""

    async def start(**changes: object) -> Service:
        settings = load(ModelSettings, **{"mtls_enabled": False, "audit_address": "", **changes})
        component = await build(settings, stack)
        if kind == "local":
            local = LocalChannel("gateway")
            component.register(local)
            return Service(component, model_service_pb2_grpc.ModelServiceStub(cast("Any", local)))
        listeners = [Listener("127.0.0.1:0")]
        handle = await start_server(
            component, settings, stack, listeners, allowed_clients=("gateway",)
        )
        opened = channel.open_channel(handle.addresses[0], settings, own="gateway", peer="model")
        stack.push_async_callback(opened.close)
        return Service(component, model_service_pb2_grpc.ModelServiceStub(opened))

    return start


async def collect(
    steps: AsyncIterator[pb.GenerateStreamResponse],
) -> tuple[pb.StreamStart, list[pb.StreamChunk], pb.StreamEnd]:
    found = [step async for step in steps]
    assert found[0].WhichOneof("step") == "start"
    assert found[-1].WhichOneof("step") == "end"
    return found[0].start, [step.chunk for step in found[1:-1]], found[-1].end
