"""A scripted component behind a real server, and clients of it."""

from contextlib import AsyncExitStack
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from services.common.channel import open_channel
from services.common.component import Component
from services.common.server import Listener, ServerHandle, start_server
from services.common.settings import CommonSettings
from tests.fakes.limits import ScriptedLimits, ScriptedModel, component
from weaver.model.v1 import model_service_pb2_grpc
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

LOCAL = "127.0.0.1:0"


class Suite:
    """A component being served, and clients of it."""

    def __init__(self, settings: CommonSettings, stack: AsyncExitStack) -> None:
        self.settings = settings
        self.stack = stack
        self.limits = ScriptedLimits()
        self.model = ScriptedModel()
        self.component: Component = component(self.limits, self.model)

    async def serve(self, *listeners: Listener, **options: Any) -> ServerHandle:
        options.setdefault("allowed_clients", ("gateway",))
        return await start_server(
            self.component, self.settings, self.stack, listeners or (Listener(LOCAL),), **options
        )

    def channel(self, address: str, own: str = "gateway", peer: str = "ratelimit") -> Any:
        channel = open_channel(address, self.settings, own=own, peer=peer)
        self.stack.push_async_callback(channel.close)
        return channel

    def stub(self, address: str, own: str = "gateway", peer: str = "ratelimit") -> Any:
        return ratelimit_service_pb2_grpc.RateLimitServiceStub(self.channel(address, own, peer))

    def health(self, channel: Any) -> Any:
        """Return a health stub; the stubs' types do not know its methods."""
        return health_pb2_grpc.HealthStub(channel)

    def stranger(self, address: str) -> grpc.aio.Channel:
        """Return a channel of someone without a certificate."""
        authority = (self.settings.tls_path / "ca.pem").read_bytes()
        credentials = grpc.ssl_channel_credentials(authority)
        return self.raw(grpc.aio.secure_channel(address, credentials))

    def raw(self, channel: grpc.aio.Channel) -> grpc.aio.Channel:
        self.stack.push_async_callback(channel.close)
        return channel

    def model_stub(self, address: str) -> Any:
        return model_service_pb2_grpc.ModelServiceStub(self.channel(address))
