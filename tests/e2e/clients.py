"""Real clients for the end-to-end tests: the official SDK, plain HTTP, generated stubs."""

import ssl
from pathlib import Path
from typing import Any, Protocol

import grpc
import httpx
import openai


class Running(Protocol):
    """A suite that is running; see `tests/e2e/conftest.py`."""

    url: str
    ca: Path
    api_key: str
    state_dir: Path


def trust(suite: Running) -> ssl.SSLContext:
    """Return a context that believes the suite's own CA, and checks names."""
    return ssl.create_default_context(cafile=str(suite.ca))


def sdk(suite: Running, **options: Any) -> openai.AsyncOpenAI:
    """Return the official OpenAI client, unmodified, pointed at the suite."""
    return openai.AsyncOpenAI(
        **{
            "base_url": f"{suite.url}/v1",
            "api_key": suite.api_key,
            "max_retries": 0,
            "http_client": openai.DefaultAsyncHttpxClient(verify=trust(suite)),
            **options,
        }
    )


def http(suite: Running, *, http2: bool = False, key: str | None = None) -> httpx.AsyncClient:
    """Return a plain HTTP client with the suite's key."""
    return httpx.AsyncClient(
        base_url=suite.url,
        verify=trust(suite),
        http1=not http2,
        http2=http2,
        headers={"authorization": f"Bearer {key or suite.api_key}"},
        timeout=30.0,
    )


def channel(suite: Running, address: str) -> grpc.aio.Channel:
    """Return a TLS channel, as an internal service would open it."""
    credentials = grpc.ssl_channel_credentials(suite.ca.read_bytes())
    options = [("grpc.max_receive_message_length", 64 * 1024 * 1024)]
    return grpc.aio.secure_channel(address, credentials, options=options)


def chat(content: str = "Hello!", **fields: Any) -> dict[str, Any]:
    """Return the body of a chat completion."""
    return {"model": "stub-model", "messages": [{"role": "user", "content": content}], **fields}
