"""Each service started by itself with production settings, as an operator deploys them."""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from services.common import certificates
from services.common.settings import CommonSettings, load
from tests.e2e.conftest import listen_on_free_ports
from tests.fakes.upstream import Upstream
from tests.fakes.valkey import Valkey
from weaver.gateway.v1 import gateway_service_pb2 as pb
from weaver.gateway.v1 import gateway_service_pb2_grpc

SERVICES = ("audit", "ratelimit", "model", "gateway")


@pytest.fixture(scope="module")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
async def environment(
    tmp_path: Path, private_key: rsa.RSAPrivateKey
) -> AsyncIterator[dict[str, str]]:
    """Production settings: certificates, keys, a store and a provider, nothing made by itself."""
    certificates.ensure(load(CommonSettings, state_dir=tmp_path / "made"))
    keys = tmp_path / "keys"
    weaver("keys", "generate", "--bits", "3072", "--directory", str(keys))
    made = {path.name: path for path in keys.iterdir()}
    (rsa_key,) = (path for name, path in made.items() if "signing" in name)
    (ed25519_key,) = (path for name, path in made.items() if "ed25519" in name)
    public = private_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    listens = {k: v for k, v in listen_on_free_ports().items() if "ENVOY" not in k}
    with Valkey(tmp_path) as valkey:
        async with Upstream() as upstream:
            yield {
                "PATH": os.environ["PATH"],
                **listens,
                **{
                    f"WEAVER_{name}_ADDRESS": listens[f"WEAVER_{name}_LISTEN"]
                    for name in ("RATELIMIT", "MODEL", "AUDIT")
                },
                "ENVIRONMENT": "production",
                "WEAVER_STATE_DIR": str(tmp_path / "state"),
                "WEAVER_TLS_DIR": str(tmp_path / "made" / "tls"),
                "WEAVER_AUDIT_PATH": str(tmp_path / "log"),
                "WEAVER_AUTH_MODE": "jwt",
                # As an operator writes a PEM into one line of a file of variables.
                "WEAVER_JWT_PUBLIC_KEY": public.decode().replace("\n", "\\n"),
                "WEAVER_TELEMETRY_SIGNING_KEY_FILE": str(rsa_key),
                "WEAVER_AUDIT_ED25519_KEY_FILE": str(ed25519_key),
                "WEAVER_AUDIT_STORE_KEY": secrets.token_hex(32),
                "WEAVER_MODEL_PROVIDER": "openai",
                "WEAVER_MODEL_NAME": "gpt-4",
                "WEAVER_MODEL_ENDPOINT": upstream.base_url,
                "WEAVER_MODEL_API_KEY": "sk-provider",
                "REDIS_UNIX_SOCKET": str(valkey.socket),
            }


@contextlib.contextmanager
def running(environment: dict[str, str]) -> Any:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"services.{name}"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in SERVICES
    ]
    try:
        yield processes
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=30)[1] for process in reversed(processes)]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    assert "sk-provider" not in "".join(said)


async def first_answer(stub: Any, ask: pb.GenerateRequest, token: str) -> pb.GenerateResponse:
    """Return the answer to a call, made again while the services are starting."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(grpc.aio.AioRpcError):
            credential = ("authorization", f"Bearer {token}")
            answer: pb.GenerateResponse = await stub.Generate(
                ask, metadata=(credential,), timeout=5
            )
            return answer
        await asyncio.sleep(0.1)
    raise AssertionError("no answer within 20 s")


def weaver(*arguments: str) -> None:
    """Run the command line; it must succeed."""
    command = [sys.executable, "-m", "services.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_the_suite_runs_with_production_settings(
    environment: dict[str, str], private_key: rsa.RSAPrivateKey, tmp_path: Path
) -> None:
    claims = {"sub": "ann", "tenant": "acme", "iss": "idp", "exp": time.time() + 600}
    token = jwt.encode(claims | {"roles": ["user"]}, private_key, algorithm="RS256")
    credentials = grpc.ssl_channel_credentials((tmp_path / "made/tls/ca.pem").read_bytes())
    address = environment["WEAVER_GATEWAY_LISTEN"]
    with running(environment):
        async with grpc.aio.secure_channel(address, credentials) as channel:
            stub = gateway_service_pb2_grpc.GatewayServiceStub(channel)
            ask = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, text="hello")])
            answer = await first_answer(stub, ask, token)
            assert answer.text == "You said: hello"
            assert answer.record.origin == "weaver.local/production/audit-0"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Generate(ask, timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    weaver("audit", "verify", str(tmp_path / "log"))


@pytest.mark.parametrize(
    ("service", "change", "variable"),
    [
        ("audit", {"WEAVER_TELEMETRY_SIGNING_KEY_FILE": None}, "WEAVER_TELEMETRY_SIGNING_KEY"),
        ("audit", {"WEAVER_TELEMETRY_SIGNING_ENABLED": "false"}, "WEAVER_TELEMETRY_SIGNING"),
        ("audit", {"WEAVER_AUDIT_STORE_KEY": None}, "WEAVER_AUDIT_STORE_KEY"),
        ("gateway", {"WEAVER_AUDIT_ON_FAILURE": "allow"}, "WEAVER_AUDIT_ON_FAILURE"),
        ("model", {"WEAVER_MODEL_PROVIDER": "stub"}, "WEAVER_MODEL_PROVIDER"),
        ("ratelimit", {"REDIS_UNIX_SOCKET": None}, "REDIS_HOST"),
        ("gateway", {"WEAVER_JWT_PUBLIC_KEY": None}, "WEAVER_JWT_PUBLIC_KEY"),
        ("gateway", {"WEAVER_TLS_DIR": None}, "WEAVER_TLS_DIR"),
        ("gateway", {"WEAVER_MTLS_ENABLED": "false"}, "WEAVER_MTLS_ENABLED"),
    ],
)
def test_production_refuses_by_the_variables_name(
    environment: dict[str, str], service: str, change: dict[str, str | None], variable: str
) -> None:
    changed = {name: value for name, value in (environment | change).items() if value is not None}
    command = [sys.executable, "-m", f"services.{service}"]
    done = subprocess.run(
        command, env=changed, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert variable in done.stderr
    assert "Traceback" not in done.stderr
